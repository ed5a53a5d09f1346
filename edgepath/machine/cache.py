"""What can be computed again is kept by a hash of all it depends on, so a name or a date never decides what is true."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO

from .workspace import workspace


def cache_folder() -> Path:
    """Return where edgepath keeps what it can compute again: `$EDGEPATH_CACHE`, else `~/.cache/edgepath`.

    For a user without a home, as in containers, it is a place that holds nothing and takes nothing.
    """
    if named := os.environ.get("EDGEPATH_CACHE"):
        return Path(named)
    try:
        return Path.home() / ".cache" / "edgepath"
    except RuntimeError:
        return Path(os.devnull) / "edgepath"


def cached_file(kind: str, depends_on: Mapping[str, object], suffix: str = ".npz") -> Path:
    """Return the file of one `kind` that belongs to `depends_on`, JSON-able; it may not be there."""
    key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
    return cache_folder() / kind / f"{key}{suffix}"


def code_hash(modules: Iterable[str]) -> str:
    """Return the hash of modules of edgepath, named like "program/fold": they change between versions, and in work."""
    package = Path(__file__).parents[1]
    return hashlib.sha256(b"".join((package / f"{name}.py").read_bytes() for name in modules)).hexdigest()


def store(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Keep what `write` writes as `path`; a cache that cannot be written costs time next time, and stops nothing."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with workspace(path) as aside:
            with open(aside.new, "wb") as file:
                write(file)
            os.replace(aside.new, path)

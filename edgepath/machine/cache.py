"""What can be computed again is kept by a hash of all it depends on, so a name or a date never decides what is true."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any


def cache_folder() -> Path:
    """Return where edgepath keeps what it can compute again: `$EDGEPATH_CACHE`, else `~/.cache/edgepath`."""
    return Path(os.environ.get("EDGEPATH_CACHE") or Path.home() / ".cache" / "edgepath")


def cached_file(kind: str, depends_on: Mapping[str, Any], suffix: str = ".npz") -> Path:
    """Return the file of one `kind` that belongs to `depends_on`, JSON-able; it may not be there."""
    key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
    return cache_folder() / kind / f"{key}{suffix}"


def store(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Keep what `write` writes as `path`; a cache that cannot be written costs time next time, and stops nothing."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
            try:
                write(file)
                file.flush()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise

"""The record beside each slide's file: what made it, from what, and what it holds. Resuming and checking rely on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..machine.tables import parse_json
from ..machine.writing import replacing
from .results import State

FOLDER = "slides"  # of the output, where the records lie
JOB = "job.json"  # of the output: one artifact, one way to cut
SAMPLED = 4  # tiles whose pixels stand for the slide's


def job_key(facts: Mapping[str, Any]) -> str:
    """Return the hash of what all files of an output have in common."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def claim(out: Path, facts: Mapping[str, Any]) -> str:
    """Make `out` the folder of one artifact and one way to cut, and return that job's key.

    Raises UsageError where it is already another's.
    """
    key = job_key(facts)
    try:
        (out / FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"slides: {out} cannot be written ({error.strerror})") from None
    known = read(out / JOB)
    if known is None:
        with replacing(out / JOB, "job") as partial:
            partial.write_text(json.dumps({"schema": 1, "key": key, **facts}, indent=2) + "\n", encoding="utf-8")
    elif known.get("key") != key:
        odd = [name for name in facts if known.get(name) != facts[name]]
        raise UsageError(
            f"slides: {out} holds features of another job ({', '.join(odd) or 'schema'} differ); give another --out"
        )
    return key


def record_of(out: Path, id: str) -> Path:
    """Return the file of a slide's record."""
    return out / FOLDER / f"{id}.json"


def read(path: Path) -> dict[str, Any] | None:
    """Return a record, None where there is none or none that is whole."""
    try:
        record = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def write(out: Path, id: str, record: Mapping[str, Any]) -> None:
    """Write a slide's record, complete or not at all."""
    path = record_of(out, id)
    with replacing(path, "record") as partial:
        partial.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def is_current(out: Path, id: str, key: str, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the record of a slide whose file is to be kept: of this job, of this slide, and whole; else None."""
    known = read(record_of(out, id))
    if known is None or known.get("job") != key or known.get("slide") != dict(identity):
        return None
    state: State = known.get("state", "failed")
    if state == "no tissue":
        return known
    return known if state in ("done", "partial") and is_whole(out, known) else None


def is_finished(out: Path, record: Mapping[str, Any], key: str) -> bool:
    """Tell whether what is asked for beside a slide's features was done with it, and its picture is there.

    A slide without tissue has none.
    """
    if record.get("state") == "no tissue":
        return True
    finished = record.get("finished")
    if not isinstance(finished, dict) or record.get("finished_key") != key:
        return False
    picture = finished.get("picture")
    return picture is None or (out / str(picture)).is_file()


def is_whole(out: Path, record: Mapping[str, Any]) -> bool:
    """Tell whether a record's files hold what they did when it was written."""
    files = record.get("files")
    return isinstance(files, dict) and bool(files) and all(file_sha256(out / name) == files[name] for name in files)


def file_sha256(path: Path) -> str | None:
    """Return a file's hash, None where it cannot be read."""
    try:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()
    except OSError:
        return None


def pixels_sha256(tiles: Mapping[int, np.ndarray]) -> str:
    """Return the hash of some tiles' pixels, in the order of their indices."""
    digest = hashlib.sha256()
    for index in sorted(tiles):
        digest.update(index.to_bytes(8, "little") + np.ascontiguousarray(tiles[index]).tobytes())
    return digest.hexdigest()


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Yield a name to write a slide's file under; it becomes `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, "features") as partial:
        yield partial

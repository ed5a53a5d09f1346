"""Is a folder of features complete, whole, and of one artifact?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError
from . import sidecar
from .listing import Entry
from .results import SlideRow, SlidesResult, row


def check_slides(out: Path, entries: Sequence[Entry] = ()) -> SlidesResult:
    """Return a row for every slide of a job's folder, and for those of `entries` that it lacks.

    A file that is not as its record says, or a record of another job, counts as failed. Raises UsageError where `out`
    is no such folder.
    """
    job = sidecar.read(out / sidecar.JOB)
    if job is None:
        raise UsageError(f"slides check {out}: holds no {sidecar.JOB}; give what `edgepath slides --out` wrote")
    known = {path.stem: path for path in sorted((out / sidecar.FOLDER).glob("*.json"))}
    rows = [_row(out, id, path, str(job.get("key"))) for id, path in known.items()]
    rows += [row(entry.id, "failed", "not embedded yet") for entry in entries if entry.id not in known]
    return {
        "kind": "slides",
        "name": str(job.get("name")),
        "bundle": str(job.get("bundle")),
        "ran_with": "",
        "out": str(out),
        "cautions": [],
        "notes": [],
        "slides": sorted(rows, key=lambda slide_row: slide_row["id"]),
    }


def _row(out: Path, id: str, path: Path, key: str) -> SlideRow:
    record = sidecar.read(path)
    if record is None:
        return row(id, "failed", "its record cannot be read")
    if record.get("job") != key:
        return row(id, "failed", "its record is of another job")
    state, message = record.get("state", "failed"), str(record.get("message", ""))
    if state in ("done", "partial") and not sidecar.is_whole(out, record):
        state, message = "failed", "its file is missing, cut off or altered"
    slide_row = row(id, state, message, tiles=int(record.get("tiles", 0)), bad=int(record.get("bad", 0)))
    slide_row["seconds"] = float(record.get("seconds", 0.0))
    if state in ("done", "partial"):
        slide_row["mpp"] = float(record["mpp"]["found"][0])
    return slide_row

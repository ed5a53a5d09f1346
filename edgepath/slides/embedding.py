"""One slide, from reading to its file."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..bundle.bundle import Bundle, Runner
from ..errors import DiskFull, EdgepathError, UsageError
from ..machine.packages import require_all, versions
from ..tiles.slides.cutting import CutSettings, CutSlide
from . import sidecar
from .layouts import LAYOUTS, Features
from .layouts.geojson import write_geojson
from .listing import Entry
from .preparing import Preparation, Prepare, Prepared
from .results import Finished, SlideRow, row
from .streaming import Stream

_BESIDE_NUMBERS = 1 << 16  # bytes that a file takes for names and structure
Advance = Callable[[int, int], None]
"""Is told how many of a slide's tiles are done, and how many there are."""


class Finish(Protocol):
    """What is done with a slide once it is embedded; `key` tells apart what was asked for, for going on later."""

    @property
    def key(self) -> str: ...

    def __call__(self, entry: Entry, cut: CutSlide, embeddings: np.ndarray, which: np.ndarray) -> Finished:
        """Return more for a slide's row, from embeddings (N, D) and which of its tiles they are of (N,)."""


@dataclass(frozen=True)
class Job:
    """What is done with every slide: an artifact, a way to cut, and where and how files are written.

    `bad_tiles` is the share of a slide's tiles that may be undecodable; with more, it failed.
    """

    bundle: Bundle
    out: Path
    settings: CutSettings
    layout: str = "trident"
    geojson: bool = False
    bad_tiles: float = 0.01
    batch: int = 8
    readers: int = 2

    def facts(self) -> dict[str, Any]:
        """Return what all files have in common, JSON-able."""
        settings = self.settings.to_json()
        del settings["mpp_of_slide"]  # a slide's own, from a manifest
        contract = self.bundle.manifest["contract"]
        return {
            "bundle": self.bundle.digest,
            "name": self.bundle.name,
            "weights": self.bundle.manifest["weights"]["sha256"],
            "recipe": self.bundle.target,
            "embedding": contract["embedding"],
            "dim": self.bundle.dim,
            "layout": self.layout,
            "settings": settings | {"bad_tiles": self.bad_tiles},
        }

    def check(self) -> None:
        """Raise UsageError for a layout that is not known, MissingRuntime without what writing it takes."""
        if self.layout not in LAYOUTS:
            raise UsageError(f"slides: layout {self.layout} is not known; known: {', '.join(LAYOUTS)}")
        if not 0 <= self.bad_tiles <= 1:
            raise UsageError(f"slides: --bad-tiles {self.bad_tiles}; give a share from 0 to 1")
        require_all(LAYOUTS[self.layout].needs, "slides")

    def prepare(self, entry: Entry, key: str, finish: Finish | None = None) -> Prepared:
        """Open, identify and cut a slide, and begin to read its tiles."""
        finish_key = None if finish is None else finish.key
        return Preparation(self.out, self.settings, key, finish_key, self._stream)(entry)

    def _stream(self, cut: CutSlide) -> Stream:
        return Stream(cut, self.batch, self.readers)


def embed_slide(
    entry: Entry, prepare: Prepare, job: Job, key: str, runner: Runner, say: Advance, finish: Finish | None = None
) -> SlideRow:
    """Embed a slide and write its files, unless they are there and current; return what became of it.

    What is wrong with a slide is said in its row, and in its record; a full disk raises, as does a bug.
    """
    prepared, start = prepare(), time.perf_counter()
    try:
        if prepared.error is not None:
            raise prepared.error
        return prepared.kept or _embed(entry, prepared, job, key, runner, say, finish)
    except DiskFull as error:
        raise DiskFull(
            f"slides: the disk is full ({job.out}, slide {entry.id}); free some, and run the same command again: "
            "finished slides are kept"
        ) from error
    except EdgepathError as error:
        seconds = round(prepared.seconds + time.perf_counter() - start, 3)
        failed = row(entry.id, "failed", str(error), seconds=seconds)
    finally:
        prepared.close()
    sidecar.write(job.out, entry.id, {"job": key, "state": "failed", "message": failed["message"]})
    return failed


def _embed(
    entry: Entry, prepared: Prepared, job: Job, key: str, runner: Runner, say: Advance, finish: Finish | None
) -> SlideRow:
    start, stream = time.perf_counter(), prepared.tiles
    assert stream is not None
    slide = stream.cut
    embeddings, which, sampled = _run(stream, runner, entry.id, say)
    slide_row = _row(entry, slide, stream, job, len(which))
    record: dict[str, Any] = {
        "job": key,
        "slide": prepared.identity,
        "state": slide_row["state"],
        "tiles": slide_row["tiles"],
        "bad": slide_row["bad"],
        "message": slide_row["message"],
        "cautions": slide_row["cautions"],
        "mpp": _scale_facts(slide),
        "pixels_sha256": sidecar.pixels_sha256(sampled),
        "ran_with": runner.runtime,
        "versions": versions(),
        "files": {},
    }
    if len(which) and slide_row["state"] != "failed":
        record["files"] = _write(entry, job, slide, embeddings, which)
        if finish is not None:
            record["finished"] = finish(entry, slide, embeddings, which)
            record["finished_key"] = finish.key
            slide_row.update(record["finished"])
    slide_row["seconds"] = round(prepared.seconds + time.perf_counter() - start, 3)
    sidecar.write(job.out, entry.id, record | {"seconds": slide_row["seconds"]})
    return slide_row


def _run(stream: Stream, runner: Runner, id: str, say: Advance) -> tuple[np.ndarray, np.ndarray, dict[int, np.ndarray]]:
    """Return embeddings, which tiles they are of, and the pixels of a few that stand for the slide."""
    rows, which, total = [], [], len(stream.cut)
    wanted = {total * i // sidecar.SAMPLED for i in range(sidecar.SAMPLED)} if total else set()
    sampled: dict[int, np.ndarray] = {}
    say(0, total)
    for indices, tiles in stream:
        rows.append(runner(tiles))
        which += indices
        sampled |= {index: tiles[place].copy() for place, index in enumerate(indices) if index in wanted}
        say(len(which) + len(stream.bad), total)
    embeddings = np.concatenate(rows).astype(np.float32) if rows else np.empty((0, 0), np.float32)
    if not np.isfinite(embeddings).all():
        raise EdgepathError(f"slide {id}: an embedding is not finite; check the bundle with `edgepath verify`")
    return embeddings, np.array(which, np.int64), sampled


def _row(entry: Entry, slide: CutSlide, stream: Stream, job: Job, good: int) -> SlideRow:
    slide_row = row(entry.id, "done", tiles=good, bad=len(stream.bad))
    slide_row["mpp"], slide_row["cautions"] = slide.scale.slide_mpp[0], list(slide.scale.cautions)
    if slide.tissue.unread:
        slide_row["cautions"].append(f"{slide.tissue.unread} regions could not be decoded while tissue was looked for")
    total = good + len(stream.bad)
    if not total:
        slide_row["state"] = "no tissue"
        slide_row["message"] = "no tile holds enough tissue"
    elif len(stream.bad) > job.bad_tiles * total:
        slide_row["state"] = "failed"
        first = next(iter(stream.bad.values()))
        slide_row["message"] = (
            f"{len(stream.bad)} of {total} tiles cannot be decoded, {job.bad_tiles:.1%} may be: {first}"
        )
    elif stream.bad:
        slide_row["state"] = "partial"
        slide_row["message"] = f"{len(stream.bad)} of {total} tiles cannot be decoded"
    return slide_row


def _scale_facts(slide: CutSlide) -> dict[str, Any]:
    scale = slide.scale
    return {
        "asked": scale.mpp,
        "found": list(scale.slide_mpp),
        "source": scale.source,
        "level": scale.level,
        "downsample": scale.downsample,
        "resampling": scale.resampling,
        "tile_level0": [scale.width, scale.height],
    }


def _write(entry: Entry, job: Job, slide: CutSlide, embeddings: np.ndarray, which: np.ndarray) -> dict[str, str]:
    """Write a slide's files; return their hashes by name below the output.

    Raises DiskFull, before anything is written where it is clear: HDF5 cannot close a file that it has no room for.
    """
    if shutil.disk_usage(job.out).free < embeddings.nbytes + _BESIDE_NUMBERS:
        raise DiskFull(f"{job.out} has no room for {embeddings.nbytes / 1e6:.1f} MB")
    layout, coords = LAYOUTS[job.layout], slide.coords[which]
    features = Features(
        entry.id,
        job.bundle.name,
        embeddings,
        coords,
        slide.scale,
        job.settings.overlap,
        slide.slide.width,
        slide.slide.height,
    )
    paths = [job.out / layout.folder(features) / f"{entry.id}{layout.suffix}"]
    with sidecar.aside(paths[0]) as partial:
        layout.write(partial, features)
    if job.geojson:
        paths.append(job.out / "geojson" / f"{entry.id}.geojson")
        with sidecar.aside(paths[1]) as partial:
            write_geojson(partial, slide, coords)
    return {path.relative_to(job.out).as_posix(): str(sidecar.file_sha256(path)) for path in paths}

"""Embeddings of slides on disk, as plism-benchmark lays them out: `<folder>/<extractor>/<slide>/features.npy`.

float32 (N, 3 + D), the first columns level, x and y. A slide that is there already is not embedded again, whichever of
the two tools wrote it; where only some places are asked for, the file holds only those, which plism-benchmark cannot
read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..bundle.running import embed_all
from ..errors import EdgepathError, UsageError
from ..machine.arrays import map_npy
from ..machine.tables import read_json
from ..machine.writing import replacing
from ..tiles.images import tile_sha256
from .slides import Slide, SlideSet

Embed = Callable[[np.ndarray], np.ndarray]
_BATCH = 64  # tiles held at once: a runtime's threads that wait slow the other's, so they change seldom
_LARGEST = 1 << 16
ORIGIN = "origin.json"
"""Beside `features.npy`: a tile of the slide and the hash of its pixels, as slides of one name may differ."""


@dataclass(frozen=True)
class Extractor:
    """A model, the folder that keeps its embeddings, and what counts its tiles."""

    run: Embed
    folder: Path
    advance: Callable[[int], None] = lambda _: None


def embed_slides(
    extractors: Sequence[Extractor], slides: SlideSet, dim: int
) -> tuple[list[dict[str, Path]], list[int]]:
    """Embed every slide with every model whose folder does not hold it yet; both models see a tile while it is held.

    Returns for each model every slide's file, and how many were there already. Raises UsageError for a file that is of
    other places or of another dimension.
    """
    files: list[dict[str, Path]] = [{} for _ in extractors]
    kept = [0] * len(extractors)
    for slide in slides.slides:
        missing = []
        for number, extractor in enumerate(extractors):
            path = files[number][slide.name] = extractor.folder / slide.name / "features.npy"
            if path.exists():
                _check_kept(path, slide, dim)
                kept[number] += 1
                extractor.advance(len(slide.places))
            else:
                missing.append((extractor, path))
        if missing:
            _embed(missing, slide)
    return files, kept


def load_features(path: Path, slide: Slide, dim: int) -> np.ndarray:
    """Return a slide's embeddings, float32 (N, `dim`), of the slide's places in their order."""
    try:
        table = map_npy(path)
    except ValueError as error:
        raise UsageError(f"features {path}: cannot be read ({error}); remove it, and it is made again") from None
    if table.ndim != 2 or table.shape[1] != 3 + dim:
        raise UsageError(f"features {path}: {table.shape} numbers; this bundle's have {dim} a tile and 3 for its place")
    places = np.asarray(table[:, :3])
    wanted = slide.places.astype(places.dtype)
    if places.shape == wanted.shape and np.array_equal(places, wanted):
        return np.asarray(table[:, 3:], np.float32)
    # plism-benchmark writes all 16,278 tiles of a slide and chooses rows later.
    rows = {tuple(place): row for row, place in enumerate(places.tolist())}
    indices = [rows.get(tuple(place)) for place in wanted.tolist()]
    if None in indices:
        missing = sum(row is None for row in indices)
        raise UsageError(
            f"features {path}: lacks {missing} of the {len(indices)} places asked for; remove it, or give "
            "another folder"
        )
    return np.asarray(table[np.array(indices, int), 3:], np.float32)


def _check_kept(path: Path, slide: Slide, dim: int) -> None:
    """See that an earlier run's file is of this slide: its places, and the tile it was written with, if one is known.

    plism-benchmark writes no such tile.
    """
    if bad := int((~np.isfinite(load_features(path, slide, dim)).all(1)).sum()):
        raise UsageError(f"features {path}: {bad} embeddings are not finite; remove it, and it is made again")
    origin = path.with_name(ORIGIN)
    if not origin.exists():
        return
    try:
        known = read_json(origin, _LARGEST)
        key, sha256 = str(known["tile"]), str(known["sha256_pixels"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"features {path}: {ORIGIN} beside it cannot be read ({error!r}); remove both") from None
    if key not in slide.tiles.keys or tile_sha256(slide.tiles.load(key)) != sha256:
        raise UsageError(
            f"features {path}: made from another {key} than this slide's; give another folder, or remove the slide's"
        )


def _embed(missing: Sequence[tuple[Extractor, Path]], slide: Slide) -> None:
    """Embed a slide with the models that lack it, and write their files."""
    rows: list[list[np.ndarray]] = [[] for _ in missing]
    for batch in slide.tiles.batches(_BATCH):
        for (extractor, _), parts in zip(missing, rows, strict=True):
            parts.append(embed_all(extractor.run, batch.pixels, extractor.advance))
    for (_, path), parts in zip(missing, rows, strict=True):
        _write(path, slide, np.concatenate(parts))


def _write(path: Path, slide: Slide, embeddings: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(embeddings).all(1))
    if len(bad):
        raise EdgepathError(f"robustness: the embedding of {slide.tiles.keys[bad[0]]} on {slide.name} is not finite")
    table = np.concatenate([slide.places.astype(np.float32), embeddings.astype(np.float32)], 1)
    first = slide.tiles.keys[0]
    origin = {"tile": first, "sha256_pixels": slide.tiles.digests[first]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"features {path}: cannot be written ({error.strerror})") from None
    with replacing(path.with_name(ORIGIN), "features") as partial:
        partial.write_text(json.dumps(origin) + "\n", encoding="utf-8")
    with replacing(path, "features") as partial, open(partial, "wb") as file:
        np.save(file, table)

"""What a frozen model's class tokens are good for on real tiles, beside random weights and a colour histogram.

The sets are those of a folder of tiles laid out as `SETS` says; the demo model's card is made of these figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgepath.quality.classifiers import cross_validate
from edgepath.tiles.source import TileSource

from .retrieval import retrieve

Embed = Callable[[np.ndarray], np.ndarray]
LABELLED = ("osteosarcoma", "oral_oscc")
"""Folders with a subfolder a class."""
REGISTERED = "scanners4_registered_cyto"
"""A folder with a subfolder a scanner; a file of one name is the same place in each."""
_BATCH = 16


def evaluate(embedders: Mapping[str, Embed], source: TileSource) -> dict[str, dict[str, Any]]:
    """Return every embedder's figures on `source`, whose keys begin with the folders' names; JSON-able.

    An embedder takes uint8 (N, S, S, 3) and returns float32 (N, D). Per labelled folder: balanced accuracy of 5 nearest
    neighbours and of a linear probe, 5-fold, with 95 % intervals; on the registered one: cosine and retrieval of the
    same place under another scanner.
    """
    return {name: _figures(embed_all(embed, source), source.keys) for name, embed in embedders.items()}


def colour_histogram(tiles: np.ndarray) -> np.ndarray:
    """Describe tiles, uint8 (N, S, S, 3), by their colours only: square roots of 32 bins a channel, float32 (N, 96)."""
    rows = []
    for tile in tiles:
        counts = [np.bincount(tile[..., channel].ravel() // 8, minlength=32) for channel in range(3)]
        rows.append(np.sqrt(np.concatenate(counts) / tile[..., 0].size))
    return np.array(rows, np.float32)


def score_rows(figures: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return a row an embedder, as `HEADER` names its columns."""
    rows = []
    for name, of in figures.items():
        cells = [_interval(of[folder][method]) for folder in LABELLED for method in ("knn", "linear")]
        twin = of[REGISTERED]
        rows.append([name, *cells, *(f"{twin[key]:.3f}" for key in ("cosine", "top1", "top10"))])
    return rows


HEADER = ["", *(f"{folder} {way}" for folder in LABELLED for way in ("kNN-5", "linear")), "cosine", "top-1", "top-10"]


def embed_all(embed: Embed, source: TileSource) -> np.ndarray:
    return np.concatenate([embed(batch.pixels) for batch in source.batches(_BATCH)])


def _figures(embeddings: np.ndarray, keys: Sequence[str]) -> dict[str, Any]:
    paths = [Path(key) for key in keys]
    found: dict[str, Any] = {}
    for folder in LABELLED:
        rows = [i for i, path in enumerate(paths) if path.parts[0] == folder]
        labels = [paths[i].parts[1] for i in rows]
        methods = ("knn", "linear")
        found[folder] = {m: asdict(cross_validate(embeddings[rows], labels, method=m)[0]) for m in methods}  # type: ignore[arg-type]
    by_scanner: dict[str, list[np.ndarray]] = {}
    places: dict[str, list[str]] = {}
    for path, embedding in zip(paths, embeddings, strict=True):
        if path.parts[0] == REGISTERED:
            by_scanner.setdefault(path.parts[1], []).append(embedding)
            places.setdefault(path.parts[1], []).append(path.name)
    assert len({tuple(names) for names in places.values()}) == 1, "each scanner has the same places, in one order"
    found[REGISTERED] = retrieve({name: np.stack(rows) for name, rows in by_scanner.items()}).to_json()
    return found


def _interval(score: Mapping[str, Any]) -> str:
    return f"{score['balanced_accuracy']:.3f} ({score['low']:.2f} to {score['high']:.2f})"

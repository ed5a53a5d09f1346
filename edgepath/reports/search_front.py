"""What a search found, as a table and as a picture: drift over the share of INT8, and that of every layer alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..searching import FIGURES
from .plots import (
    BLUE,
    VERMILION,
    Line,
    Panel,
    draw_panels,
)

HEADER = ["kept in floating point", "INT8 share of multiply-adds", "cosine mean", "1 %", "budget"]


def point_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return what was measured as rows of strings, under `HEADER`."""
    rows = []
    for point in result["points"]:
        met = all(point[key] >= least for key, least in result["budget"].items())
        figures = [f"{point[key]:.6f}" for key in FIGURES]
        rows.append([str(point["kept"]), f"{point['int8_share']:.1%}", *figures, "met" if met else "missed"])
    return rows


def draw_search(result: Mapping[str, Any], path: Path) -> None:
    """Draw the front, and each layer's drift alone, as a PNG."""
    points, layers = result["points"][::-1], result["layers"]
    share = [100 * point["int8_share"] for point in points]
    lines = [Line(_WORDS[key], [1 - point[key] for point in points], colour) for key, colour in _COLOURS.items()]
    lines += [
        Line(f"budget, {_WORDS[key]}", [1 - least] * len(points), _COLOURS[key], dashed=True)
        for key, least in result["budget"].items()
    ]
    drift, order = [Line("drift", [layer["drift"] for layer in layers])], range(1, len(layers) + 1)
    far = "1 - cosine (0: no drift)"
    draw_panels(
        [
            Panel("Drift by how much is INT8", "multiply-adds in INT8, %", far, share, lines),
            Panel("Drift of each layer alone in INT8", "layer, in the order they are kept", far, order, drift),
        ],
        path,
    )


_WORDS = {"cosine_mean": "mean over tiles", "cosine_p01": "worst tile of a hundred"}
_COLOURS = {"cosine_mean": BLUE, "cosine_p01": VERMILION}

"""What a search found, as a table and as a picture: drift over the share of INT8, and that of every layer alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..searching import FIGURES
from .plots import Panel, draw_panels

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
    points, layers = result["points"], result["layers"]
    share = [100 * point["int8_share"] for point in reversed(points)]
    lines = [(key, [1 - point[key] for point in reversed(points)]) for key in FIGURES]
    lines += [(f"budget {key}", [1 - least] * len(points)) for key, least in result["budget"].items()]
    draw_panels(
        [
            Panel("1 - cosine over the share of multiply-adds in INT8, %", share, lines),
            Panel(
                "1 - cosine of each layer alone in INT8, in the order they are kept",
                list(range(1, len(layers) + 1)),
                [("drift", [layer["drift"] for layer in layers])],
            ),
        ],
        path,
    )

"""Draw what `edgepath robustness --json` found for several bundles of one model as one SVG, as in the README.

    edgepath robustness build/demo-openvino-int8 --tiles 16 --features build/features --json > int8.json
    python benchmarks/robustness_plot.py int8.json fp16.json --out docs/pictures/robustness-demo.svg

A dot is the median over pairs of slides, a bar reaches from the lower to the upper quartile. `--features` keeps the
full-precision embeddings, which all bundles of the model share.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from edgepath.quality.both_models import ARTIFACT, FULL
from edgepath.reports.plots import BLUE, GREY, VERMILION, picture

GROUPS = {"scanner": "scanner only", "staining": "staining only", "both": "both"}
FIGURES = {
    "cosine": "cosine of a location's two embeddings",
    "top1": "fraction of tiles whose nearest tile is their matching tile",
}
COLOURS = {"full": GREY, "fp16": BLUE, "int8": VERMILION}
Row = tuple[str, str, Sequence[Mapping[str, Any]]]


def quartiles(pairs: Sequence[Mapping[str, Any]], group: str, figure: str) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile of a figure over a group's pairs."""
    low, median, high = np.quantile([pair[figure] for pair in pairs if pair["group"] == group], (0.25, 0.5, 0.75))
    return float(low), float(median), float(high)


def draw(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw results that share their slides and their full-precision model. Raises SystemExit for others."""
    first = results[0]
    for other in results[1:]:
        if other["slides"] != first["slides"] or other["figures"][FULL] != first["figures"][FULL]:
            raise SystemExit(
                f"{other['name']} was not measured on the slides, or not with the model, of {first['name']}"
            )
    shown: list[Row] = [("full precision", "full", first["pairs"][FULL])]
    shown += [(_target(one), str(one["name"]).rpartition("-")[2], one["pairs"][ARTIFACT]) for one in results]
    slides = first["slides"]
    what = f"{slides['places']} locations on {slides['slides']} slides"
    with picture(path, 9, 1.0 + 0.24 * len(GROUPS) * len(shown)) as figure:
        for ax, (key, title) in zip(figure.subplots(1, len(FIGURES), sharey=True), FIGURES.items(), strict=True):
            _panel(ax, key, title, shown)
        figure.supxlabel(f"{slides['name']}: {what}; medians and quartiles over pairs", fontsize="small")


def _panel(ax: Axes, figure: str, title: str, shown: Sequence[Row]) -> None:
    """Draw a figure: for each group of pairs, a row a model."""
    names: list[str] = []
    for group, word in GROUPS.items():
        for name, kind, pairs in shown:
            low, median, high = quartiles(pairs, group, figure)
            row, colour = len(names), COLOURS.get(kind, BLUE)
            ax.plot([low, high], [row, row], color=colour)
            ax.plot([median], [row], "o", color=colour, markerfacecolor="white" if kind == "full" else colour)
            names.append(f"{word}, {name}")
    start = min(0.9, math.floor(10 * ax.dataLim.x0) / 10)
    ax.set(xlabel=title, xlim=(start, 1 + 0.03 * (1 - start)))
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)


def _target(result: Mapping[str, Any]) -> str:
    """The bundle's target: the last two parts of its name."""
    return "-".join(str(result["name"]).split("-")[-2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "results", nargs="+", type=Path, help="what edgepath robustness --json printed, a file a bundle"
    )
    parser.add_argument("--out", type=Path, required=True, help="the SVG")
    options = parser.parse_args()
    draw([json.loads(path.read_text(encoding="utf-8")) for path in options.results], options.out)


if __name__ == "__main__":
    main()

"""Draw what `edgepath robustness --json` found for several bundles of one model as one SVG, as in the README.

    edgepath robustness build/demo-openvino-int8 --tiles 16 --features build/features --json > int8.json
    python benchmarks/robustness_plot.py int8.json fp16.json --out docs/robustness-demo.svg

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

from edgepath.machine.writing import replacing
from edgepath.quality.robustness import ARTIFACT, FULL
from edgepath.reports.page.elements import escape
from edgepath.reports.page.lines import Interval, intervals

GROUPS = {"scanner": "scanner only", "staining": "staining only", "both": "both"}
FIGURES = {"cosine": "cosine of a place's two embeddings", "top1": "share of tiles whose nearest tile is their twin"}
WIDTH, GAP, HEAD, FOOT = 400, 24, 8, 30
STYLE = """
text { font: 10px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; fill: #59636e; }
text.title { fill: #1b1f24; font-size: 11px; font-weight: 600; }
.grid { stroke: #d8dee4; }
line.full, circle.full { stroke: #59636e; stroke-width: 2; } circle.full { fill: #ffffff; }
line.fp16, circle.fp16 { stroke: #0072b2; stroke-width: 2; } circle.fp16 { fill: #0072b2; }
line.int8, circle.int8 { stroke: #c65300; stroke-width: 2; } circle.int8 { fill: #c65300; }
"""


def quartiles(pairs: Sequence[Mapping[str, Any]], group: str, figure: str) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile of a figure over a group's pairs."""
    low, median, high = np.quantile([pair[figure] for pair in pairs if pair["group"] == group], (0.25, 0.5, 0.75))
    return float(low), float(median), float(high)


def draw(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the plot of results that share their slides and their full-precision model."""
    first = results[0]
    for other in results[1:]:
        if other["slides"] != first["slides"] or other["figures"][FULL] != first["figures"][FULL]:
            raise SystemExit(
                f"{other['name']} was not measured on the slides, or not with the model, of {first['name']}"
            )
    panels, height = "", 0.0
    for number, (figure, title) in enumerate(FIGURES.items()):
        rows = []
        for group, word in GROUPS.items():
            shown = [("full precision", "full", first["pairs"][FULL])]
            shown += [(_target(one), one["name"].rpartition("-")[2], one["pairs"][ARTIFACT]) for one in results]
            for name, kind, pairs in shown:
                low, median, high = quartiles(pairs, group, figure)
                rows.append(Interval(f"{word}, {name}", kind, median, low, high))
        start = math.floor(10 * min(row.low for row in rows)) / 10
        svg = intervals(title, rows, start, width=WIDTH)
        height = float(svg.split('viewBox="')[1].split('"')[0].split()[3])
        left = GAP + number * (WIDTH + GAP)
        at = f'<svg x="{left}" y="{HEAD}" width="{WIDTH}" height="{height:g}" overflow="visible" '
        panels += svg.replace("<svg ", at, 1)
    wide, high = len(FIGURES) * (WIDTH + GAP) + GAP, height + HEAD + FOOT
    slides = first["slides"]
    said = f"{slides['name']}: {slides['places']} places on {slides['slides']} slides; medians and quartiles over pairs"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high:g}" width="{wide}" height="{high:g}">\n'
        f'<style>{STYLE}</style>\n<rect width="{wide}" height="{high:g}" fill="#ffffff"/>\n{panels}'
        f'<text x="{GAP}" y="{high - 10:g}">{escape(said)}</text>\n</svg>\n'
    )


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
    plot = draw([json.loads(path.read_text(encoding="utf-8")) for path in options.results])
    with replacing(options.out, "plot") as partial:
        partial.write_text(plot, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Draw the latencies that the suites kept in `figures.json` as one SVG, as in the README.

    python benchmarks/latency_plot.py benchmarks/results/epyc-avx2.json --out docs/pictures/latency.svg

A panel is a batch size, its axis milliseconds a tile; a dot is the median call, a line reaches from it to the 90th
percentile. INT8 of edgepath is vermilion, its other artifacts blue, everything else grey.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from edgepath.reports.plots import BLUE, GREY, VERMILION, picture

KEY = re.compile(r"latency, batch (\d+)")
KINDS = {"int8": VERMILION, "other": BLUE, "peer": GREY}
WORDS = {"int8": "edgepath, INT8", "other": "edgepath, FP32 or FP16", "peer": "others"}


def kind(name: str) -> str:
    """Return what a contender is: INT8 of edgepath, another artifact of its, or a peer."""
    ours = re.fullmatch(r"(openvino|onnx)-(\w+)(-cls)?", name)
    return "peer" if ours is None else "int8" if ours[2] == "int8" else "other"


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """Draw contenders in the order of their latency at the first batch size. Raises SystemExit for none."""
    batches = {int(found[1]): value for key, value in figures.items() if (found := KEY.fullmatch(key))}
    if not batches:
        raise SystemExit("these figures hold no latencies: run make bench ARGS=benchmarks/test_figures.py")
    first = batches[min(batches)]["ms"]
    names = sorted(first, key=lambda name: float(first[name]["p50"]))
    machine = figures["machine"]
    with picture(path, 2 + 2.4 * len(batches), 1.3 + 0.22 * len(names)) as figure:
        axes = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
        for ax, batch in zip(axes, sorted(batches), strict=True):
            _panel(ax, batch, batches[batch], names)
        for label, name in zip(axes[0].get_yticklabels(), names, strict=True):
            label.set_color(KINDS[kind(name)])
        handles = [Line2D([], [], color=colour, marker="o", label=WORDS[of]) for of, colour in KINDS.items()]
        figure.legend(handles=handles, loc="outside upper left", ncols=3)
        on = f"{machine['processor']} ({machine['with']}), {machine['threads']} threads"
        how = "a dot is the median call, its line ends at the 90th percentile"
        figure.supxlabel(f"{figures['model']}; {on}; timed in turn; {how}", fontsize="small")


def _panel(ax: Axes, batch: int, measured: Mapping[str, Any], names: Sequence[str]) -> None:
    """Draw one batch size: an axis from 0, a row for each contender that was timed at this size."""
    for row, name in enumerate(names):
        if name in measured["ms"]:
            median, high = (measured["ms"][name][p] / batch for p in ("p50", "p90"))
            ax.plot(
                [median, high], [row, row], color=KINDS[kind(name)], marker="o", markevery=[0], gid=f"{batch} {name}"
            )
            ax.annotate(f"{median:.0f}", (high, row), (7, 0), textcoords="offset points", va="center")
    ax.set(title=f"batch {batch} (n = {measured['n']})", xlabel="ms a tile")
    ax.set_yticks(range(len(names)), names)
    ax.set_xlim(0, 1.25 * max(ax.dataLim.x1, 0.0))
    ax.set_ylim(len(names) - 0.5, -0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path, help="a figures.json of the suites")
    parser.add_argument("--out", type=Path, required=True, help="the SVG")
    options = parser.parse_args()
    draw(json.loads(options.figures.read_text(encoding="utf-8")), options.out)


if __name__ == "__main__":
    main()

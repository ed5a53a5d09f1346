"""Draw the latencies that the suites kept in `figures.json` as one SVG, as in the README.

    python benchmarks/latency_plot.py benchmarks/results/epyc-avx2.json --out docs/latency.svg

A panel is a batch size, its axis milliseconds a tile; a dot is the median call, a line reaches from it to the 95th
percentile. INT8 of edgepath is orange, its other artifacts blue, everything else grey.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgepath.machine.writing import replacing
from edgepath.reports.page.elements import escape

KEY = re.compile(r"latency, batch (\d+)")
LABELS, PANEL, GAP, ROW, HEAD = 190, 200, 26, 17, 34
KINDS = {"int8": "#c65300", "other": "#0072b2", "peer": "#59636e"}
STYLE = """
text { font: 10px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; fill: #59636e; }
text.title { fill: #1b1f24; font-size: 11px; font-weight: 600; } text.end { text-anchor: end; }
text.int8 { fill: #c65300; font-weight: 600; } .grid { stroke: #d8dee4; }
"""


def kind(name: str) -> str:
    """Return what a contender is: INT8 of edgepath, another artifact of its, or a peer."""
    ours = re.fullmatch(r"(openvino|onnx)-(\w+)(-cls)?", name)
    return "peer" if ours is None else "int8" if ours[2] == "int8" else "other"


def draw(figures: Mapping[str, Any]) -> str:
    """Return the plot; contenders in the order of their latency at the first batch size. Raises SystemExit for none."""
    batches = {int(found[1]): value for key, value in figures.items() if (found := KEY.fullmatch(key))}
    if not batches:
        raise SystemExit("these figures hold no latencies: run make bench ARGS=benchmarks/test_figures.py")
    first = batches[min(batches)]["ms"]
    names = sorted(first, key=lambda name: float(first[name]["p50"]))
    high, body = HEAD + len(names) * ROW + 40, ""
    for row, name in enumerate(names):
        y = HEAD + row * ROW + 12
        body += f'<text class="end {kind(name)}" x="{LABELS - 8}" y="{y}">{escape(name)}</text>\n'
    for number, batch in enumerate(sorted(batches)):
        body += _panel(batch, batches[batch], names, LABELS + number * (PANEL + GAP))
    wide = LABELS + len(batches) * (PANEL + GAP)
    machine = figures["machine"]
    said = f"{figures['model']}; {machine['processor']} ({machine['with']}), {machine['threads']} threads; in turn"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}">\n'
        f'<style>{STYLE}</style>\n<rect width="{wide}" height="{high}" fill="#ffffff"/>\n{body}'
        f'<text x="8" y="{high - 8}">{escape(said)}</text>\n</svg>\n'
    )


def _panel(batch: int, measured: Mapping[str, Any], names: list[str], left: int) -> str:
    """Return one batch size: a title, an axis from 0, a row for each contender."""
    each = {name: [measured["ms"][name][p] / batch for p in ("p50", "p95")] for name in measured["ms"]}
    most = 1.18 * max(high for _, high in each.values())
    bottom = HEAD + len(names) * ROW
    body = f'<text class="title" x="{left}" y="14">batch {batch}: ms a tile (n = {measured["n"]})</text>\n'
    body += f'<line class="grid" x1="{left}" x2="{left}" y1="{HEAD}" y2="{bottom}"/>\n'
    for row, name in enumerate(names):
        if name not in each:  # not timed at this size
            continue
        median, high = each[name]
        at, to = (left + PANEL * value / most for value in (median, high))
        y, colour = HEAD + row * ROW + 9, KINDS[kind(name)]
        body += f'<line x1="{left}" x2="{at:.1f}" y1="{y}" y2="{y}" stroke="#d8dee4"/>\n'
        body += f'<line x1="{at:.1f}" x2="{to:.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>\n'
        body += f'<circle cx="{at:.1f}" cy="{y}" r="3.5" fill="{colour}"/>\n'
        body += f'<text x="{to + 7:.1f}" y="{y + 3}">{median:.0f}</text>\n'
    return body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path, help="a figures.json of the suites")
    parser.add_argument("--out", type=Path, required=True, help="the SVG")
    options = parser.parse_args()
    plot = draw(json.loads(options.figures.read_text(encoding="utf-8")))
    with replacing(options.out, "plot") as partial:
        partial.write_text(plot, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Results as pictures: what `compare`, `debug`, `curves`, `search` and `bench` found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..checks.candidate import FIGURES
from ..checks.results import Comparison, Debugging
from ..quality.both_models import ARTIFACT, FULL
from ..quality.results import Curves
from ..searching import Searched
from ..speed.results import Bench, Timed
from .plots import BLUE, GREY, VERMILION, Line, Panel, draw_panels, picture, plain_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NEAR, _FAR = 1e-6, 1e-2  # of 1 - cosine: lightest at a millionth and less, darkest at a hundredth and more
_LAYERS, _BLOCKS = "layer, in the order they run in", "transformer block"
_MOST_HEADROOM = 2.0**40
_SHOWN = (
    ("cosine", "cosine to the tile as it is", BLUE, False),
    ("own", "fraction whose nearest tile is their own", VERMILION, True),
)
_WORDS = {"cosine_mean": "mean over tiles", "cosine_p01": "worst tile of a hundred"}
_COLOURS = {"cosine_mean": BLUE, "cosine_p01": VERMILION}


def draw_pairs(result: Comparison, path: Path) -> None:
    """Draw what `compare` returned as a PNG: 1 - mean cosine of every pair. Raises UsageError where it cannot."""
    names, source = list(result["bundles"]), result["source"]
    apart = np.full((len(names), len(names)), np.nan)
    for pair in result["pairs"]:
        first, second = (names.index(name) for name in pair["of"])
        apart[first, second] = apart[second, first] = max(0.0, 1 - pair["cosine_mean"])
    with picture(path, 6.5 + 0.9 * len(names), 3.2 + 0.7 * len(names)) as figure:
        from matplotlib.colors import LogNorm

        ax = figure.subplots()
        scale = LogNorm(_NEAR, _FAR, clip=True)
        image = ax.imshow(np.maximum(apart, _NEAR), cmap="Blues", norm=scale, aspect="auto")
        for (down, across), drift in np.ndenumerate(apart):
            if np.isfinite(drift):
                ink = "white" if scale(drift) > 0.6 else "black"
                ax.text(across, down, f"{drift:.1e}", ha="center", va="center", color=ink)
        ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
        ax.set_yticks(range(len(names)), names)
        ax.grid(visible=False)
        ax.set_facecolor("#ebebeb")
        figure.suptitle(f"How far bundles lie apart\nmean over {source['count']} tiles of {source['name'][-60:]}")
        bar = figure.colorbar(image, extend="both", label="1 - cosine (0: the same)")
        plain_numbers(bar.ax.yaxis)
        figure.supxlabel(f"noise floor of the programs themselves: {result['noise_floor']:.1e}", fontsize="medium")


def draw_debug(result: Debugging, path: Path) -> None:
    """Draw layers and blocks as a PNG: where noise is made, how it adds up, how near to FP16's end values come."""
    layers, blocks = result["layers"], result["blocks"]
    places, depth = range(len(layers)), [row["block"] for row in blocks]
    headroom = [min(row["fp16_headroom"], _MOST_HEADROOM) for row in blocks]
    inputs = [
        Line("its largest channel", [max(row["input_max"], 2**-24) for row in layers]),
        Line("its median channel", [max(row["input_median_channel"], 2**-24) for row in layers]),
    ]
    room = [Line("headroom", headroom), Line("1: FP16 overflows", [1.0] * len(blocks), colour=GREY, dashed=True)]
    panels = [
        Panel("What goes into each layer", _LAYERS, "largest value", places, inputs, log=True),
        Panel("Room to FP16's largest number, 65504", _BLOCKS, "65504 / largest value", depth, room, log=True),
    ]
    of_layers, of_blocks = ([row["sqnr_db"] for row in layers], [row["sqnr_db"] for row in blocks])
    if None not in of_layers + of_blocks:
        signal = "SQNR, dB (more is better)"
        alone, after = ([Line("SQNR", [float(value or 0) for value in of])] for of in (of_layers, of_blocks))
        panels = [
            Panel("Signal to quantization noise of each layer alone", _LAYERS, signal, places, alone),
            Panel("Signal to quantization noise after each block", _BLOCKS, signal, depth, after),
            *panels,
        ]
    draw_panels(panels, path, columns=2, heading="Where an artifact's drift comes from")


def draw_curves(result: Curves, path: Path) -> None:
    """Draw all curves as a PNG, a panel each."""
    every = [degree[key] for c in result["curves"] for of in c["figures"].values() for degree in of for key in degree]
    low, panels = min(0.9, *every), []
    for curve in result["curves"]:
        lines = [
            Line(f"{word}, {name}", [degree[key] for degree in curve["figures"][name]], colour, broad, dashed)
            for key, word, colour, dashes in _SHOWN
            for name, broad, dashed in ((FULL, True, False), (ARTIFACT, False, dashes))
        ]
        panels.append(Panel(curve["name"], curve["unit"], "cosine or fraction", curve["degrees"], lines, low, 1.0))
    source = result["source"]
    heading = f"{result['name']}: {source['count']} tiles of {source['name']}, degraded step by step"
    draw_panels(panels, path, columns=2, heading=heading)


def draw_search(result: Searched, path: Path) -> None:
    """Draw the front, of programs and of the artifacts that were built, and each layer's drift alone, as a PNG."""
    points, layers = result["points"][::-1], result["layers"]
    share = [100 * point["int8_share"] for point in points]
    lines = []
    for key in FIGURES:
        ran = [None if point["artifact"] is None else point["artifact"][key] for point in points]
        artifact = [np.nan if cosine is None else 1 - cosine for cosine in ran]
        lines += [
            Line(f"program, {_WORDS[key]}", [1 - point[key] for point in points], _COLOURS[key]),
            Line(f"artifact, {_WORDS[key]}", artifact, _COLOURS[key], broad=True),
        ]
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


def draw_latency(result: Bench, path: Path) -> None:
    """Draw p50 as bars, to p90 as a line, a panel a batch, as a PNG. Raises UsageError where it cannot be written."""
    batches = list(dict.fromkeys(row["batch"] for row in result["results"]))
    panels = [[row for row in result["results"] if row["batch"] == batch] for batch in batches]
    heights = [1.0 + 0.28 * len(rows) for rows in panels]
    with picture(path, 9, sum(heights) + 0.6) as figure:
        axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights).flat
        for batch, rows, ax in zip(batches, panels, axes, strict=True):
            _bars(ax, rows)
            title = f"batch {batch}, {rows[0]['threads']} threads"
            ax.set(title=title, xlabel="ms a call: bar to the median, line to the 90th percentile")
        figure.suptitle(f"Latency on {result['machine']['cpu']}")


def _bars(ax: Axes, rows: Sequence[Timed]) -> None:
    p50 = [row["latency_ms"]["p50"] for row in rows]
    p90 = [row["latency_ms"]["p90"] for row in rows]
    ax.barh(range(len(rows)), p50, 0.7, color=[BLUE if row["ratio"] else "#bbbbbb" for row in rows])
    ax.hlines(range(len(rows)), p50, p90, color="#222222")
    for place, (row, end) in enumerate(zip(rows, p90, strict=True)):
        beside = f"  ({row['ratio']['p50']:.2f} x {row['ratio']['against']})" if row["ratio"] else ""
        ax.annotate(f"{p50[place]:.1f}{beside}", (end, place), (6, 0), textcoords="offset points", va="center")
    ax.set_yticks(range(len(rows)), [row["name"][-44:] for row in rows])
    ax.set_xlim(0, 1.35 * max(p90))
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")

"""Results of `bench` for people: tables, and a picture of bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .plots import BLUE, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADER = ["batch", "what", "p50 ms", "p90", "p95", "p99", "n", "tiles/s"]
RATIO_HEADER = ["batch", "what", "times (median)", "of"]
STREAMS_HEADER = ["batch", "what", "side by side", "tiles/s", "n"]
FRESH_HEADER = ["what", "cold start s", "with model cache s", "peak memory MB", "of it before loading", "size MB"]
DEVICE_HEADER = ["what", "device", "ran with", "p50 ms", "p99 ms", "ratio", "of"]
GATE_HEADER = ["gate", "of", "measured", "required", ""]
_NONE = "-"


def latency_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return a row a contender and batch, as `HEADER` names the columns."""
    return [
        [
            str(row["batch"]),
            row["name"],
            *(f"{row['latency_ms'][key]:.2f}" for key in ("p50", "p90", "p95", "p99")),
            str(row["n"]),
            f"{row['tiles_per_s']:.2f}",
        ]
        for row in result["results"]
    ]


def ratio_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return a row a ratio, as `RATIO_HEADER` names the columns."""
    return [[str(row["batch"]), row["name"], *_ratio(one)] for row in result["results"] for one in row["ratios"]]


def stream_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return a row a batch of the throughput hint, as `STREAMS_HEADER` names the columns."""
    return [
        [str(row["batch"]), row["name"], str(row["requests"]), f"{row['tiles_per_s']:.2f}", str(row["n"])]
        for row in result["throughput"]
    ]


def fresh_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return a row a contender with a file, as `FRESH_HEADER` names the columns; memory is of the largest batch."""
    rows = []
    for name, size in result["size_bytes"].items():
        starts = {one["cache"]: f"{one['total_s']:.2f}" for one in result["cold_start"] if one["name"] == name}
        memory = [one for one in result["memory"] if one["name"] == name]
        largest = max(memory, key=lambda one: one["batch"], default=None)
        peak = [_NONE, _NONE]
        if largest is not None:
            peak = [f"{largest['peak_bytes'] / 1e6:.0f} (batch {largest['batch']})"]
            peak.append(f"{largest['start_bytes'] / 1e6:.0f}")
        rows.append([name, starts.get(False, _NONE), starts.get(True, _NONE), *peak, f"{size / 1e6:.1f}"])
    return rows


def device_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return a row a report of a device, as `DEVICE_HEADER` names the columns."""
    return [
        [
            row["name"],
            row["device"],
            row["ran_with"],
            f"{row['latency_ms']['p50']:.2f}",
            f"{row['latency_ms']['p99']:.2f}",
            *(_ratio(row["ratio"]) if row["ratio"] else [_NONE, _NONE]),
        ]
        for row in result["devices"]
    ]


def machine_line(result: Mapping[str, Any]) -> str:
    """Say on what and how it was measured."""
    about = result["machine"]
    threads = sorted({row["threads"] for row in result["results"]})
    used = f", {threads[0]} threads" if threads else ""
    features = ", ".join(about["cpu_features"]) or "no known features"
    what = f"{about['cpu']} ({features}), {about['cores']} cores, {about['memory']}{used}"
    return f"{what}: {about['pinned']}; {result['tiles']}; warm-up {result['warm_up']}, in turn, all samples kept"


def draw_latency(result: Mapping[str, Any], path: Path) -> None:
    """Draw p50 as bars, to p99 as a line, a panel a batch, as a PNG. Raises UsageError where it cannot be written."""
    batches = list(dict.fromkeys(row["batch"] for row in result["results"]))
    panels = [[row for row in result["results"] if row["batch"] == batch] for batch in batches]
    heights = [1.0 + 0.28 * len(rows) for rows in panels]
    with picture(path, 9, sum(heights) + 0.6) as figure:
        axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights).flat
        for batch, rows, ax in zip(batches, panels, axes, strict=True):
            _bars(ax, rows)
            title = f"batch {batch}, {rows[0]['threads']} threads"
            ax.set(title=title, xlabel="ms a call: bar to the median, line to the 99th percentile")
        figure.suptitle(f"Latency on {result['machine']['cpu']}")


def _bars(ax: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    p50, p99 = ([row["latency_ms"][key] for row in rows] for key in ("p50", "p99"))
    ax.barh(range(len(rows)), p50, 0.7, color=[BLUE if row["ratio"] else "#bbbbbb" for row in rows])
    ax.hlines(range(len(rows)), p50, p99, color="#222222")
    for place, (row, end) in enumerate(zip(rows, p99, strict=True)):
        beside = f"  ({row['ratio']['p50']:.2f} x {row['ratio']['against']})" if row["ratio"] else ""
        ax.annotate(f"{p50[place]:.1f}{beside}", (end, place), (6, 0), textcoords="offset points", va="center")
    ax.set_yticks(range(len(rows)), [row["name"][-44:] for row in rows])
    ax.set_xlim(0, 1.35 * max(p99))
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")


def _ratio(one: Mapping[str, Any]) -> list[str]:
    return [f"{one['p50']:.3f}", one["against"] + ("" if one["same_run"] else " (another run)")]

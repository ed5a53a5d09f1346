"""Results of `bench` for people: tables, and a picture of bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..machine.writing import replacing

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
    image = Image.new("RGB", (_WIDTH, sum(_TOP + _BAR * len(rows) for rows in panels) + _TOP), "white")
    draw, down = ImageDraw.Draw(image), 0
    for batch, rows in zip(batches, panels, strict=True):
        _bars(draw, f"batch {batch}: p50 in ms, line to p99; {rows[0]['threads']} threads", rows, down)
        down += _TOP + _BAR * len(rows)
    draw.text((_LEFT, down + 12), result["machine"]["cpu"], fill="#666666", font=ImageFont.load_default(12))
    with replacing(path, "plot") as partial:
        image.save(partial, "PNG")


_WIDTH, _LEFT, _RIGHT, _TOP, _BAR = 1000, 330, 150, 40, 26
_OURS, _THEIRS = "#2471a3", "#bbbbbb"


def _bars(draw: ImageDraw.ImageDraw, title: str, rows: Sequence[Mapping[str, Any]], down: int) -> None:
    font = ImageFont.load_default(13)
    draw.text((_LEFT, down + 14), title, fill="black", font=font)
    scale = (_WIDTH - _LEFT - _RIGHT) / max(row["latency_ms"]["p99"] for row in rows)
    for number, row in enumerate(rows):
        top, middle = down + _TOP + number * _BAR, down + _TOP + number * _BAR + _BAR // 2 - 3
        p50, p99 = (row["latency_ms"][key] for key in ("p50", "p99"))
        colour = _OURS if row["ratio"] else _THEIRS
        draw.text((_LEFT - 8, middle), row["name"][-44:], fill="black", font=font, anchor="rm")
        draw.rectangle([_LEFT, top, _LEFT + p50 * scale, top + _BAR - 7], fill=colour)
        draw.line([(_LEFT + p50 * scale, middle), (_LEFT + p99 * scale, middle)], fill="#222222", width=2)
        said = f"{p50:.1f}" + (f"  ({row['ratio']['p50']:.2f} x)" if row["ratio"] else "")
        draw.text((_LEFT + p99 * scale + 8, middle), said, fill="black", font=font, anchor="lm")


def _ratio(one: Mapping[str, Any]) -> list[str]:
    return [f"{one['p50']:.3f}", one["against"] + ("" if one["same_run"] else " (another run)")]

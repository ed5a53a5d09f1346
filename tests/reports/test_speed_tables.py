"""Tables and picture of results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgepath.errors import UsageError
from edgepath.reports.drawings import draw_latency
from edgepath.reports.table import Table
from edgepath.reports.tables import speed as tables


def result() -> dict[str, Any]:
    held = {"against": "FP32", "p50": 0.5, "same_run": True}
    before = {"against": "a of old.json, A CPU", "p50": 1.25, "same_run": False}
    latency = {"p50": 10.0, "p90": 11.0, "p95": 12.0, "p99": 13.0}
    rows = [
        {"name": name, "batch": batch, "threads": 2, "n": 9, "latency_ms": latency, "tiles_per_s": 100.0 * batch}
        for batch in (1, 4)
        for name in ("a", "FP32")
    ]
    ratios = {"a": [held, before], "FP32": []}
    return {
        "results": [
            row | {"ratios": ratios[row["name"]], "ratio": next(iter(ratios[row["name"]]), None)} for row in rows
        ],
        "throughput": [{"name": "a", "batch": 4, "requests": 2, "tiles_per_s": 450.0, "n": 9}],
        "cold_start": [{"name": "a", "cache": False, "total_s": 2.0}, {"name": "a", "cache": True, "total_s": 0.5}],
        "memory": [{"name": "a", "batch": b, "peak_bytes": b * 1_000_000, "start_bytes": 500_000} for b in (1, 4)],
        "size_bytes": {"a": 7_000_000, "FP32": 22_000_000},
        "devices": [
            {"name": "a", "device": "Orin", "ran_with": "TensorRT", "latency_ms": latency, "ratio": before},
            {"name": "a", "device": "Thor", "ran_with": "TensorRT", "latency_ms": latency, "ratio": None},
        ],
        "machine": {"cpu": "A CPU", "cpu_features": [], "cores": 2, "memory": "8 GiB", "pinned": "cores 0, 1"},
        "tiles": "16 golden tiles",
        "warm_up": 5,
    }


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (tables.latency_table, 4),
        (tables.ratio_table, 4),
        (tables.stream_table, 1),
        (tables.fresh_table, 2),
        (tables.device_table, 2),
    ],
)
def test_tables_are_as_their_headers_say(make: Callable[[Any], Table], count: int) -> None:
    found = make(result())
    assert [len(row) for row in found.rows] == [len(found.header)] * count
    assert all(isinstance(cell, str) for row in found.rows for cell in row)


def test_cells_say_what_was_measured() -> None:
    assert tables.latency_table(result()).rows[0] == ("1", "a", "10.00", "11.00", "12.00", "13.00", "9", "100.00")
    assert tables.ratio_table(result()).rows[:2] == (
        ("1", "a", "0.500", "FP32"),
        ("1", "a", "1.250", "a of old.json, A CPU (another run)"),
    )
    assert tables.fresh_table(result()).rows[0] == ("a", "2.00", "0.50", "4 (batch 4)", "0", "7.0")
    assert tables.fresh_table(result()).rows[1] == ("FP32", "-", "-", "-", "-", "22.0")
    assert tables.device_table(result()).rows[1][-2:] == ("-", "-")
    line = tables.machine_line(result())
    assert line.startswith(
        "A CPU (no known features), 2 cores, 8 GiB, 2 threads: cores 0, 1; 16 golden tiles; warm-up 5"
    )


def test_picture_has_a_bar_for_each(tmp_path: Path) -> None:
    draw_latency(result(), tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20) or ()}
    assert {(0x00, 0x72, 0xB2), (0xBB, 0xBB, 0xBB)} <= colours
    with pytest.raises(UsageError, match=r"plot .*cannot be written"):
        draw_latency(result(), tmp_path / "none" / "p.png")

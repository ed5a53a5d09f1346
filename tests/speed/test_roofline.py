"""Multiply-adds are counted as the architecture says; benchmarks/test_roofline.py times them against the peaks."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.roofline import HEADER, count_work, peaks_line, roofline_rows
from edgepath.exporting import Exported

Exports = Callable[[str], Exported]


def test_work_is_the_architectures(exports: Exports) -> None:
    """By hand for `tiny`: width 96, 2 blocks, 256 patches and 5 other tokens; fc1 96 -> 512, fc2 256 -> 96."""
    work = count_work(exports("onnx-int8").bundle)
    tokens, width, hidden = 261, 96, 256
    block = tokens * (width * 3 * width + width * width + width * 2 * hidden + hidden * width)
    last = tokens * width * 2 * width + (width * width + width * width + width * 2 * hidden + hidden * width)
    assert work.linears == block + last
    assert work.patches == 256 * width * 3 * 14 * 14
    assert work.attention == tokens * tokens * width * 2 + tokens * width * 2
    assert work.total == work.linears + work.patches + work.attention
    assert 0 < work.int8 < work.total
    whole = count_work(exports("openvino-fp16").bundle)
    assert (whole.int8, whole.total) == (0, work.total)


def test_what_is_shown() -> None:
    work = {"linears": 18_000_000_000, "patches": 1_000_000_000, "attention": 2_000_000_000}
    one = {"multiply_adds": work, "int8_share": 0.9, "at_peak_ms": 30.0, "measured_ms": 40.0, "of_peak": 0.75}
    peaks = {"f32": 68_200_000_000, "i8": 58_000_000_000}
    found = {"peaks": peaks, "product": [1024] * 3, "threads": 2, "n": 40, "bundles": {"a": one}}
    assert roofline_rows(found) == [["a", "21 G, 90 % in INT8", "30.00", "40.00", "75 %"]]
    assert len(HEADER) == 5
    assert peaks_line(found).endswith("2 threads, a product of 1024 x 1024 x 1024 (n = 40): f32 68.2 G, i8 58.0 G")

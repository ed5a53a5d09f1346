"""Multiply-adds are counted as the architecture says, and peaks hold against the artifact in the same rounds."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from edgepath.exporting import Exported
from edgepath.speed.benchmark import bench
from edgepath.speed.roofline import (
    HEADER,
    SIDE,
    count_work,
    peaks_line,
    roofline_rows,
)

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


def test_nothing_is_faster_than_the_peak(exports: Exports) -> None:
    given = [exports(target).bundle for target in ("openvino-int8", "openvino-fp16", "onnx-fp32")]
    found = bench(given, batches=[1], rounds=3, seconds=1.0, warm_up=1, threads=1, cold=0, profile=True)
    line = found["roofline"]
    # The peaks are OpenVINO's: what runs elsewhere is not held against them.
    assert set(line["bundles"]) == {"tiny-openvino-int8", "tiny-openvino-fp16"}
    assert set(found["operations"]) == set(line["bundles"]) | {"tiny-onnx-fp32"}
    for one in line["bundles"].values():
        assert 0 < one["of_peak"] < 1.2  # a neighbour on the machine slows one of them more
    whole, int8 = line["bundles"]["tiny-openvino-fp16"], line["bundles"]["tiny-openvino-int8"]
    assert whole["int8_share"] == 0 < int8["int8_share"] < 1
    work = sum(whole["multiply_adds"].values())
    assert whole["at_peak_ms"] == pytest.approx(work / line["peaks"]["f32"] * 1e3, rel=0.01)
    assert min(line["peaks"].values()) > 1e9, "a product takes more than a second"
    assert line["product"] == [SIDE] * 3
    assert [len(row) for row in roofline_rows(line)] == [len(HEADER)] * 2
    assert "f32" in peaks_line(line)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert np.isfinite(int8["of_peak"])

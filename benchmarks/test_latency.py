"""Latency of everything side by side with pytest-benchmark: `make bench ARGS="-k batch1"`; its table is the result."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from conftest import THREADS, Run
from pytest_benchmark.fixture import BenchmarkFixture

from edgepath.tiles import TileSource

NAMES = (
    "openvino-int8",
    "openvino-fp16",
    "onnx-int8",
    "onnx-fp32",
    "OpenVINO FP32",
    "NNCF default INT8 (OpenVINO)",
    "torch eager FP32",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", [1, 4, 16], ids="batch{}".format)
def test_latency(
    name: str, batch: int, runners: Mapping[str, Run], other_tiles: TileSource, benchmark: BenchmarkFixture
) -> None:
    tiles = other_tiles.read(range(batch))
    benchmark.group = f"batch {batch}, {THREADS} threads"
    result = benchmark.pedantic(runners[name], args=(tiles,), rounds=max(5, 40 // batch), warmup_rounds=3)
    assert len(result) == batch

"""Latency of everything side by side with pytest-benchmark: `make bench ARGS=benchmarks/test_latency.py`.

Rounds are as many as fit a few seconds, at least three: on a CPU without VNNI a call takes a second and more. Batches
of 16, then minutes of work, are among the long ones; `test_figures.py` times them too, in turn.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
from conftest import FP32, SECONDS, TARGETS, THREADS
from pytest_benchmark.fixture import BenchmarkFixture

from edgepath.speed import peers
from edgepath.speed.contenders import Contender
from edgepath.tiles.source import TileSource

NAMES = (
    *TARGETS,
    FP32,
    peers.NNCF,
    peers.STATIC,
    peers.DYNAMIC,
    "torch eager FP32",
    "torch.compile FP32",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", [1, 4, pytest.param(16, marks=pytest.mark.long)], ids="batch{}".format)
def test_latency(
    name: str, batch: int, contenders: Mapping[str, Contender], other_tiles: TileSource, benchmark: BenchmarkFixture
) -> None:
    if name not in contenders:
        pytest.skip("torch.compile needs a C++ compiler")
    run, tiles = contenders[name].run, other_tiles.read(range(batch))
    benchmark.group = f"batch {batch}, {THREADS} threads"
    for _ in range(1 if batch == 16 else 2):  # the last one tells how many rounds there is time for
        start = time.perf_counter()
        run(tiles)
        took = time.perf_counter() - start
    result = benchmark.pedantic(  # type: ignore[no-untyped-call]
        run, args=(tiles,), rounds=max(3, min(40, int(SECONDS / 2 / took)))
    )
    assert len(result) == batch

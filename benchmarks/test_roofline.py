"""No artifact is faster than the peaks of its runtime's kernels, timed in the same rounds."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest
from conftest import SECONDS, THREADS, Bundles
from roofline import SIDE, roofline

from edgepath.speed.contenders import bundle_contender
from edgepath.speed.pinning import pinned
from edgepath.tiles.source import TileSource

TARGETS = ("openvino-int8", "openvino-fp16")


def test_nothing_is_faster_than_the_peak(bundles: Bundles, other_tiles: TileSource) -> None:
    with pinned(THREADS), ExitStack() as stack:
        timed = {name: (bundles(name), bundle_contender(bundles(name), name, THREADS, stack)) for name in TARGETS}
        found = roofline(timed, other_tiles.read([0]), THREADS, seconds=SECONDS)
    for one in found["bundles"].values():
        assert 0 < one["of_peak"] < 1.2  # a neighbour on the machine slows one of them more
    int8, whole = (found["bundles"][name] for name in TARGETS)
    assert whole["int8_share"] == 0 < int8["int8_share"] < 1
    work = sum(whole["multiply_adds"].values())
    assert whole["at_peak_ms"] == pytest.approx(work / found["peaks"]["f32"] * 1e3, rel=0.01)
    assert min(found["peaks"].values()) > 1e9, "a product takes more than a second"
    assert found["product"] == [SIDE] * 3
    assert json.loads(json.dumps(found, allow_nan=False)) == found

"""What is allowed to be lost may be lost to the last bit, and no more."""

from __future__ import annotations

import pytest

from edgepath.checks.gates import loss_gate


@pytest.mark.parametrize(("full", "artifact"), [(0.97, 0.96), (0.98, 0.97), (0.5, 0.49), (0.83, 0.82)])
def test_what_is_allowed_passes(full: float, artifact: float) -> None:
    assert full - artifact > 0.01, "floating point is not in the way here"
    assert loss_gate("top1", "all", full - artifact, 0.01)["passed"]


def test_more_fails_and_a_gain_passes() -> None:
    assert not loss_gate("top1", "all", 0.0101, 0.01)["passed"]
    assert not loss_gate("top1", "all", float("nan"), 0.01)["passed"]
    gain = loss_gate("top1", "all", -0.2, 0.0)
    assert gain == {"gate": "top1", "of": "all", "lost": -0.2, "allowed": 0.0, "passed": True}

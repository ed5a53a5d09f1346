"""A gate's verdict is what its sample allows: no less than the bound, no more; gates are read as they were written."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from edgepath.checks.bounds import Bounds, mean_bounds
from edgepath.checks.gates import Gate, all_passed, drift_gates, loss_gate, parts_gate, speed_gate, verdict_of
from edgepath.checks.parts import Difference
from edgepath.checks.verdicts import Verdict, overall
from edgepath.recipes.recipe import find_recipe

NON_INFERIOR, INFERIOR, INCONCLUSIVE = Verdict.NON_INFERIOR, Verdict.INFERIOR, Verdict.INCONCLUSIVE
RECIPE = find_recipe("onnx-int8")  # 0.995 on average, 0.99 in the 1st percentile


def between(low: float, high: float, n: int = 60) -> Bounds:
    return Bounds(n, "places", (low + high) / 2, low, high, sampled=(low, high))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.01, 0.005, NON_INFERIOR),
        (-0.01, 0.01, NON_INFERIOR),
        (0.96 - 0.97, 0.97 - 0.96, NON_INFERIOR),  # 0.010000000000000009
        (-0.01, 0.0101, INCONCLUSIVE),
        (0.01, 0.03, INCONCLUSIVE),
        (0.0101, 0.03, INFERIOR),
        (-0.3, -0.2, NON_INFERIOR),
        (float("nan"), float("nan"), INFERIOR),
    ],
)
def test_the_verdict_is_where_the_bounds_lie(low: float, high: float, verdict: Verdict) -> None:
    gate = loss_gate("top1", "all", between(low, high), 0.01)
    assert gate.verdict is verdict
    assert gate.passed is (verdict is not INFERIOR)
    assert (gate.n_to_decide is None) is (verdict is not INCONCLUSIVE)


@pytest.mark.parametrize(("n", "verdict"), [(3, INCONCLUSIVE), (60, INCONCLUSIVE), (300, NON_INFERIOR)])
def test_no_loss_among_few_is_no_proof_of_none(n: int, verdict: Verdict) -> None:
    (found,) = mean_bounds(np.zeros((n, 1)), "places", -np.ones(1), np.ones(1))
    assert loss_gate("top1", "all", found, 0.01).verdict is verdict


def test_one_tile_of_sixty_decides_nothing_and_ten_do() -> None:
    for lost, verdict in ((1, INCONCLUSIVE), (10, INFERIOR)):
        values = np.zeros((60, 1))
        values[:lost] = 1
        (found,) = mean_bounds(values, "places", -np.ones(1), np.ones(1))
        gate = loss_gate("top1", "the worst", found, 0.01)
        assert gate.verdict is verdict
        assert (gate.n, gate.unit, gate.measured) == (60, "places", pytest.approx(lost / 60))


@pytest.mark.parametrize(
    ("n", "drift", "mean", "percentile"),
    [
        (32, 0.0005, NON_INFERIOR, INCONCLUSIVE),  # an export's held-out tiles
        (32, 0.0045, INCONCLUSIVE, INCONCLUSIVE),
        (32, 0.02, INFERIOR, INFERIOR),
        (3, 0.0005, INCONCLUSIVE, INCONCLUSIVE),
        (1, 0.0, INCONCLUSIVE, INCONCLUSIVE),
        (320, 0.0045, NON_INFERIOR, NON_INFERIOR),
        (320, 0.0, NON_INFERIOR, NON_INFERIOR),
    ],
)
def test_drift_of_few_tiles_says_little(n: int, drift: float, mean: Verdict, percentile: Verdict) -> None:
    cosines = 1 - drift * (1 + 0.1 * np.sin(np.arange(n)))
    gates = drift_gates(RECIPE, "total", cosines)
    assert [gate.verdict for gate in gates] == [mean, percentile]
    assert [gate.figure for gate in gates] == ["cosine_mean", "cosine_p01"]
    assert gates[0].measured == cosines.mean()
    assert gates[1].measured == np.quantile(cosines, 0.01)
    assert gates[1].n_to_decide == (299 if percentile is INCONCLUSIVE else None)


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([0.9] * 40, NON_INFERIOR),
        ([1.1] * 40, INFERIOR),
        ([0.9] * 3, INCONCLUSIVE),
        ([0.9] * 5, NON_INFERIOR),
        ([0.9, 1.1] * 20, INCONCLUSIVE),
    ],
)
def test_speed_is_judged_by_the_median_of_rounds(ratios: list[float], verdict: Verdict) -> None:
    gate = speed_gate(RECIPE, np.array(ratios))
    assert (gate.verdict, gate.measured, gate.n, gate.unit) == (verdict, np.median(ratios), len(ratios), "rounds")


def test_the_verdict_over_all_is_the_worst() -> None:
    assert overall([NON_INFERIOR, INCONCLUSIVE, INFERIOR]) is INFERIOR
    assert overall([NON_INFERIOR, INCONCLUSIVE]) is INCONCLUSIVE
    assert overall([]) is overall([NON_INFERIOR]) is NON_INFERIOR


def test_gates_are_read_as_they_were_written() -> None:
    gates = [
        *drift_gates(RECIPE, "total", np.linspace(0.99, 1, 32)),
        parts_gate([Difference("numbers", "vit.norm", "another weight")]),
        speed_gate(RECIPE, np.array([0.7, 0.8, 0.9])),
        loss_gate("auroc", "linear", between(0.02, 0.04), 0.01),
    ]
    rows = [gate.to_json() for gate in gates]
    assert [Gate.from_json(json.loads(json.dumps(row, allow_nan=False))) for row in rows] == gates
    assert gates[1].interval is not None
    assert gates[1].interval[0] == -math.inf
    assert rows[1]["interval"] is not None
    assert rows[1]["interval"][0] is None  # no number stands for it in JSON
    assert [row["passed"] for row in rows] == [True, True, False, True, False]
    assert verdict_of(rows) is INFERIOR
    assert not all_passed(gates)


@pytest.mark.parametrize(
    ("old", "kind", "at_most"),
    [
        ({"gate": "cosine_p01", "of": "total", "measured": 0.99, "required": 0.98, "passed": True}, "drift", False),
        ({"gate": "other parts", "of": "lowering", "measured": 1, "required": 0, "passed": False}, "parts", True),
        (
            {"gate": "p50 / full precision's", "of": "latency", "measured": 0.6, "required": 1, "passed": True},
            "speed",
            True,
        ),
        ({"gate": "top1", "of": "all", "lost": 0.1, "allowed": 0.01, "passed": False}, "loss", True),
        (
            {
                "kind": "loss",
                "gate": "top1",
                "of": "all",
                "measured": 0.1,
                "required": 0.2,
                "at_most": True,
                "passed": True,
            },
            "loss",
            True,
        ),
    ],
)
def test_gates_of_earlier_bundles_and_results_are_read(old: dict[str, object], kind: str, at_most: bool) -> None:
    gate = Gate.from_json(old)
    assert (gate.kind, gate.at_most, gate.passed) == (kind, at_most, old["passed"])
    assert (gate.n, gate.interval) == (None, None)  # nothing is said of a sample

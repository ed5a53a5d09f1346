"""What is allowed to be lost may be lost to the last bit, and no more; gates are read as they were written."""

from __future__ import annotations

import json

import pytest

from edgepath.checks.gates import Gate, drift_gates, loss_gate, parts_gate, speed_gate
from edgepath.checks.parts import Difference
from edgepath.recipes.recipe import find_recipe


@pytest.mark.parametrize(("full", "artifact"), [(0.97, 0.96), (0.98, 0.97), (0.5, 0.49), (0.83, 0.82)])
def test_what_is_allowed_passes(full: float, artifact: float) -> None:
    assert full - artifact > 0.01, "floating point is not in the way here"
    assert loss_gate("top1", "all", full - artifact, 0.01).passed


def test_more_fails_and_a_gain_passes() -> None:
    assert not loss_gate("top1", "all", 0.0101, 0.01).passed
    assert not loss_gate("top1", "all", float("nan"), 0.01).passed
    assert loss_gate("top1", "all", -0.2, 0.0) == Gate("loss", "top1", "all", -0.2, 0.0, True, True)


def test_gates_are_read_as_they_were_written() -> None:
    recipe = find_recipe("onnx-int8")
    drift = {"total": {"cosine_mean": 0.9991, "cosine_p01": 0.5}}
    gates = [
        *drift_gates(recipe, drift),
        parts_gate([Difference("numbers", "vit.norm", "another weight")]),
        speed_gate(recipe, 0.7),
        loss_gate("auroc", "linear", 0.02, 0.01),
    ]
    assert [gate.passed for gate in gates] == [True, False, False, True, False]
    assert [Gate.from_json(json.loads(json.dumps(gate.to_json()))) for gate in gates] == gates


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
    ],
)
def test_gates_of_earlier_bundles_and_results_are_read(old: dict[str, object], kind: str, at_most: bool) -> None:
    gate = Gate.from_json(old)
    assert (gate.kind, gate.at_most, gate.passed) == (kind, at_most, old["passed"])

"""Rounding in turn equals optimal brain quantization written out column by column, and pays where steps are coarse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgepath.program.gptq import DAMPING, round_in_turn
from edgepath.program.linear import storable_scale, weight_max


def problem(outputs: int, inputs: int, rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, and inputs whose channels go together, as those of a transformer do."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=generator) * torch.logspace(0, -2, inputs)[:, None]
    return torch.randn(outputs, inputs, generator=generator), torch.randn(rows, inputs, generator=generator) @ mixing


def numpy_gptq(weight: np.ndarray, scale: np.ndarray, inputs: np.ndarray, largest: int) -> np.ndarray:
    """Optimal brain quantization in a fixed order: after each column, the inverse of the rest of H is formed anew."""
    hessian = inputs.T @ inputs / len(inputs)
    hessian += np.eye(len(hessian)) * DAMPING * np.diag(hessian).mean()
    order = np.argsort(-np.diag(hessian), kind="stable")
    left, rounded = weight.copy(), np.zeros_like(weight)
    for place, column in enumerate(order):
        rounded[:, column] = np.clip(np.rint(left[:, column] / scale), -largest, largest)
        rest = order[place:]
        inverse = np.linalg.inv(hessian[np.ix_(rest, rest)])
        error = (left[:, column] - rounded[:, column] * scale) / inverse[0, 0]
        left[:, rest] -= error[:, None] * inverse[0]
    return rounded


@pytest.mark.parametrize("bits", [8, 4])
def test_integers_are_those_of_the_definition(bits: int) -> None:
    weight, inputs = problem(24, 80, 400)
    scale = storable_scale(weight.abs().amax(1), weight_max(bits))
    found = round_in_turn(weight, scale, inputs, weight_max(bits)).numpy()
    wanted = numpy_gptq(weight.double().numpy(), scale.double().numpy(), inputs.double().numpy(), weight_max(bits))
    np.testing.assert_array_equal(found, wanted)
    assert np.abs(found).max() <= weight_max(bits)


@pytest.mark.parametrize("rows", [400, 40], ids=["enough tokens", "fewer tokens than channels"])
def test_output_error_is_less_than_the_nearest_steps(rows: int) -> None:
    weight, inputs = problem(24, 80, rows)
    _, others = problem(24, 80, 400)
    scale = storable_scale(weight.abs().amax(1), 7)
    found = round_in_turn(weight, scale, inputs, 7) * scale[:, None]
    nearest = (weight / scale[:, None]).round().clamp(-7, 7) * scale[:, None]

    def error(rounded: torch.Tensor) -> float:
        return float((others @ (rounded - weight).T).square().sum())

    assert error(found) < 0.5 * error(nearest)


def test_inputs_that_say_nothing_leave_the_nearest_step() -> None:
    weight, _ = problem(8, 16, 4)
    scale = storable_scale(weight.abs().amax(1))
    nearest = (weight / scale[:, None]).round()
    assert torch.equal(round_in_turn(weight, scale, torch.zeros(10, 16), 127), nearest)

"""Inference by oneDNN: the same numbers as torch's own up to rounding, and torch's own wherever it does not fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgepath.machine import inference as module
from edgepath.machine.inference import inference


def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Return the shapes of what oneDNN is given from now on."""
    product, given = module._product(), list[tuple[int, ...]]()

    def watched(x: torch.Tensor, *rest: object) -> torch.Tensor:
        given.append(tuple(x.shape))
        result: torch.Tensor = product(x, *rest)
        return result

    monkeypatch.setattr(module, "_product", lambda: watched)
    return given


@pytest.mark.parametrize("shape", [(48,), (5, 48), (2, 7, 48), (0, 48), (2, 3, 4, 48)])
@pytest.mark.parametrize("bias", [True, False])
def test_linears_are_the_same_up_to_rounding(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], bias: bool
) -> None:
    given = calls(monkeypatch)
    torch.manual_seed(0)
    layer, x = nn.Linear(48, 20, bias=bias), torch.randn(shape)
    with inference():
        found = layer(x)
    assert given == [shape]
    exact = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    assert found.shape == exact.shape
    assert torch.allclose(found.double(), exact, atol=1e-5)


def test_views_are_read_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    given = calls(monkeypatch)
    x, weight = torch.randn(2, 96, 7)[:, ::2].transpose(1, 2), torch.randn(20, 96)[:, ::2]
    with inference():
        found = nn.functional.linear(x, weight, None)
    assert given == [(2, 7, 48)]
    assert torch.allclose(found, x @ weight.T, atol=1e-4)


def test_other_types_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    given = calls(monkeypatch)
    x, weight = torch.randn(3, 8), torch.randn(4, 8)
    with inference():
        for kind in (torch.float64, torch.bfloat16):
            assert nn.functional.linear(x.to(kind), weight.to(kind)).dtype == kind
        assert torch.equal(nn.functional.linear(input=x, weight=weight), x @ weight.T)
        assert nn.functional.linear(x.to("meta"), weight.to("meta")).device.type == "meta"
    nn.functional.linear(x, weight)
    assert given == []


def test_a_build_without_it_computes_as_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_product", lambda: None)
    x, layer = torch.randn(3, 8), nn.Linear(8, 4)
    with inference():
        assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_gradients_are_off_inside_and_on_after() -> None:
    layer = nn.Linear(8, 4)
    with inference():
        assert not layer(torch.randn(1, 8)).requires_grad
    assert layer(torch.randn(1, 8)).requires_grad

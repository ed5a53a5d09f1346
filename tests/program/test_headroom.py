"""What comes near to the largest number FP16 holds is found where it is made."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgepath.machine.inference import inference
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program.fold import EdgeModel, fold
from edgepath.program.headroom import FP16_MAX, Peaks


@pytest.fixture
def model(tiny: ModelSpec) -> EdgeModel:
    return fold(random_model(tiny), tiny, tokens=True)


def watched(model: EdgeModel, tiles: np.ndarray) -> Peaks:
    peaks = Peaks(model)
    with peaks, torch.inference_mode():
        model(torch.from_numpy(tiles))
    return peaks


def test_watching_changes_nothing_and_lets_go(model: EdgeModel, tiles: np.ndarray) -> None:
    with torch.inference_mode():
        before = model(torch.from_numpy(tiles[:2]))
        watched(model, tiles[:2])
        after = model(torch.from_numpy(tiles[:2]))
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_products_by_onednn_are_linears(model: EdgeModel, tiles: np.ndarray) -> None:
    """Also what a linear is before its bias, which a device in FP16 may round."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear) and module.bias is not None:
                module.bias += 5.0
    found = []
    for context in (torch.inference_mode, inference):
        with Peaks(model) as peaks, context():
            model(torch.from_numpy(tiles[:2]))
        found.append({(peak.place, peak.operation): peak.largest for peak in peaks.nearest(9999)})
    assert "linear without bias" in {operation for _, operation in found[0]}
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_a_block_holds_what_its_parts_made(model: EdgeModel, tiles: np.ndarray) -> None:
    """Held against hooks: the product of gate and value, which no module puts out, is what enters fc2."""
    entered: list[float] = []
    hook = model.vit.blocks[1].mlp.fc2.register_forward_pre_hook(lambda _, x: entered.append(float(x[0].abs().max())))
    peaks = watched(model, tiles[:2])
    hook.remove()
    (product,) = [peak for peak in peaks.nearest(999) if (peak.place, peak.operation) == ("vit.blocks.1.mlp", "mul")]
    assert product.largest == entered[0]
    assert product.headroom == FP16_MAX / entered[0]
    assert all(peak.place.startswith("vit.blocks.1") for peak in peaks.nearest(999, inside="vit.blocks.1"))


@pytest.mark.parametrize(
    ("part", "operation"), [("attn", "query x key"), ("mlp.fc2", "weight"), ("mlp", "mul"), ("mlp.fc1", "linear")]
)
def test_what_is_large_is_named(model: EdgeModel, tiles: np.ndarray, part: str, operation: str) -> None:
    block, width = model.vit.blocks[0], model.vit.embed_dim
    with torch.no_grad():
        if operation == "query x key":  # neither queries nor keys are beyond FP16
            block.attn.qkv.weight[: 2 * width] *= 3e4
        elif operation == "weight":
            block.mlp.fc2.weight[0, 0] = 70_000
        else:
            block.mlp.fc1.weight[: block.mlp.fc1.out_features // 2] *= 1e6
    found = {(peak.place, peak.operation): peak.headroom for peak in watched(model, tiles[:1]).nearest(999)}
    assert found[f"vit.blocks.0.{part}", operation] < 1
    assert found["vit.blocks.0", "add"] > 1 or operation != "query x key"


def test_what_a_bias_takes_away_again_counts() -> None:
    """Graphs add it after the product, which has to fit as well."""
    linear = torch.nn.Linear(1, 1)
    with torch.no_grad():
        linear.weight[:], linear.bias[:] = 60_000, -100_000
    peaks = Peaks(linear)
    with peaks, torch.inference_mode():
        linear(torch.full((1, 1), 2.0))
    assert [peak.largest for peak in peaks.nearest(2)] == [120_000, 100_000]

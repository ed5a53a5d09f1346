"""Powers of two moved between neighbours: the same function, in FP16's reach."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from edgepath.errors import BundleError
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program.fold import EdgeModel, fold
from edgepath.program.headroom import Peaks
from edgepath.program.rescaling import find_exponents, load_exponents, rescale, save_exponents

PLACES = ("norm1", "value", "norm2", "gated", "scores", "stream")


def embed(model: EdgeModel, tiles: np.ndarray) -> Tensor:
    with torch.inference_mode():
        result = model(torch.from_numpy(tiles))
    return result[0] if isinstance(result, tuple) else result


def headroom(model: EdgeModel, tiles: np.ndarray) -> float:
    peaks = Peaks(model)
    with peaks:
        embed(model, tiles)
    return peaks.nearest(1)[0].headroom


def loud(tiny: ModelSpec, place: str, tokens: bool = False) -> EdgeModel:
    """Return a model with values beyond FP16 at a place, of which the rest of the model knows nothing."""
    vit = random_model(tiny)
    block, width, half = vit.blocks[0], 96, 256
    with torch.no_grad():
        if place == "norm1":
            scale(block.norm1, 5, block.attn.qkv)
        elif place == "value":
            scale(block.attn.qkv, 2 * width + 5, block.attn.proj, 5)
        elif place == "norm2":
            scale(block.norm2, 5, block.mlp.fc1)
        elif place == "gated":
            scale(block.mlp.fc1, half + 5, block.mlp.fc2, 5)
        elif place == "scores":
            block.attn.qkv.weight[5] *= 2.0**18
            block.attn.qkv.bias[5] *= 2.0**18
            block.attn.qkv.weight[width + 5] /= 2.0**18
            block.attn.qkv.bias[width + 5] /= 2.0**18
        else:  # the last thing that is added: nothing but norms see it
            vit.blocks[0].mlp.fc2.bias[:] += torch.linspace(-3e5, 3e5, width)
    return fold(vit, tiny, tokens=tokens)


def scale(producer: torch.nn.Module, row: int, consumer: torch.nn.Module, column: int | None = None) -> None:
    producer.weight[row] *= 3e5
    producer.bias[row] *= 3e5
    consumer.weight[:, row if column is None else column] /= 3e5


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("tokens", [False, True])
def test_what_overflows_is_won_back_without_another_result(
    tiny: ModelSpec, tiles: np.ndarray, place: str, tokens: bool
) -> None:
    model = loud(tiny, place, tokens)
    before = embed(model, tiles[:4])
    assert headroom(model, tiles[:4]) < 1
    rescale(model, find_exponents(model, [tiles[:4]], 2.0))
    assert headroom(model, tiles[:4]) >= 2
    # Powers of two: no rounding is another one, short of FP32's smallest numbers.
    torch.testing.assert_close(embed(model, tiles[:4]), before, rtol=0, atol=1e-6 * float(before.abs().max()))


def test_a_model_with_headroom_is_left_alone(tiny: ModelSpec, tiles: np.ndarray) -> None:
    model = fold(random_model(tiny), tiny)
    kept = copy.deepcopy(model.state_dict())
    assert find_exponents(model, [tiles[:4]], 2.0) == {}
    assert all(torch.equal(values, model.state_dict()[name]) for name, values in kept.items())


def test_a_gate_has_no_place_to_go(tiny: ModelSpec, tiles: np.ndarray) -> None:
    """What an activation function sees cannot be scaled: it stays, and the headroom says so."""
    vit = random_model(tiny)
    with torch.no_grad():
        vit.blocks[0].mlp.fc1.bias[5] = 1e5
        vit.blocks[0].mlp.fc1.bias[256 + 5] = 0
        vit.blocks[0].mlp.fc1.weight[256 + 5] = 0
    model = fold(vit, tiny)
    rescale(model, find_exponents(model, [tiles[:4]], 2.0))
    assert headroom(model, tiles[:4]) < 1


def test_exponents_are_kept_with_the_bundle(tiny: ModelSpec, tiles: np.ndarray, tmp_path: Path) -> None:
    model = loud(tiny, "gated")
    found = find_exponents(model, [tiles[:4]], 2.0)
    save_exponents(tmp_path / "rescaled.npz", found)
    read = load_exponents(tmp_path / "rescaled.npz")
    assert found.keys() == read.keys() == {"vit.blocks.0.mlp.fc2"}
    one, other = rescale(copy.deepcopy(model), found), rescale(model, read)
    assert torch.equal(embed(one, tiles[:2]), embed(other, tiles[:2]))
    assert load_exponents(tmp_path / "none.npz") == {}


@pytest.mark.parametrize("odd", [{"stream": np.array(1.5)}, {"stream": np.zeros((2, 2), np.int8)}])
def test_other_numbers_are_refused(tmp_path: Path, odd: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "rescaled.npz", **odd)
    with pytest.raises(BundleError, match=r"rescaled.npz holds other numbers at 'stream'; export it again"):
        load_exponents(tmp_path / "rescaled.npz")


def test_places_of_another_model_are_refused(tiny: ModelSpec) -> None:
    with pytest.raises(ValueError, match=r"vit.blocks.9.mlp.fc2 is no place of this model"):
        rescale(fold(random_model(tiny), tiny), {"vit.blocks.9.mlp.fc2": np.ones(256, np.int8)})

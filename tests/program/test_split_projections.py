"""Cut products compute what the whole ones do: in floating point to rounding, in INT8 integer by integer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_fold import VARIANTS, assert_equal, gelu_vit, run, variant

from edgepath.checks.parts import named_parts
from edgepath.models.catalogue import ModelSpec
from edgepath.program.calibrate import calibrate
from edgepath.program.fold import EdgeModel, fold
from edgepath.program.linear import quantize
from edgepath.program.split_projections import cut, uncut_name


@pytest.mark.parametrize("name", [*VARIANTS, "timm"])
def test_a_cut_model_computes_the_same(name: str, tiny: ModelSpec, tiles: np.ndarray) -> None:
    spec = gelu_vit() if name == "timm" else tiny
    for embedding, tokens in (("cls", False), ("cls+mean", True)):
        model = fold(variant(tiny, name), spec, embedding=embedding, tokens=tokens)
        other = cut(model)
        assert not other.training
        for found, wanted in zip(run(other, tiles[:2]), run(model, tiles[:2]), strict=True):
            assert_equal(found, wanted)


def test_parts_are_rows_of_the_whole_and_share_its_memory(tiny: ModelSpec, tiles: np.ndarray) -> None:
    model = quantized(tiny, tiles)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = cut(model)
    ours, theirs = named_parts(model)[0], named_parts(other)[0]
    assert list(theirs) == [
        "vit.patch_embed.proj",
        *(f"vit.blocks.0.{part}" for part in ("attn.qkv.0", "attn.qkv.1", "attn.qkv.2", "attn.proj")),
        *(f"vit.blocks.0.{part}" for part in ("mlp.fc1.0", "mlp.fc1.1", "mlp.fc2")),
        *(f"vit.blocks.1.{part}" for part in ("attn.q", "attn.kv.0", "attn.kv.1", "attn.proj")),
        *(f"vit.blocks.1.{part}" for part in ("mlp.fc1.0", "mlp.fc1.1", "mlp.fc2")),
    ]
    for name, product in ours.items():
        parts = [part for key, part in theirs.items() if uncut_name(key) == name]
        for number in ("weight", "scale", "bias"):
            values = [getattr(part, number) for part in parts]
            if values[0] is not None:
                np.testing.assert_array_equal(np.concatenate(values), getattr(product, number))
        assert {part.input_scales for part in parts} == {product.input_scales}
    assert np.shares_memory(theirs["vit.blocks.0.attn.qkv.1"].weight, ours["vit.blocks.0.attn.qkv"].weight)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_of_the_same_input_a_cut_layer_makes_the_same_numbers(tiny: ModelSpec, tiles: np.ndarray) -> None:
    model = quantized(tiny, tiles)
    other = cut(model)
    x = torch.randn(2, 261, 96, generator=torch.Generator().manual_seed(0))
    for name in ("vit.blocks.0.attn.qkv", "vit.blocks.0.mlp.fc1"):
        parts = [part(x) for part in other.get_submodule(name)]  # type: ignore[attr-defined]
        torch.testing.assert_close(torch.cat(parts, dim=2), model.get_submodule(name)(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("vit.blocks.11.attn.kv.1", "vit.blocks.11.attn.kv"),
        ("vit.blocks.0.mlp.fc1.0", "vit.blocks.0.mlp.fc1"),
        ("vit.blocks.0.mlp.fc2", "vit.blocks.0.mlp.fc2"),
        ("vit.blocks.3", "vit.blocks.3"),
    ],
)
def test_the_name_of_the_whole(name: str, layer: str) -> None:
    assert uncut_name(name) == layer


def quantized(tiny: ModelSpec, tiles: np.ndarray) -> EdgeModel:
    from edgepath.models.weights import random_model

    model = fold(random_model(tiny), tiny)
    return quantize(model, calibrate(model, [tiles[:4]]))

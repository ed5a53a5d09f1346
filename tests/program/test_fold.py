"""Every rewrite is exact, against the unmodified timm model behind torchvision's normalisation."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import timm
import torch
from timm.layers import Attention
from torch import Tensor, nn
from torchvision.transforms import Normalize
from torchvision.transforms.functional import to_tensor

from edgepath.errors import UsageError
from edgepath.models.catalogue import ModelSpec, find_model
from edgepath.models.weights import build, random_model
from edgepath.program.fold import ClsOnlyBlock, EdgeModel, fold, fold_preprocessing

# Arguments that change what a block computes, each on its own.
VARIANTS = {
    "h0-mini": {},
    "no LayerScale": {"init_values": None},
    "qk_norm": {"qk_norm": True},
    "no qkv bias": {"qkv_bias": False},
    "no linear bias": {"proj_bias": False},
    "norm after attention": {"scale_attn_norm": True},
    "norm in MLP": {"scale_mlp_norm": True},
    "norm before blocks": {"pre_norm": True},
    "no registers": {"reg_tokens": 0, "no_embed_class": False},
    "position of class token": {"no_embed_class": False},
    "any image size": {"dynamic_img_size": True},
    "any image size, padded": {"dynamic_img_size": True, "dynamic_img_pad": True},
    "gated attention": {},
    "GELU MLP": {"mlp_layer": timm.layers.Mlp, "act_layer": nn.GELU, "mlp_ratio": 4.0},
}


@cache
def gelu_vit() -> ModelSpec:
    """timm's smallest GELU ViT without LayerScale and registers, cut to two blocks."""
    spec = find_model("timm:vit_tiny_patch16_224")
    return replace(spec, timm_args={**spec.timm_args, "depth": 2})


def variant(tiny: ModelSpec, name: str) -> nn.Module:
    """The tiny model with a variant's arguments, handed to timm as they are, under random weights."""
    if name == "timm":
        return random_model(gelu_vit())
    layers = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": nn.SiLU}
    vit = timm.create_model(tiny.timm_name, **{**tiny.timm_args, **layers, **VARIANTS[name]}).eval()
    if name == "gated attention":  # no argument of timm's leads there yet
        for block in vit.blocks:
            block.attn = Attention(96, 3, qkv_bias=True, gated=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in vit.parameters():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(noise / value[0].numel() ** 0.5 if value.ndim == 2 or value.ndim == 4 else 0.5 + 0.3 * noise)
    return vit


def expected(vit: nn.Module, spec: ModelSpec, tiles: np.ndarray) -> tuple[Tensor, Tensor]:
    """Class token and patch tokens as timm and torchvision give them."""
    normalize = Normalize(spec.mean, spec.std)
    with torch.inference_mode():
        tokens = vit.forward_features(torch.stack([normalize(to_tensor(tile)) for tile in tiles]))
    prefix = 1 + vit.reg_token.shape[1] if vit.reg_token is not None else 1
    return tokens[:, 0], tokens[:, prefix:]


def assert_equal(found: Tensor, wanted: Tensor) -> None:
    assert (found.shape, found.dtype) == (wanted.shape, torch.float32)
    # Equal in real arithmetic; normalisation folded into weights adds FP32 numbers in another order, and the blocks
    # pass on and grow what that rounds. 1e-4 of the largest number is about 1000 roundings of FP32.
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=0, atol=1e-4 * float(wanted.abs().max()))


def run(model: EdgeModel, tiles: np.ndarray) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        found = model(torch.from_numpy(tiles))
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.parametrize("name", [*VARIANTS, "timm"])
def test_folded_model_equals_timm_and_torchvision(name: str, tiny: ModelSpec, tiles: np.ndarray) -> None:
    spec = gelu_vit() if name == "timm" else tiny
    vit = variant(tiny, name)
    cls, patches = expected(vit, spec, tiles[:2])
    for embedding, tokens in itertools.product(("cls", "cls+mean"), (False, True)):
        model = fold(copy.deepcopy(vit), spec, embedding=embedding, tokens=tokens)
        found = run(model, tiles[:2])
        assert_equal(found[0], cls if embedding == "cls" else torch.cat([cls, patches.mean(dim=1)], dim=1))
        assert model.dim == found[0].shape[1]
        assert len(found) == 1 + tokens
        if tokens:
            assert_equal(found[1], patches)


def test_raw_pixels_and_tiles_are_one_entry(tiny: ModelSpec, tiles: np.ndarray) -> None:
    model = fold(random_model(tiny), tiny)
    pixels = torch.from_numpy(np.ascontiguousarray(tiles[:2].transpose(0, 3, 1, 2))).float()
    with torch.inference_mode():
        assert_equal(model.encode(pixels), run(model, tiles[:2])[0])
    assert (model.size, model.dim, model.embedding, model.tokens, model.training) == (224, 96, "cls", False, False)


def test_another_mean_or_std_is_another_embedding(tiny: ModelSpec, tiles: np.ndarray) -> None:
    # So a folded normalisation that is wrong does not hide behind the tolerance above.
    right, wrong = (
        run(fold(random_model(tiny), spec), tiles[:2])[0]
        for spec in (tiny, replace(tiny, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))
    )
    assert float((right - wrong).abs().max()) > 0.05 * float(right.abs().max())


def test_registers_are_not_in_the_mean(tiny: ModelSpec, tiles: np.ndarray) -> None:
    vit = random_model(tiny)
    _, patches = expected(vit, tiny, tiles[:2])
    with torch.inference_mode():
        normalized = torch.stack([Normalize(tiny.mean, tiny.std)(to_tensor(tile)) for tile in tiles[:2]])
        everything_but_cls = vit.forward_features(normalized)[:, 1:].mean(dim=1)
    assert patches.shape[1] == 256
    found = run(fold(vit, tiny, embedding="cls+mean"), tiles[:2])[0][:, 96:]
    assert_equal(found, patches.mean(dim=1))
    assert float((found - everything_but_cls).abs().max()) > 1e-3  # the usual mistake is told apart


@pytest.mark.parametrize(
    ("name", "embedding", "tokens", "shortened"),
    [
        ("h0-mini", "cls", False, True),
        ("qk_norm", "cls", False, True),
        ("no LayerScale", "cls", False, True),
        ("h0-mini", "cls", True, False),
        ("h0-mini", "cls+mean", False, False),
        ("gated attention", "cls", False, False),
    ],
)
def test_last_block_computes_the_class_token_alone_where_nothing_else_is_read(
    name: str, embedding: str, tokens: bool, shortened: bool, tiny: ModelSpec
) -> None:
    model = fold(variant(tiny, name), tiny, embedding=embedding, tokens=tokens)
    blocks = list(model.vit.blocks)
    assert [isinstance(block, ClsOnlyBlock) for block in blocks] == [False, shortened]
    rows: dict[str, int] = {}

    def watch(layer: str) -> None:
        model.get_submodule(layer).register_forward_pre_hook(lambda _, x: rows.update({layer: x[0].shape[1]}))

    names = ("q", "kv", "proj") if shortened else ("qkv", "proj")
    layers = [f"vit.blocks.1.attn.{leaf}" for leaf in names] + [f"vit.blocks.1.mlp.{leaf}" for leaf in ("fc1", "fc2")]
    for layer in layers:
        watch(layer)
    run(model, np.zeros((1, 224, 224, 3), np.uint8))
    assert list(rows.values()) == ([1, 261, 1, 1, 1] if shortened else [261] * 4)


@pytest.mark.parametrize(
    "name",
    [
        "vit_base_patch16_gap_224",  # no class token
        "vit_base_patch16_siglip_224",  # attention pooling
        "vit_base_patch16_rpn_224",  # norms after attention and MLP
        "vit_base_patch16_18x2_224",  # attention twice side by side
        "vit_base_patch16_xp_224",  # attention and MLP in parallel
    ],
)
def test_structure_that_is_not_known_is_refused(name: str) -> None:
    spec = find_model(f"timm:{name}")
    with torch.device("meta"):
        vit = build(spec)
    with pytest.raises(UsageError, match=f"model timm:{name}: ") as caught:
        fold(vit, spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("attention", ["diff", "gap"])
def test_part_that_is_not_known_is_refused_by_its_name(attention: str, tiny: ModelSpec) -> None:
    change = {"attn_layer": "diff"} if attention == "diff" else {"mlp_layer": timm.layers.SwiGLU}
    vit = timm.create_model(
        tiny.timm_name, **{**tiny.timm_args, "mlp_layer": timm.layers.Mlp, "act_layer": nn.SiLU, **change}
    )
    with pytest.raises(UsageError, match="DiffAttention" if attention == "diff" else "SwiGLU"):
        fold(vit, tiny)


def test_model_that_is_no_vision_transformer_is_refused(tiny: ModelSpec) -> None:
    with pytest.raises(UsageError, match="ResNet is not timm's VisionTransformer"):
        fold(timm.create_model("resnet10t"), tiny)


def test_padding_to_whole_patches_is_refused(tiny: ModelSpec) -> None:
    arguments = {**tiny.timm_args, "patch_size": 15, "dynamic_img_size": True, "dynamic_img_pad": True}
    vit = build(replace(tiny, timm_args=arguments))
    with pytest.raises(UsageError, match="pads 224 px tiles to its 15 px patches; choose another"):
        fold(vit, tiny)


def test_unknown_embedding_is_refused(tiny: ModelSpec) -> None:
    with pytest.raises(UsageError, match='embedding "mean" is not known; choose cls or cls'):
        fold(build(tiny), tiny, embedding="mean")


def test_padded_patch_convolution_is_refused(tiny: ModelSpec) -> None:
    vit = build(tiny)
    vit.patch_embed.proj = nn.Conv2d(3, 96, 14, stride=14, padding=1)
    with pytest.raises(UsageError, match="only an unpadded convolution"):
        fold(vit, tiny)


@pytest.mark.parametrize("bias", [True, False])
def test_folded_convolution_equals_the_formula_in_float64(bias: bool, tiny: ModelSpec) -> None:
    vit = random_model(tiny)
    if not bias:
        vit.patch_embed.proj.bias = None
    weight = vit.patch_embed.proj.weight.detach().double().numpy()
    offset = vit.patch_embed.proj.bias.detach().double().numpy() if bias else np.zeros(96)
    fold_preprocessing(vit, tiny.mean, tiny.std)
    tile = np.random.default_rng(0).integers(0, 256, (14, 14, 3)).astype(np.float64)
    normalized = (tile / 255 - np.array(tiny.mean)) / np.array(tiny.std)
    wanted = np.einsum("ochw,hwc->o", weight, normalized) + offset
    folded = vit.patch_embed.proj
    found = np.einsum("ochw,hwc->o", folded.weight.double().numpy(), tile) + folded.bias.double().numpy()
    # The folded weights are stored in FP32 (6e-8 each) and applied to 588 numbers up to 255: the sum cannot be nearer.
    np.testing.assert_allclose(found, wanted, atol=2e-5)

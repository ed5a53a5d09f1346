"""INT8 linears equal a NumPy formula in integers, with scales that FP16 can hold."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from edgepath.errors import UsageError
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program.calibrate import Ranges, calibrate, linears
from edgepath.program.fold import EdgeModel, fold
from edgepath.program.linear import QuantizedLinear, quantize, quantize_linear, storable_scale


def fp16_scales(absmax: np.ndarray) -> np.ndarray:
    """The smallest FP16 numbers that are not below absmax / 127, by search through all of them; 1 for 0."""
    table = (
        np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    )  # every positive finite one, sorted
    wanted = (absmax.astype(np.float32) / np.float32(127)).astype(np.float64)
    return np.where(absmax > 0, table[np.searchsorted(table, wanted)], 1.0)


@pytest.mark.parametrize(
    "absmax",
    [
        np.random.default_rng(0).uniform(0, 50, 500),
        np.geomspace(1e-9, 8e6, 500),
        127 * np.arange(1, 2000, 7) * 2.0**-24,  # exact steps of FP16's subnormal numbers
        np.array([0.0, 127.0, 127.0 * 6.1e-5, 1e-12]),
    ],
    ids=["usual", "all magnitudes", "subnormal", "edges"],
)
def test_scale_is_the_smallest_fp16_number_that_covers_the_range(absmax: np.ndarray) -> None:
    values = absmax.astype(np.float32)
    scale = storable_scale(torch.from_numpy(values)).numpy()
    assert scale.dtype == np.float32
    np.testing.assert_array_equal(scale, scale.astype(np.float16).astype(np.float32))
    assert (scale >= values / np.float32(127)).all()
    np.testing.assert_array_equal(scale.astype(np.float64), fp16_scales(values))


def linear(inputs: int, outputs: int, *, bias: bool = True, seed: int = 0) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias)
    generator = torch.Generator().manual_seed(seed)
    for value in layer.parameters():
        value.data.copy_(torch.randn(value.shape, generator=generator))
    layer.weight.data *= torch.logspace(-3, 1, outputs)[:, None]  # channels of very different size
    layer.weight.data[0] = 0.0
    return layer


def numpy_integers(values: np.ndarray, scale: np.ndarray | float, lowest: int) -> np.ndarray:
    return np.clip(np.rint(values.astype(np.float64) / scale), lowest, 127).astype(np.int64)


@pytest.mark.parametrize(("inputs", "outputs", "bias"), [(96, 288, True), (256, 96, True), (64, 64, False)])
def test_layer_equals_numpys_int8_formula(inputs: int, outputs: int, bias: bool) -> None:
    layer = linear(inputs, outputs, bias=bias)
    weight = layer.weight.detach().numpy()
    offset = layer.bias.detach().double().numpy() if bias else np.zeros(outputs)
    x = np.random.default_rng(1).normal(size=(2, 5, inputs)).astype(np.float32)
    absmax = float(np.abs(x).max()) * 0.7  # some values are cut off at 127 and -128
    quantized = quantize_linear(layer, absmax)

    weight_scale = fp16_scales(np.abs(weight).max(axis=1))
    input_scale = float(fp16_scales(np.array([absmax]))[0])
    w = numpy_integers(weight, weight_scale[:, None], -127)
    q = numpy_integers(x, input_scale, -128)
    assert q.min() == -128
    assert q.max() == 127
    assert quantized.weight.dtype == torch.int8
    np.testing.assert_array_equal(quantized.weight.numpy(), w)
    np.testing.assert_array_equal(quantized.weight_scale.numpy(), weight_scale.astype(np.float32))
    assert quantized.input_scale == input_scale

    with torch.inference_mode():
        found = quantized(torch.from_numpy(x)).double().numpy()
    steps = weight_scale * input_scale
    # What the layer adds up are whole steps; FP32 holds the sum to a small fraction of one (0.1 is asked for).
    sums = q @ w.T
    as_steps = (found - offset) / steps
    alive = steps > np.abs(offset) * 1e-5  # below, FP32 has no digits left for a single step beside the bias
    assert alive.sum() > outputs // 2
    np.testing.assert_allclose(as_steps[..., alive], sums[..., alive], atol=0.1)
    np.testing.assert_array_equal(np.rint(as_steps[..., alive]), sums[..., alive])
    np.testing.assert_allclose(found, sums * steps + offset, rtol=1e-5, atol=1e-5)


def test_weights_come_back_to_half_a_step() -> None:
    layer = linear(64, 32)
    quantized = quantize_linear(layer, 1.0)
    back = quantized.weight.numpy() * quantized.weight_scale.numpy()[:, None].astype(np.float64)
    error = np.abs(back - layer.weight.detach().numpy()).max(axis=1)
    assert (error <= 0.5001 * quantized.weight_scale.numpy()).all()
    assert quantized.weight.abs().max() == 127 or quantized.weight.abs().max() == 126  # the range is used


@pytest.mark.parametrize("scale", [1e-6, 3e-5, 1.0])
def test_scales_below_fp16s_normal_numbers_round_with_the_scale_as_stored(scale: float) -> None:
    layer = linear(16, 4)
    layer.weight.data = torch.full((4, 16), 127.0 * scale) * torch.linspace(0.1, 1, 16)
    quantized = quantize_linear(layer, 1.0)
    stored = float(np.float16(quantized.weight_scale[0].item()))
    assert stored == quantized.weight_scale[0].item()
    np.testing.assert_array_equal(quantized.weight.numpy(), numpy_integers(layer.weight.detach().numpy(), stored, -127))


def test_layer_that_never_saw_anything_stays_finite() -> None:
    quantized = quantize_linear(linear(8, 4), 0.0)
    assert quantized.input_scale == 1.0
    assert torch.isfinite(quantized(torch.zeros(1, 8))).all()


@pytest.fixture(scope="module")
def folded(tiny: ModelSpec) -> EdgeModel:
    return fold(random_model(tiny), tiny)


@pytest.fixture(scope="module")
def ranges(folded: EdgeModel, tiles: np.ndarray) -> Ranges:
    return calibrate(folded, [tiles[:4]])


def test_every_linear_of_the_blocks_becomes_int8_and_nothing_else(folded: EdgeModel, ranges: Ranges) -> None:
    before = dict(folded.named_modules())
    names = set(linears(folded))
    model = quantize(copy.deepcopy(folded), ranges)
    assert linears(model) == {}
    for name, module in model.named_modules():
        if name in names:
            assert isinstance(module, QuantizedLinear)
            assert (module.in_features, module.out_features) == (before[name].in_features, before[name].out_features)
        else:
            assert type(module) is type(before[name])
    assert torch.equal(model.vit.patch_embed.proj.weight, folded.vit.patch_embed.proj.weight)


def test_quantized_model_is_near_the_full_precision_one(folded: EdgeModel, ranges: Ranges, tiles: np.ndarray) -> None:
    with torch.inference_mode():
        wanted = folded(torch.from_numpy(tiles[4:8]))
        found = quantize(copy.deepcopy(folded), ranges)(torch.from_numpy(tiles[4:8]))
    cosines = nn.functional.cosine_similarity(found, wanted)
    assert float(cosines.min()) > 0.999
    assert not torch.equal(found, wanted)


def test_model_is_quantized_in_place(folded: EdgeModel, ranges: Ranges) -> None:
    model = copy.deepcopy(folded)
    assert quantize(model, ranges) is model


@pytest.mark.parametrize("change", ["less", "more", "renamed"])
def test_ranges_of_another_model_are_refused(change: str, folded: EdgeModel, ranges: Ranges) -> None:
    absmax = dict(ranges.absmax)
    name = "vit.blocks.0.attn.qkv"
    if change != "more":
        absmax.pop(name)
    if change != "less":
        absmax["vit.blocks.9.attn.qkv"] = np.ones(96, np.float32)
    model = copy.deepcopy(folded)
    with pytest.raises(UsageError, match=r"ranges do not fit the model: vit\.blocks\.\d\.attn\.qkv is in one"):
        quantize(model, Ranges(absmax, ranges.tiles))
    assert len(linears(model)) == len(ranges.absmax)  # nothing was begun

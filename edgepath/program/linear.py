"""Quantized linears: symmetric, weights per output channel, activations per tensor, in an 8-bit format.

Every device gets the same numbers and the same scales. Devices that compute in FP16 store scales in FP16, so scales
are chosen among the numbers FP16 can hold and the weights are rounded with the scale as it will be stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError, did_you_mean, first_line
from .calibrate import NO_PLAN, Plan, Ranges, linears
from .fold import ClsOnlyBlock, EdgeModel
from .formats import INT8, NumberFormat, format_of
from .operations import dequantize, dequantize_rows

INT8_MAX = 127
_INPUT_SCALE = "input_scale"
_ZERO_POINT = ".weight_zero_point"  # zeros that older versions wrote


class RoundingLinear(nn.Module):
    """A linear layer that rounds its input, (N, T, in).

    `spared` is which of its tokens are not rounded: none, the first of each, or all.
    """

    spared: Literal["none", "first", "all"] = "none"


class QuantizedLinear(RoundingLinear):
    """A linear layer between quantize/dequantize pairs: 8-bit weights (out, in), one input scale, FP32 bias."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(
        self,
        linear: nn.Linear,
        input_scale: float,
        weight_scale: Tensor,
        weight_max: float = INT8_MAX,
        number_format: NumberFormat = INT8,
    ) -> None:
        super().__init__()
        weight = number_format.rounded(linear.weight.detach() / weight_scale[:, None], weight_max)
        self.input_scale = input_scale
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", weight_scale.detach().clone())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    @property
    def number_format(self) -> NumberFormat:
        """The format of its weights and of its rounded input."""
        return format_of(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        if self.spared == "none":
            rounded = dequantized(x, self.input_scale, self.number_format)
            return F.linear(rounded, dequantize_rows(self.weight, self.weight_scale), self.bias)
        weight = dequantize_rows(self.weight, self.weight_scale)
        if self.spared == "all":
            return F.linear(x, weight, self.bias)
        # Cut before the rounding: what follows is one copy, and neighbours that read the same tokens share the cut.
        first = F.linear(x[:, :1], weight, self.bias)
        return torch.cat(
            [first, F.linear(dequantized(x[:, 1:], self.input_scale, self.number_format), weight, self.bias)], 1
        )


def dequantized(x: Tensor, scale: float, number_format: NumberFormat = INT8) -> Tensor:
    """Return `x` rounded to 8 bits, by the pair of operations that every lowering knows."""
    return cast(Tensor, dequantize(number_format.quantize(x, scale), scale))


def quantize_linear(
    linear: nn.Linear, input_absmax: float, weight_bits: int = 8, number_format: NumberFormat = INT8
) -> QuantizedLinear:
    """Quantize one layer by its largest magnitudes: of its input, and of each row of its weights.

    With fewer `weight_bits` than 8 the weights take fewer of the values that `int8` has: -7 to 7 for 4.
    """
    largest = number_format.largest if weight_bits == 8 else weight_max(weight_bits)
    scale = storable_scale(linear.weight.detach().abs().amax(dim=1), largest)
    input_scale = float(storable_scale(torch.tensor(input_absmax), number_format.largest))
    return QuantizedLinear(linear, input_scale, scale, largest, number_format)


def quantize(
    model: EdgeModel,
    ranges: Ranges,
    plan: Plan = NO_PLAN,
    *,
    weight_bits: int = 8,
    keep: Sequence[str] = (),
    number_format: NumberFormat = INT8,
) -> EdgeModel:
    """Replace the linears of the transformer blocks by 8-bit ones, in place, and return the model.

    Those named in `keep` stay as they are. Raises UsageError when `ranges` were taken on a model with other layers, or
    when the model has no layer of a name in `keep`.
    """
    layers = linears(model)
    if set(layers) != set(ranges.absmax):
        odd = sorted(set(layers) ^ set(ranges.absmax))[0]
        raise UsageError(f"calibration ranges do not fit the model: {odd} is in one of them only")
    for name, layer in to_quantize(layers, keep).items():
        replace_layer(model, name, quantize_linear(layer, plan.limit(name, ranges), weight_bits, number_format))
    return model


def to_quantize(layers: dict[str, nn.Linear], keep: Sequence[str]) -> dict[str, nn.Linear]:
    """Return the layers that are not kept in floating point."""
    for name in keep:
        if name not in layers:
            raise UsageError(f"quantize.keep: the model has no linear {name}; {did_you_mean(name, layers)}")
    return {name: layer for name, layer in layers.items() if name not in keep}


def scales(model: nn.Module) -> dict[str, list[float]]:
    """Return of each quantized layer the scale of its input and the mean of its weights' scales: what a program is."""
    return {
        name: [layer.input_scale, float(layer.weight_scale.double().mean())]
        for name, layer in model.named_modules()
        if isinstance(layer, QuantizedLinear) and layer.spared != "all"
    }


def save_program(model: EdgeModel, path: Path) -> None:
    """Write a quantized model's numbers (integers, scales, and all that stays in floating point) as safetensors."""
    from safetensors.torch import save_file

    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedLinear):
            state[f"{name}.{_INPUT_SCALE}"] = torch.tensor(layer.input_scale, dtype=torch.float64)
    save_file(state, path)


def load_program(model: EdgeModel, path: Path) -> EdgeModel:
    """Give a quantized model the numbers that `save_program` wrote, in place. Raises ValueError for another model's."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
        for name, layer in model.named_modules():
            if isinstance(layer, QuantizedLinear):
                layer.input_scale = float(state.pop(f"{name}.{_INPUT_SCALE}"))
        model.load_state_dict({name: value for name, value in state.items() if not name.endswith(_ZERO_POINT)})
    except (SafetensorError, RuntimeError, KeyError, OSError) as error:
        raise ValueError(first_line(error)) from None
    return model


def replace_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` where the module called `name` was."""
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)


def weight_max(bits: int) -> int:
    """Return the largest integer of symmetric weights: 127 for 8 bits, 7 for 4."""
    return int(2 ** (bits - 1)) - 1


def storable_scale(absmax: Tensor, largest: float = INT8_MAX) -> Tensor:
    """Return absmax / `largest` rounded up to a number FP16 can hold, as float32; 1 for an absmax of 0.

    Rounding up keeps the largest value inside the 8-bit range. Scales below FP16's smallest normal number (6.1e-5)
    are still representable, in steps of 6e-8, down to that step.
    """
    wanted = absmax.float() / largest
    half = wanted.half()
    stepped = torch.nextafter(half, torch.full_like(half, torch.inf))
    stored = torch.where(half.float() < wanted, stepped, half).float()
    return torch.where(absmax > 0, stored, torch.ones_like(stored))


ALONE = ("attn.q", "attn.proj", "mlp.fc1", "mlp.fc2")  # what sees no other token in a ClsOnlyBlock


def spare_class_token(model: EdgeModel) -> EdgeModel:
    """Leave the class token's activations unrounded in all linears that round, in place, and return the model."""
    alone = {
        f"vit.blocks.{index}.{name}"
        for index, block in enumerate(model.vit.blocks)
        if isinstance(block, ClsOnlyBlock)
        for name in ALONE
    }
    for name, layer in model.named_modules():
        if isinstance(layer, RoundingLinear):
            layer.spared = "all" if name in alone else "first"
    return model

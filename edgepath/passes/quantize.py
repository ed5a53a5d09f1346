"""INT8 linears: symmetric, weights per output channel, activations per tensor.

Every device gets the same integers and the same scales. Devices that compute in FP16 store scales in FP16, so scales
are chosen among the numbers FP16 can hold and the weights are rounded with the scale as it will be stored.
"""

from __future__ import annotations

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from .calibrate import Ranges, linears
from .fold import EdgeModel

INT8_MAX = 127
_ops = torch.ops.quantized_decomposed


class QuantizedLinear(nn.Module):
    """A linear layer between quantize/dequantize pairs: `int8 (out, in)` weights, one input scale, FP32 bias."""

    weight: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, input_absmax: float) -> None:
        super().__init__()
        scale = storable_scale(linear.weight.detach().abs().amax(dim=1))
        integers = torch.round(linear.weight.detach() / scale[:, None]).clamp(-INT8_MAX, INT8_MAX)
        self.input_scale = float(storable_scale(torch.tensor(input_absmax)))
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("weight", integers.to(torch.int8))
        self.register_buffer("weight_scale", scale)
        self.register_buffer("weight_zero_point", torch.zeros(len(scale), dtype=torch.int64))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        x = _ops.quantize_per_tensor(x, self.input_scale, 0, -128, 127, torch.int8)
        x = _ops.dequantize_per_tensor(x, self.input_scale, 0, -128, 127, torch.int8)
        weight = _ops.dequantize_per_channel(
            self.weight, self.weight_scale, self.weight_zero_point, 0, -INT8_MAX, INT8_MAX, torch.int8
        )
        return F.linear(x, weight, self.bias)


def quantize(model: EdgeModel, ranges: Ranges) -> EdgeModel:
    """Replace the linears of the transformer blocks by INT8 ones, in place, and return the model.

    Raises UsageError when `ranges` were taken on a model with other layers.
    """
    layers = linears(model)
    if set(layers) != set(ranges.absmax):
        odd = sorted(set(layers) ^ set(ranges.absmax))[0]
        raise UsageError(f"calibration ranges do not fit the model: {odd} is in one of them only")
    for name, layer in layers.items():
        quantized = QuantizedLinear(layer, float(ranges.absmax[name].max()))
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, quantized)
    return model


def storable_scale(absmax: Tensor) -> Tensor:
    """Return absmax / 127 rounded up to a number FP16 can hold, as float32; 1 for an absmax of 0.

    Rounding up keeps the largest value inside the 8-bit range. Scales below FP16's smallest normal number (6.1e-5)
    are still representable, in steps of 6e-8, down to that step.
    """
    wanted = absmax.float() / INT8_MAX
    half = wanted.half()
    stepped = torch.nextafter(half, torch.full_like(half, torch.inf))
    stored = torch.where(half.float() < wanted, stepped, half).float()
    return torch.where(absmax > 0, stored, torch.ones_like(stored))

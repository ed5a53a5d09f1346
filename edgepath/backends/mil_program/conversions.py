"""The operations of ML programs that change how numbers are stored: casts, quantization and packed weights.

As in `ops`: MIL's own formulas (coremltools/converters/mil/mil/ops/defs, the release named), computed in FP32.
"""

from __future__ import annotations

import torch
from torch import Tensor

RANGES = {"int8": (-128, 127), "uint8": (0, 255)}


def cast(x: Tensor, dtype: str) -> Tensor:
    # To fp16 and fp32 is a matter of the declared type; to an integer, C's: towards zero.
    if dtype.startswith(("int", "uint")):
        return x.trunc().long() if x.is_floating_point() else x.long()
    return x.bool() if dtype == "bool" else x.float()


def quantize(
    input: Tensor,
    scale: Tensor,
    output_dtype: str,
    zero_point: Tensor | None = None,
    axis: Tensor | None = None,
) -> Tensor:
    """iOS17: `clip(round(input / scale) + zero_point)`.

    coremltools evaluates `round` as NumPy's, half to even, and clips to the whole range of the type, -128 included. Its
    numbers are whole, kept as float32 so that a NaN remains one: no device says what it makes of it, and here it must
    not vanish. An infinity is clipped, as documented.
    """
    lowest, highest = RANGES[output_dtype]
    integers = torch.round(input / _along(scale, input, axis))
    if zero_point is not None:
        integers = integers + _along(zero_point.float(), input, axis)
    return integers.clamp(lowest, highest)


def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    # iOS17: "scale * (input - zero_point)"
    integers = input.float()
    if zero_point is not None:
        integers = integers - _along(zero_point.float(), input, axis)
    return integers * _along(scale, input, axis)


def _along(vector: Tensor, x: Tensor, axis: Tensor | None) -> Tensor:
    """Shape a vector so that it runs along one axis of `x`; a scalar stays one."""
    if vector.dim() == 0 or axis is None:
        return vector
    shape = [1] * x.dim()
    shape[int(axis)] = -1
    return vector.reshape(shape)


def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    # iOS18: "output = scale * (data - offset)", a scale for each block; the block's size is data.shape / scale.shape.
    wide = data.float()
    if offset is not None:
        wide = wide - _blocks(offset.float(), data)
    return wide * _blocks(scale, data)


def _blocks(values: Tensor, data: Tensor) -> Tensor:
    for axis, size in enumerate(data.shape):
        values = values.repeat_interleave(size // values.shape[axis], dim=axis) if values.shape[axis] > 1 else values
    return values

"""The operations that a quantized program is made of, registered with torch: every lowering knows them by name.

Symmetric, 8 bits, no zero-points; of 8-bit floats only quantizing is an operation of its own. `program.forms` says what
they are in ONNX, `backends.coreml` what in an ML program, `program.delegable` what for ExecuTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("edgepath::quantize", mutates_args=())
def quantize(x: Tensor, scale: float) -> Tensor:
    """Return `x`, float32, in steps of `scale`, int8: half to even, clipped to -128 and 127."""
    return torch.clamp(torch.round(x * (1.0 / scale)), -128, 127).to(torch.int8)


@torch.library.custom_op("edgepath::quantize_e4m3", mutates_args=())
def quantize_e4m3(x: Tensor, scale: float) -> Tensor:
    """Return `x`, float32, over `scale` as float8_e4m3fn: half to even, clipped to -448 and 448; NaN stays NaN."""
    return torch.clamp(x * (1.0 / scale), -448, 448).to(torch.float8_e4m3fn)


@torch.library.custom_op("edgepath::dequantize", mutates_args=())
def dequantize(integers: Tensor, scale: float) -> Tensor:
    """Return int8 or float8_e4m3fn times one scale, float32."""
    return integers.float() * scale


@torch.library.custom_op("edgepath::dequantize_rows", mutates_args=())
def dequantize_rows(integers: Tensor, scale: Tensor) -> Tensor:
    """Return int8 or float8_e4m3fn (out, in) times a scale (out,) for each row, float32."""
    return integers.float() * scale[:, None]


@quantize.register_fake
def _(x: Tensor, scale: float) -> Tensor:
    return torch.empty_like(x, dtype=torch.int8)


@quantize_e4m3.register_fake
def _(x: Tensor, scale: float) -> Tensor:
    return torch.empty_like(x, dtype=torch.float8_e4m3fn)


@dequantize.register_fake
def _(integers: Tensor, scale: float) -> Tensor:
    return torch.empty_like(integers, dtype=torch.float32)


@dequantize_rows.register_fake
def _(integers: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(integers, dtype=torch.float32)

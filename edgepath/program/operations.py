"""The operations that a quantized program is made of, registered with torch: every lowering knows them by name.

Symmetric, 8 bits, no zero-points. `program.forms` says what they are in ONNX, `backends.coreml` what in an ML program,
`program.delegable` what for ExecuTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("edgepath::quantize", mutates_args=())
def quantize(x: Tensor, scale: float) -> Tensor:
    """Return `x`, float32, in steps of `scale`, int8: half to even, clipped to -128 and 127."""
    return torch.clamp(torch.round(x * (1.0 / scale)), -128, 127).to(torch.int8)


@torch.library.custom_op("edgepath::dequantize", mutates_args=())
def dequantize(integers: Tensor, scale: float) -> Tensor:
    """Return int8 times one scale, float32."""
    return integers.float() * scale


@torch.library.custom_op("edgepath::dequantize_rows", mutates_args=())
def dequantize_rows(integers: Tensor, scale: Tensor) -> Tensor:
    """Return int8 (out, in) times a scale (out,) for each row, float32."""
    return integers.float() * scale[:, None]


@quantize.register_fake
def _(x: Tensor, scale: float) -> Tensor:
    return torch.empty_like(x, dtype=torch.int8)


@dequantize.register_fake
def _(integers: Tensor, scale: float) -> Tensor:
    return torch.empty_like(integers, dtype=torch.float32)


@dequantize_rows.register_fake
def _(integers: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(integers, dtype=torch.float32)

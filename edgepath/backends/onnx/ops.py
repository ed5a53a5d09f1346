"""The operations of ONNX graphs in torch, one small function each: inputs in ONNX's order, attributes by their names.

The formulas are those of ONNX's operator schemas (onnx.ai/onnx/operators), computed in FP32 and not rounded: what a
value is stored as is its type's business (see `evaluation`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, **how: Any) -> Tensor:
    pads, rank = how.get("pads", [0] * 2 * (x.dim() - 2)), x.dim() - 2
    if how.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError("auto_pad is not evaluated; give pads")
    x = functional.pad(x, [side for axis in reversed(range(rank)) for side in (pads[axis], pads[axis + rank])])
    convolve: Callable[..., Tensor] = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    stride, dilation = how.get("strides", [1] * rank), how.get("dilations", [1] * rank)
    return convolve(x, weight, bias, stride=stride, dilation=dilation, groups=how.get("group", 1))


def gemm(a: Tensor, b: Tensor, c: Tensor | None = None, **how: Any) -> Tensor:
    a, b = a.mT if how.get("transA") else a, b.mT if how.get("transB") else b
    product = a @ b * float(how.get("alpha", 1.0))
    return product if c is None else product + c * float(how.get("beta", 1.0))


def layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None = None, **how: Any) -> Tensor:
    axis = how.get("axis", -1) % x.dim()
    return functional.layer_norm(x, x.shape[axis:], scale, bias, how.get("epsilon", 1e-5))


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int = 1, saturate: int = 1) -> Tensor:
    """Half to even, clipped: to the numbers of E4M3, or to integers. Stays float32: made an integer, NaN vanishes."""
    if zero_point is not None and zero_point.dtype == torch.float8_e4m3fn:
        if zero_point.float().any() or not saturate:
            raise ValueError("an 8-bit float with a zero-point, or that does not saturate, is not evaluated")
        return to_e4m3(x / _along(scale, x, axis))
    signed = zero_point is not None and zero_point.dtype == torch.int8
    low, high = (-128, 127) if signed else (0, 255)
    integers = torch.round(x / _along(scale, x, axis))
    return (integers if zero_point is None else integers + _along(zero_point.float(), x, axis)).clamp(low, high)


def dequantize(x: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int = 1) -> Tensor:
    integers = x.float() if zero_point is None else x.float() - _along(zero_point.float(), x, axis)
    return integers * _along(scale, x, axis)


def to_e4m3(x: Tensor) -> Tensor:
    """Return the nearest numbers of E4M3, half to even, clipped to 448, as float32."""
    return x.clamp(-448, 448).to(torch.float8_e4m3fn).float()


def _along(vector: Tensor, x: Tensor, axis: int) -> Tensor:
    """Shape a vector so that it runs along one axis of `x`; a scalar stays one."""
    if vector.dim() == 0:
        return vector
    shape = [1] * x.dim()
    shape[axis] = -1
    return vector.reshape(shape)


def reshape(x: Tensor, shape: Tensor, allowzero: int = 0) -> Tensor:
    wanted = shape.tolist()
    return x.reshape(wanted if allowzero else [size or x.shape[axis] for axis, size in enumerate(wanted)])


def slice_(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    along = axes.tolist() if axes is not None else range(len(starts))
    strides = steps.tolist() if steps is not None else [1] * len(starts)
    kept = [slice(None)] * x.dim()
    for axis, start, end, step in zip(along, starts.tolist(), ends.tolist(), strides, strict=True):
        kept[axis] = slice(*slice(start, end, step).indices(x.shape[axis]))  # torch raises for a step below 1
    return x[tuple(kept)]


def split(x: Tensor, sizes: Tensor | None = None, axis: int = 0, num_outputs: int = 0) -> tuple[Tensor, ...]:
    if sizes is not None:
        return torch.split(x, sizes.tolist(), dim=axis)
    return torch.split(x, -(-x.shape[axis] // num_outputs), dim=axis)


def gather(x: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    picked = x.index_select(axis, (indices % x.shape[axis]).reshape(-1))
    axis %= x.dim()
    return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes.tolist()))


def unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def reduce_mean(x: Tensor, axes: Tensor | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    if axes is None and noop_with_empty_axes:
        return x
    return x.mean(list(range(x.dim())) if axes is None else axes.tolist(), keepdim=bool(keepdims))


def gelu(x: Tensor, approximate: bytes = b"none") -> Tensor:
    return functional.gelu(x, approximate=approximate.decode())


def shape(x: Tensor, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int64)[start:end]


MOVES = ("Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
"""Operations that make no new numbers: what they hand on was rounded before."""

OPERATIONS: dict[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    "Add": torch.add,
    "Cast": lambda x, to, **_: x,  # a matter of the output's type
    "Clip": lambda x, low=None, high=None: torch.clamp(x, low, high),
    "Concat": lambda *values, axis: torch.cat(values, dim=axis),
    "Conv": conv,
    "DequantizeLinear": dequantize,
    "Div": torch.div,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Expand": lambda x, shape: x * torch.ones(shape.tolist(), dtype=x.dtype),
    "Gather": gather,
    "Gelu": gelu,
    "Gemm": gemm,
    "Identity": lambda x: x,
    "LayerNormalization": layer_norm,
    "MatMul": torch.matmul,
    "Mul": torch.mul,
    "Pow": lambda x, power: x.pow(power.to(x.dtype)),
    "QuantizeLinear": quantize,
    "ReduceMean": reduce_mean,
    "Relu": torch.relu,
    "Reshape": reshape,
    "Shape": shape,
    "Sigmoid": torch.sigmoid,
    "Slice": slice_,
    "Softmax": lambda x, axis=-1: torch.softmax(x, dim=axis),
    "Split": split,
    "Sqrt": torch.sqrt,
    "Squeeze": squeeze,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
    "Transpose": lambda x, perm: x.permute(perm),
    "Unsqueeze": unsqueeze,
}

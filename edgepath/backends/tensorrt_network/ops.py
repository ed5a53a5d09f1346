"""The layers of TensorRT networks in torch, a small function each: inputs in TensorRT's order, settings by name.

The formulas are those of TensorRT's operator reference, computed in FP32 and not rounded: what a value is stored as is
its type's business (see `evaluation`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Given = Sequence["Tensor | None"]


def _axes(mask: int, rank: int) -> list[int]:
    """Return the axes of a bit mask."""
    return [axis for axis in range(rank) if mask >> axis & 1]


def _along(vector: Tensor, x: Tensor, axis: int) -> Tensor:
    if vector.numel() == 1:
        return vector.reshape(())
    shape = [1] * x.dim()
    shape[axis] = -1
    return vector.reshape(shape)


def constant(value: Any) -> Tensor:
    return torch.from_numpy(value.astype("float32") if value.dtype.name == "float8_e4m3fn" else value)


def shuffle(x: Tensor, *dims: Tensor | None, first_transpose: Any, second_transpose: Any, **how: Any) -> Tensor:
    x = x.permute(first_transpose[: x.dim()])
    wanted = dims[0].tolist() if dims and dims[0] is not None else how.get("reshape_dims")
    if wanted is not None:
        kept = [x.shape[at] if size == 0 and how["zero_is_placeholder"] else size for at, size in enumerate(wanted)]
        x = x.reshape(kept)
    return x.permute(second_transpose[: x.dim()])


def slice_(x: Tensor, *given: Tensor | None, mode: str, axes: Any = None, **how: Any) -> Tensor:
    """Element i of an axis is the one at start + i x stride; a stride of 0 repeats one."""
    if mode not in ("STRICT_BOUNDS", "CLAMP") or any(tensor is not None for tensor in given[3:]):
        raise ValueError(f"a slice of mode {mode}, or with axes that are computed, is not evaluated")
    tensors = dict(zip(("start", "shape", "stride"), given, strict=False))
    values = [t.tolist() if (t := tensors.get(key)) is not None else how[key] for key in ("start", "shape", "stride")]
    for axis, start, size, stride in zip(axes or range(x.dim()), *values, strict=True):
        places = start + stride * torch.arange(size)
        x = x.index_select(axis, places.clamp(0, x.shape[axis] - 1) if mode == "CLAMP" else places)
    return x


def gather(x: Tensor, indices: Tensor, axis: int, mode: str, num_elementwise_dims: int) -> Tensor:
    if mode != "DEFAULT" or num_elementwise_dims:
        raise ValueError(f"a gather of mode {mode} is not evaluated")
    picked = x.index_select(axis, (indices % x.shape[axis]).reshape(-1))
    return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def matrix_multiply(a: Tensor, b: Tensor, op0: str, op1: str) -> Tensor:
    if "VECTOR" in (op0, op1):
        raise ValueError("a product with a vector is not evaluated")
    return (a.mT if op0 == "TRANSPOSE" else a) @ (b.mT if op1 == "TRANSPOSE" else b)


def convolution(x: Tensor, *given: Tensor | None, kernel: Any, bias: Any, **how: Any) -> Tensor:
    if how["pre_padding"] != how["post_padding"]:
        raise ValueError("a convolution that pads one side more is not evaluated")
    weight, offset = [*given, None, None][:2]
    shape = (how["num_output_maps"], x.shape[1] // how["num_groups"], *how["kernel_size_nd"])
    weight = torch.from_numpy(kernel).float().reshape(shape) if weight is None else weight
    offset = torch.from_numpy(bias).float() if offset is None and len(bias) else offset
    padding, dilation = how["pre_padding"], how["dilation_nd"]
    return functional.conv2d(x, weight, offset, how["stride_nd"], padding, dilation, how["num_groups"])


def normalization(x: Tensor, scale: Tensor, bias: Tensor, axes: int, epsilon: float, num_groups: int) -> Tensor:
    if num_groups != 1:
        raise ValueError("a norm of groups is not evaluated")
    over = _axes(axes, x.dim())
    centred = x - x.mean(over, keepdim=True)
    return centred / (centred.square().mean(over, keepdim=True) + epsilon).sqrt() * scale + bias


def quantize(x: Tensor, scale: Tensor, zero: Tensor | None = None, axis: int = -1) -> Tensor:
    """In steps of the scale: to what the steps are rounded, is a matter of the output's type."""
    if zero is not None and zero.any():
        raise ValueError("a zero-point is not evaluated")
    return x / _along(scale, x, axis)


def dequantize(x: Tensor, scale: Tensor, zero: Tensor | None = None, axis: int = -1) -> Tensor:
    if zero is not None and zero.any():
        raise ValueError("a zero-point is not evaluated")
    return x.float() * _along(scale, x, axis)


def attention(q: Tensor, k: Tensor, v: Tensor, plain: bool) -> Tensor:
    """softmax(Q K^T) V: what scales the logits is a layer before it."""
    if not plain:
        raise ValueError("attention with a mask, or of 8 bits, is not evaluated")
    return torch.softmax(q @ k.mT, dim=-1) @ v


def reduce(x: Tensor, op: str, axes: int, keep_dims: bool) -> Tensor:
    return {"AVG": torch.mean, "SUM": torch.sum}[op](x, _axes(axes, x.dim()), keepdim=keep_dims)


def softmax(x: Tensor, axes: int) -> Tensor:
    (axis,) = _axes(axes, x.dim())
    return torch.softmax(x, dim=axis)


def unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    rank = x.dim() + axes.numel()
    for axis in sorted(axis % rank for axis in axes.reshape(-1).tolist()):
        x = x.unsqueeze(axis)
    return x


def divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


_TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "AND": torch.logical_and,
    "DIV": divide,
    "EQUAL": torch.eq,
    "FLOOR_DIV": torch.floor_divide,
    "GREATER": torch.gt,
    "LESS": torch.lt,
    "MAX": torch.maximum,
    "MIN": torch.minimum,
    "OR": torch.logical_or,
    "POW": torch.pow,
    "PROD": torch.mul,
    "SUB": torch.sub,
    "SUM": torch.add,
}
_ONE: dict[str, Callable[[Tensor], Tensor]] = {
    "ABS": torch.abs,
    "ERF": torch.erf,
    "EXP": torch.exp,
    "NEG": torch.neg,
    "RECIP": torch.reciprocal,
    "SQRT": torch.sqrt,
}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "GELU_ERF": functional.gelu,
    "GELU_TANH": lambda x: functional.gelu(x, approximate="tanh"),
    "RELU": torch.relu,
    "SIGMOID": torch.sigmoid,
    "TANH": torch.tanh,
}

MOVES = ("CONCATENATION", "GATHER", "SELECT", "SHUFFLE", "SLICE", "SQUEEZE", "UNSQUEEZE")
"""Layers that make no new numbers: what they hand on was rounded before."""

LAYERS: dict[str, Callable[..., Tensor]] = {
    "ACTIVATION": lambda x, type, **_: _ACTIVATIONS[type](x),
    "ATTENTION_INPUT": attention,
    "ATTENTION_OUTPUT": lambda x: x,
    "CAST": lambda x: x,  # a matter of the output's type
    "CONCATENATION": lambda *values, axis: torch.cat(values, dim=axis),
    "CONSTANT": constant,
    "CONVOLUTION": convolution,
    "DEQUANTIZE": dequantize,
    "ELEMENTWISE": lambda a, b, op: _TWO[op](a, b),
    "GATHER": gather,
    "IDENTITY": lambda x: x,
    "MATRIX_MULTIPLY": matrix_multiply,
    "NORMALIZATION": normalization,
    "QUANTIZE": quantize,
    "REDUCE": reduce,
    "SELECT": lambda choose, a, b: torch.where(choose, a, b),
    "SHAPE": lambda x: torch.tensor(x.shape),
    "SHUFFLE": shuffle,
    "SLICE": slice_,
    "SOFTMAX": softmax,
    "SQUEEZE": lambda x, axes: x.squeeze(tuple(axes.reshape(-1).tolist())),
    "UNARY": lambda x, op: _ONE[op](x),
    "UNSQUEEZE": unsqueeze,
}

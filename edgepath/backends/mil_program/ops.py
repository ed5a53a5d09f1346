"""The operations of ML programs in torch, one small function each, parameters named as MIL names them.

The formulas are those of MIL's own documentation (coremltools/converters/mil/mil/ops/defs; iOS15 unless a comment says
otherwise). Each function computes in FP32 and does not round: what a value is stored as is its declaration's business
(see `evaluation`). So sums are added up in FP32 and rounded once; a device may add in FP16, or in another order. For
`add`, `mul` and `real_div` of FP16 values this is FP16 arithmetic itself: 24 bits are enough that rounding
twice changes nothing (Figueroa, "When is double rounding innocuous?", 1995).

Values are tensors (float32; int64 and bool for indices and flags; int8, uint8 for stored integers) or, for names, str.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .conversions import cast, constexpr_blockwise_shift_scale, dequantize, quantize
from .windows import conv, ints

# --- products


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.linear(x, weight, bias)


def matmul(x: Tensor, y: Tensor, transpose_x: Tensor | bool = False, transpose_y: Tensor | bool = False) -> Tensor:
    # "transpose_x: Use True to transpose the last two dimensions"; of a vector there are none.
    x = x.mT if transpose_x and x.dim() > 1 else x
    y = y.mT if transpose_y and y.dim() > 1 else y
    return torch.matmul(x, y)


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    # iOS18. One operation, so scores and weights stay in FP32 here. Written out, not torch's fused one: as documented.
    scores = query @ key.mT / query.shape[-1] ** 0.5
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return torch.softmax(scores, dim=-1) @ value


# --- normalisation and activation


def layer_norm(
    x: Tensor,
    axes: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    dims = sorted(axis % x.dim() for axis in ints(axes)) if axes is not None else list(range(x.dim()))
    centred = x - x.mean(dims, keepdim=True)
    y = centred * torch.rsqrt(centred.square().mean(dims, keepdim=True) + float(epsilon))
    shape = [size if axis in dims else 1 for axis, size in enumerate(x.shape)]
    y = y * gamma.reshape(shape) if gamma is not None else y
    return y + beta.reshape(shape) if beta is not None else y


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return functional.gelu(x, approximate={"EXACT": "none", "TANH_APPROXIMATION": "tanh"}[mode])


def softmax(x: Tensor, axis: Tensor | int = -1) -> Tensor:
    return torch.softmax(x, dim=int(axis))


# --- reductions


def reduce_mean(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | bool = False) -> Tensor:
    return x.mean(ints(axes) if axes is not None else list(range(x.dim())), keepdim=bool(keep_dims))


# --- shape


def reshape(x: Tensor, shape: Tensor) -> Tensor:
    wanted = ints(shape)
    if len(wanted) == x.dim():  # "0: if K == rank(x) then inheriting from the corresponding dimension"
        wanted = [size or x.shape[axis] for axis, size in enumerate(wanted)]
    return x.reshape(wanted)


def transpose(x: Tensor, perm: Tensor) -> Tensor:
    return x.permute(ints(perm))


def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(ints(axes)))


def concat(values: Sequence[Tensor], axis: Tensor, interleave: Tensor | bool = False) -> Tensor:
    if interleave:
        dim = int(axis) % values[0].dim()
        return torch.stack(list(values), dim=dim + 1).flatten(dim, dim + 1)
    return torch.cat(list(values), dim=int(axis))


def split(
    x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None
) -> tuple[Tensor, ...]:
    dim = int(axis)
    if split_sizes is not None:
        return torch.split(x, ints(split_sizes), dim=dim)
    if num_splits is None or x.shape[dim] % int(num_splits):
        raise ValueError(f"{x.shape[dim]} cannot be split into {num_splits} parts")
    return torch.split(x, x.shape[dim] // int(num_splits), dim=dim)


def slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    # NumPy's slicing; a mask says that the bound is left out, or that the axis is indexed instead and goes away.
    first, last = ints(begin), ints(end)
    steps = ints(stride) if stride is not None else [1] * x.dim()
    no_first, no_last, index = (
        [bool(flag) for flag in mask] if mask is not None else [False] * x.dim()
        for mask in (begin_mask, end_mask, squeeze_mask)
    )
    for axis in range(x.dim()):
        size = x.shape[axis]
        part = slice(None if no_first[axis] else first[axis], None if no_last[axis] else last[axis], steps[axis])
        kept = [(0 if no_first[axis] else first[axis]) % size] if index[axis] else range(*part.indices(size))
        x = x.index_select(axis, torch.tensor(list(kept), dtype=torch.int64))
    return x.squeeze(tuple(axis for axis in range(x.dim()) if index[axis]))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Name the parameters of a binary function as MIL does; both broadcast as in NumPy."""
    return lambda x, y: function(x, y)


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda x: function(x)


# fmt: off
_NAMED = (
    linear, matmul, conv, scaled_dot_product_attention, layer_norm, gelu, softmax, reduce_mean, reshape, transpose,
    squeeze, concat, split, slice_by_index, cast, quantize, dequantize, constexpr_blockwise_shift_scale,
)
# fmt: on
OPERATIONS: dict[str, Callable[..., Any]] = {function.__name__: function for function in _NAMED}
OPERATIONS |= {
    "add": _binary(torch.add),
    "sub": _binary(torch.sub),
    "mul": _binary(torch.mul),
    "real_div": _binary(torch.true_divide),
    "relu": _unary(torch.relu),
    "sigmoid": _unary(torch.sigmoid),
    "silu": _unary(functional.silu),
}

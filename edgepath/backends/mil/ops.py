"""The operations of ML programs in torch, one small function each, parameters named as MIL names them.

The formulas are those of MIL's own documentation (coremltools/converters/mil/mil/ops/defs; iOS15 unless a comment says
otherwise). Each function computes in FP32 and does not round: what a value is stored as is its declaration's business
(see `evaluation`). So sums are added up in FP32 and rounded once; a device may add in FP16, or in another order. For
`add`, `mul`, `real_div` and `sqrt` of FP16 values this is FP16 arithmetic itself: 24 bits are enough that rounding
twice changes nothing (Figueroa, "When is double rounding innocuous?", 1995).

Values are tensors (float32; int64 and bool for indices and flags; int8, uint8 for stored integers) or, for names, str.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .conversions import (
    cast,
    constexpr_affine_dequantize,
    constexpr_blockwise_shift_scale,
    constexpr_cast,
    constexpr_lut_to_dense,
    constexpr_sparse_to_dense,
    dequantize,
    quantize,
)
from .windows import (
    avg_pool,
    conv,
    ints,
    last_first,
    max_pool,
)

# --- products


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.linear(x, weight, bias)


def matmul(x: Tensor, y: Tensor, transpose_x: Tensor | bool = False, transpose_y: Tensor | bool = False) -> Tensor:
    # "transpose_x: Use True to transpose the last two dimensions"; of a vector there are none.
    x = x.mT if transpose_x and x.dim() > 1 else x
    y = y.mT if transpose_y and y.dim() > 1 else y
    return torch.matmul(x, y)


def einsum(values: Sequence[Tensor], equation: str) -> Tensor:
    return torch.einsum(equation, *values)


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


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    return functional.batch_norm(x, mean, variance, gamma, beta, eps=float(epsilon))


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return functional.gelu(x, approximate={"EXACT": "none", "TANH_APPROXIMATION": "tanh"}[mode])


def softmax(x: Tensor, axis: Tensor | int = -1) -> Tensor:
    return torch.softmax(x, dim=int(axis))


def log(x: Tensor, epsilon: Tensor | float = 1e-45) -> Tensor:
    return torch.log(x + float(epsilon))


def clip(x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
    return x.clamp(float(alpha), float(beta))


def rsqrt(x: Tensor, epsilon: Tensor | float = 1e-12) -> Tensor:
    return torch.rsqrt(x + float(epsilon))


def inverse(x: Tensor, epsilon: Tensor | float = 1e-4) -> Tensor:
    return 1.0 / (x + float(epsilon))


# --- reductions


def _reduction(reduce: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduced(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | bool = False) -> Tensor:
        return reduce(x, ints(axes) if axes is not None else list(range(x.dim())), keepdim=bool(keep_dims))

    return reduced


def _sum_square(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    return x.square().sum(dims, keepdim=keepdim)


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


def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    rank = x.dim() + len(ints(axes))  # axes count in the result's dimensions
    for axis in sorted(axis % rank for axis in ints(axes)):
        x = x.unsqueeze(axis)
    return x


def concat(values: Sequence[Tensor], axis: Tensor, interleave: Tensor | bool = False) -> Tensor:
    if interleave:
        dim = int(axis) % values[0].dim()
        return torch.stack(list(values), dim=dim + 1).flatten(dim, dim + 1)
    return torch.cat(list(values), dim=int(axis))


def stack(values: Sequence[Tensor], axis: Tensor) -> Tensor:
    return torch.stack(list(values), dim=int(axis))


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


def slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    for axis, (first, count) in enumerate(zip(ints(begin), ints(size), strict=True)):
        first %= x.shape[axis]
        x = x.narrow(axis, first, x.shape[axis] - first if count == -1 else count)  # "-1: until the end"
    return x


def tile(x: Tensor, reps: Tensor) -> Tensor:
    return x.repeat(ints(reps))


def pad(x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Tensor | float = 0.0) -> Tensor:
    if mode == "constant":
        return functional.pad(x, last_first(ints(pad)), value=float(constant_val))
    return functional.pad(x, last_first(ints(pad)), mode=mode)


def gather(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | int = 0,
    batch_dims: Tensor | int = 0,
    validate_indices: Tensor | bool = False,
) -> Tensor:
    # "K = D[:axis] + N[batch_dims:] + D[axis+1:]": the first batch_dims axes of both run side by side.
    dim, shared = int(axis) % x.dim(), int(batch_dims)
    places = indices.long() % x.shape[dim]
    if shared:
        rows = zip(x.flatten(0, shared - 1), places.flatten(0, shared - 1), strict=True)
        taken = torch.stack([gather(row, where, axis=dim - shared) for row, where in rows])
        return taken.reshape(*x.shape[:shared], *taken.shape[1:])
    taken = x.index_select(dim, places.reshape(-1))
    return taken.reshape((*x.shape[:dim], *indices.shape, *x.shape[dim + 1 :]))


def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond.bool(), a, b)


def identity(x: Tensor) -> Tensor:
    return x


def _two(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Name the parameters of a binary function as MIL does; both broadcast as in NumPy."""
    return lambda x, y: function(x, y)


def _one(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda x: function(x)


# fmt: off
_NAMED = (
    linear, matmul, einsum, conv, max_pool, avg_pool, scaled_dot_product_attention, layer_norm, batch_norm, gelu,
    softmax, log, clip, rsqrt, inverse, select,
    reshape, transpose, squeeze, expand_dims, concat, stack, split, slice_by_index, slice_by_size, tile, pad, gather,
    identity, cast, quantize, dequantize, constexpr_blockwise_shift_scale, constexpr_affine_dequantize,
    constexpr_lut_to_dense, constexpr_sparse_to_dense, constexpr_cast,
)
# fmt: on
OPERATIONS: dict[str, Callable[..., Any]] = {function.__name__: function for function in _NAMED}
OPERATIONS |= {
    "add": _two(torch.add),
    "sub": _two(torch.sub),
    "mul": _two(torch.mul),
    "real_div": _two(torch.true_divide),
    "maximum": _two(torch.maximum),
    "minimum": _two(torch.minimum),
    "pow": _two(torch.pow),
    "equal": _two(torch.eq),
    "not_equal": _two(torch.ne),
    "greater": _two(torch.gt),
    "greater_equal": _two(torch.ge),
    "less": _two(torch.lt),
    "less_equal": _two(torch.le),
    "logical_and": _two(torch.logical_and),
    "logical_or": _two(torch.logical_or),
    "logical_not": _one(torch.logical_not),
    "floor": _one(torch.floor),
    "ceil": _one(torch.ceil),
    "round": _one(torch.round),
    "sign": _one(torch.sign),
    "abs": _one(torch.abs),
    "exp": _one(torch.exp),
    "erf": _one(torch.erf),
    "sqrt": _one(torch.sqrt),
    "square": _one(torch.square),
    "tanh": _one(torch.tanh),
    "sigmoid": _one(torch.sigmoid),
    "relu": _one(torch.relu),
    "silu": _one(functional.silu),
    "reduce_mean": _reduction(torch.mean),
    "reduce_sum": _reduction(torch.sum),
    "reduce_max": _reduction(torch.amax),
    "reduce_min": _reduction(torch.amin),
    "reduce_sum_square": _reduction(_sum_square),
}

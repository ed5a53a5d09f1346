"""The operations of ML programs that slide a window: convolution and pooling, in torch, as `ops` says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional


def ints(value: Tensor) -> list[int]:
    """Return a constant vector (or scalar) of indices as a list."""
    return [int(one) for one in value.reshape(-1)]


def last_first(pairs: Sequence[int]) -> list[int]:
    """MIL gives (before, after) of the first axis first, torch of the last."""
    return [size for axis in reversed(range(0, len(pairs), 2)) for size in pairs[axis : axis + 2]]


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | int = 1,
) -> Tensor:
    spatial = x.dim() - 2
    step, spread = (ints(one) if one is not None else [1] * spatial for one in (strides, dilations))
    reach = [(size - 1) * gap + 1 for size, gap in zip(weight.shape[2:], spread, strict=True)]
    x = functional.pad(x, last_first(_padding(x, reach, step, pad_type, pad)))
    convolve: Callable[..., Tensor] = (functional.conv1d, functional.conv2d, functional.conv3d)[spatial - 1]
    return convolve(x, weight, bias, stride=step, dilation=spread, groups=int(groups))


def max_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    ceil_mode: Tensor | bool = False,
) -> Tensor:
    size, step = ints(kernel_sizes), _steps(kernel_sizes, strides)
    pairs = _ceiled(x, size, step, _padding(x, size, step, pad_type, pad), ceil_mode)
    pool: Callable[..., Tensor] = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[x.dim() - 3]
    return pool(functional.pad(x, last_first(pairs), value=-math.inf), size, step)


def avg_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    exclude_padding_from_average: Tensor | bool = False,
    ceil_mode: Tensor | bool = False,
) -> Tensor:
    # "If True, padded values (0s) are excluded from the denominator count"; what ceil_mode adds is never counted.
    size, step = ints(kernel_sizes), _steps(kernel_sizes, strides)
    given = _padding(x, size, step, pad_type, pad)
    pairs = _ceiled(x, size, step, given, ceil_mode)
    pool: Callable[..., Tensor] = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[x.dim() - 3]
    counted = [0] * len(given) if exclude_padding_from_average else given
    ones = functional.pad(torch.ones_like(x), last_first(counted), value=1.0)
    rest = [whole - part for whole, part in zip(pairs, counted, strict=True)]
    share = pool(functional.pad(ones, last_first(rest)), size, step)
    return pool(functional.pad(x, last_first(pairs)), size, step) / share


def _steps(kernel_sizes: Tensor, strides: Tensor | None) -> list[int]:
    return ints(strides) if strides is not None else [1] * kernel_sizes.numel()


def _padding(x: Tensor, reach: Sequence[int], step: Sequence[int], pad_type: str, pad: Tensor | None) -> list[int]:
    """Return (before, after) of each spatial axis.

    "same: d_out[i] = ceil(d_in[i] / strides[i])", an odd one at the end, for "same_lower" at the start.
    """
    if pad_type == "custom" and pad is not None:
        return ints(pad)
    if pad_type in ("valid", "custom"):
        return [0] * (2 * len(reach))
    if pad_type not in ("same", "same_lower"):
        raise ValueError(f"pad_type {pad_type!r}; valid, custom, same and same_lower are evaluated")
    pairs = []
    for size, width, stride in zip(x.shape[2:], reach, step, strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + width - size, 0)
        less, more = total // 2, total - total // 2
        pairs += [less, more] if pad_type == "same" else [more, less]
    return pairs


def _ceiled(
    x: Tensor, size: Sequence[int], step: Sequence[int], pairs: Sequence[int], ceil_mode: Tensor | bool
) -> list[int]:
    """Return the padding with what ceil_mode adds at the end, so that the last window is whole.

    "ceil[(D_in + pad - kernel) / strides] + 1", less one where the last window would begin behind input and padding.
    """
    found = list(pairs)
    for axis, (width, kernel, stride) in enumerate(zip(x.shape[2:], size, step, strict=True)):
        before, after = found[2 * axis : 2 * axis + 2]
        if ceil_mode:
            count = math.ceil((width + before + after - kernel) / stride) + 1
            count -= (count - 1) * stride >= width + before and before + after > 0
            found[2 * axis + 1] += max((count - 1) * stride + kernel - width - before - after, 0)
    return found

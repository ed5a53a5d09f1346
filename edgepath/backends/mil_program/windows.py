"""The operations of ML programs that slide a window: convolution and pooling, in torch, as `ops` says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional


def ints(value: Tensor) -> list[int]:
    """Return a constant vector (or scalar) of indices as a list."""
    return [int(index) for index in value.reshape(-1)]


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
    step, spread = (ints(vector) if vector is not None else [1] * spatial for vector in (strides, dilations))
    reach = [(size - 1) * gap + 1 for size, gap in zip(weight.shape[2:], spread, strict=True)]
    x = functional.pad(x, last_first(_padding(x, reach, step, pad_type, pad)))
    convolve: Callable[..., Tensor] = (functional.conv1d, functional.conv2d, functional.conv3d)[spatial - 1]
    return convolve(x, weight, bias, stride=step, dilation=spread, groups=int(groups))


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

"""The 8-bit number formats that a linear is quantized to: integers, and the floating point of FP8 (E4M3).

E4M3 has 4 bits of exponent, 3 of mantissa, and no infinity; its largest number is 448 (Micikevicius et al.,
arXiv 2209.05433). Its steps grow with the number, so a large value costs small ones little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import operations


@dataclass(frozen=True)
class NumberFormat:
    """A format by the name that recipes call it: a range's largest magnitude becomes `largest`.

    `quantize` is the operation that a program rounds activations with: float32 and a scale -> `dtype`. `tuned` is
    whether it takes the strengths of smoothing and the narrower ranges that `program.tune` chooses. E4M3 does not: its
    steps grow with the number, so a wide range costs little, and what is cut off costs as much as in INT8.
    """

    name: str
    dtype: torch.dtype
    largest: float
    quantize: Callable[[Tensor, float], Tensor]
    tuned: bool

    def rounded(self, steps: Tensor, largest: float) -> Tensor:
        """Return numbers in steps of a scale as `dtype`: half to even, clipped to `largest`."""
        near = steps if self.dtype.is_floating_point else torch.round(steps)
        return near.clamp(-largest, largest).to(self.dtype)


INT8 = NumberFormat("int8", torch.int8, 127, operations.quantize, tuned=True)
FP8 = NumberFormat("fp8", torch.float8_e4m3fn, 448, operations.quantize_e4m3, tuned=False)
FORMATS = {known.name: known for known in (INT8, FP8)}
_BY_DTYPE = {known.dtype: known for known in FORMATS.values()}


def format_of(weight: Tensor) -> NumberFormat:
    """Return the format that quantized weights are stored in."""
    return _BY_DTYPE[weight.dtype]


def to_numpy(weight: Tensor) -> np.ndarray:
    """Return stored weights to the bit, as int8 or ml_dtypes' float8_e4m3fn: NumPy has no 8-bit floats of its own."""
    if weight.dtype != torch.float8_e4m3fn:
        plain: np.ndarray = weight.numpy()
        return plain
    import ml_dtypes

    bits: np.ndarray[Any, Any] = weight.contiguous().view(torch.uint8).numpy()
    return bits.view(ml_dtypes.float8_e4m3fn)

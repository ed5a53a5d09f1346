"""Inference in PyTorch on the CPU, with FP32 linears computed by oneDNN.

By itself torch takes MKL for them, which on AMD's processors with AVX-512 is half as fast (docs/measured/epyc-vnni.md).
Both sum in FP32, in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def inference() -> Iterator[None]:
    """Compute without gradients, linears of FP32 on the CPU by oneDNN where this build of torch has it."""
    with torch.inference_mode(), _LinearByOneDnn():
        yield


def linear(given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return `given` (..., in) times the transpose of `weight` (out, in), plus `bias` (out,), by oneDNN if it fits."""
    if not _fits(given, weight):
        return torch.nn.functional.linear(given, weight, bias)
    product: torch.Tensor = _product()(given, weight, bias, "none", [], "")
    return product


class _LinearByOneDnn(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.linear and not kwargs:
            return linear(*args)
        return func(*args, **(kwargs or {}))


def _fits(given: torch.Tensor, weight: torch.Tensor) -> bool:
    """Tell whether both are plain FP32 on the CPU."""
    return _product() is not None and all(
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        for tensor in (given, weight)
    )


def _product() -> Any:
    """Return oneDNN's product, which torch.compile uses, too; None in a build of torch without it."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)

"""How near a model's values come to the largest number FP16 holds, operation by operation."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

FP16_MAX = 65504.0
# Operations that hand on values which were looked at where they were made.
_MOVES = {"alias", "cat", "chunk", "clone", "contiguous", "copy_", "detach", "dropout", "expand", "flatten"}
_MOVES |= {"lift_fresh", "numpy_T", "permute", "repeat", "reshape", "select", "slice", "split", "split_with_sizes"}
_MOVES |= {"squeeze", "stack", "t", "to", "_to_copy", "transpose", "unbind", "unflatten", "unsqueeze", "_unsafe_view"}
_MOVES |= {"view", "quantize_e4m3", "dequantize", "dequantize_rows"}  # the last three: no farther than what was rounded


@dataclass(frozen=True, order=True)
class Peak:
    """The largest magnitude that an operation of a module made; `place` is the module's name, "" the model itself."""

    largest: float
    place: str
    operation: str

    @property
    def headroom(self) -> float:
        """How many times the value fits into FP16's largest, 65,504; below 1 it overflows."""
        return FP16_MAX / self.largest if self.largest else math.inf


class Peaks(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation of `model` while it runs in a `with` block, in FP32, and keeps what was largest of each.

    Its weights are looked at as well: FP16 has to hold them. Of a product with a bias, what is there before it is added
    counts, too, and of attention as one operation the products of queries and keys: graphs write them out.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._model, self._inside, self._hooks = model, [""], ExitStack()
        self._largest: dict[tuple[str, str], Tensor] = {}
        for name, values in model.named_parameters():
            self._note(name.rpartition(".")[0], name.rpartition(".")[2], values)

    def __enter__(self) -> Peaks:
        for name, module in self._model.named_modules():
            before = module.register_forward_pre_hook(self._entering(name))
            after = module.register_forward_hook(self._leaving)
            self._hooks.callback(before.remove)
            self._hooks.callback(after.remove)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._hooks.close()

    def __torch_dispatch__(
        self, operation: Any, types: Any, given: tuple[Any, ...] = (), how: dict[str, Any] | None = None
    ) -> Any:
        result = operation(*given, **(how or {}))
        name = operation._schema.name.partition("::")[2]
        name = "linear" if name == "_linear_pointwise" else name  # oneDNN's, see `machine.inference`
        if name in _MOVES:
            return result
        first = result[0] if isinstance(result, tuple) else result
        if isinstance(first, Tensor) and first.is_floating_point() and first.numel():
            self._note(self._inside[-1], name, first)
            if name == "linear" and len(given) > 2 and given[2] is not None:
                self._note(self._inside[-1], "linear without bias", first - given[2])
            elif "scaled_dot_product" in name:
                root = given[0].shape[-1] ** -0.25
                self._note(self._inside[-1], "query x key", (given[0] * root) @ (given[1] * root).mT)
        return result

    def nearest(self, count: int = 8, inside: str = "") -> list[Peak]:
        """Return what came nearest to FP16's largest, nearest first; with `inside`, in a module and its parts."""
        within = f"{inside}." if inside else ""
        peaks = (Peak(float(value), place, operation) for (place, operation), value in self._largest.items())
        return heapq.nlargest(count, (peak for peak in peaks if f"{peak.place}.".startswith(within)))

    def _note(self, place: str, operation: str, values: Tensor) -> None:
        low, high = values.detach().aminmax()
        largest = torch.maximum(-low, high)
        known = self._largest.get((place, operation))
        self._largest[place, operation] = largest if known is None else torch.maximum(known, largest)

    def _entering(self, name: str) -> Callable[..., None]:
        return lambda *_: self._inside.append(name)

    def _leaving(self, *_: object) -> None:
        self._inside.pop()

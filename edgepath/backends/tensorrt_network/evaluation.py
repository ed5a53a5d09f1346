"""A TensorRT network computed layer by layer in torch, each value stored as the network declares it.

Each layer computes in FP32, sums included, and its result is rounded once, to FP16 where that is its type: an overflow
shows. A device may keep more where it fuses layers, or sum in another order; the network promises no more than this.
Without rounding, what is left of a difference to the program is structure: a layer that computes something else.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import UsageError, first_line
from ..onnx.ops import to_e4m3
from .network import Layer, Network
from .ops import LAYERS, MOVES


class Evaluator:
    """Computes a network: tensors by input name -> tensors by output name, float32 where they are floats.

    What depends on constants alone is computed once. With `rounding` off, FP16 tensors keep what FP32 holds (constants
    stay what they are). Raises UsageError for a layer that `ops` cannot compute.
    """

    def __init__(self, network: Network, *, rounding: bool = True) -> None:
        self._network, self._rounding = network, rounding
        self._fixed: dict[str, Tensor] = {}
        self._layers = [layer for layer in network.layers if not self._is_fixed(layer)]
        last = {name: place for place, layer in enumerate(self._layers) for name in layer.inputs if name}
        self._finished: list[list[str]] = [[] for _ in self._layers]
        for name in last.keys() - self._fixed.keys() - network.outputs.keys():
            self._finished[last[name]].append(name)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values = {name: self._stored(kind, inputs[name]) for name, (kind, _) in self._network.inputs.items()}
        with torch.inference_mode():
            for layer, finished in zip(self._layers, self._finished, strict=True):
                values |= self._compute(layer, values)
                for name in finished:
                    del values[name]
        return {name: values[name] for name in self._network.outputs}

    def _is_fixed(self, layer: Layer) -> bool:
        """Compute what a layer makes of constants; tell whether there was nothing else in it."""
        if any(name and name not in self._fixed for name in layer.inputs):
            return False
        self._fixed |= self._compute(layer, {})
        return True

    def _compute(self, layer: Layer, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        given = [(values[name] if name in values else self._fixed[name]) if name else None for name in layer.inputs]
        try:
            made = LAYERS[layer.kind](*given, **layer.settings)
        except (TypeError, ValueError, KeyError, IndexError, RuntimeError) as error:
            why = first_line(error)
            raise UsageError(f"TensorRT network: {layer.kind} {layer.name!r} cannot be computed ({why})") from error
        moved = layer.kind in MOVES
        return {layer.outputs[0]: made if moved else self._stored(layer.types[0], made)}

    def _stored(self, kind: str, value: Tensor) -> Tensor:
        """Return a value as its type holds it: integers as they are, floats as float32 that the type can tell apart."""
        if kind == "HALF":
            return value.half().float() if self._rounding else value.float()
        if kind == "BF16":
            return value.bfloat16().float() if self._rounding else value.float()
        if kind in ("INT32", "INT64"):
            return value.long()
        if kind == "INT8":  # half to even, clipped; stays float32: made an integer, a NaN would vanish
            return value.float().round().clamp(-128, 127)
        if kind == "FP8":
            return to_e4m3(value.float())
        return value.float() if kind == "FLOAT" else value

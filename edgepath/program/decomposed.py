"""The program in PyTorch's own operations of 8 bits, and in one floating-point type: what its front ends take.

`quantized_decomposed` is what torch.export programs say INT8 with, so a saved one loads wherever PyTorch is.
"""

from __future__ import annotations

import copy

import torch
import torch.ao.quantization.fx._decomposed  # registers the operations
import torch.nn.functional as F
from torch import Tensor, nn

from .fold import EdgeModel
from .linear import QuantizedLinear, replace_layer

_RANGE = (-128, 127, torch.int8)


class DecomposedLinear(nn.Module):
    """A `QuantizedLinear` with the very integers and scales it has; its floating-point type is its input's."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: QuantizedLinear) -> None:
        super().__init__()
        assert linear.spared == "none", "a class token that is not rounded is for OpenVINO alone"
        self.input_scale = linear.input_scale
        for name in ("weight", "weight_scale", "bias"):
            self.register_buffer(name, getattr(linear, name))

    def forward(self, x: Tensor) -> Tensor:
        known, scale = torch.ops.quantized_decomposed, self.input_scale
        integers = known.quantize_per_tensor(x, scale, 0, *_RANGE)
        rounded = known.dequantize_per_tensor(integers, scale, 0, *_RANGE, out_dtype=x.dtype)
        weight = known.dequantize_per_channel(self.weight, self.weight_scale, None, 0, *_RANGE, out_dtype=x.dtype)
        return F.linear(rounded, weight, self.bias)


class TypedProgram(nn.Module):
    """A folded model computed in one type: uint8 (N, S, S, 3) in, float32 out, as the model itself."""

    def __init__(self, model: EdgeModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = decomposed(model).to(dtype), dtype

    def forward(self, tiles: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        outputs = self.model.encode(tiles.to(self.dtype).permute(0, 3, 1, 2))  # all levels of uint8 are FP16 numbers
        if isinstance(outputs, Tensor):
            return outputs.to(torch.float32)
        return outputs[0].to(torch.float32), outputs[1].to(torch.float32)


def decomposed(model: EdgeModel) -> EdgeModel:
    """Return a copy of a model whose INT8 linears are made of PyTorch's own operations."""
    model = copy.deepcopy(model)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, QuantizedLinear):
            replace_layer(model, name, DecomposedLinear(layer))
    return model


def capture_typed(model: EdgeModel, dtype: torch.dtype) -> torch.export.ExportedProgram:
    """Return the exported program of a model in one type: `tiles`, uint8 (N, S, S, 3) -> float32 (N, D), any N.

    It names no file of the machine it was made on.
    """
    example = torch.zeros(2, model.size, model.size, 3, dtype=torch.uint8)
    with torch.no_grad():
        typed = TypedProgram(model, dtype).eval()
        program = torch.export.export(typed, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program

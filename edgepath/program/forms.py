"""From the one quantized program to ONNX, in the form that every ONNX consumer recognises as INT8, or FP8.

The exporter writes a linear as `MatMul(DQ(Q(x)), Transpose(DQ(W)))`. That is legal and costs the speed-up: with the
Transpose, ONNX Runtime falls back to FP32. So weights are stored transposed. They have no zero-points, which are all
zero: with one constant for all layers, OpenVINO leaves half of the linears in FP32.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from ..backends import builds_of
from ..machine.inference import inference
from ..machine.quiet import quiet
from . import operations as operations  # registers what `torch.ops.edgepath` holds
from .fused_attention import fuse
from .headroom import Peaks
from .split_projections import cut

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..recipes.recipe import Recipe
    from .fold import EdgeModel
    from .linear import QuantizedLinear

OPSET = 20
INPUT = "tiles"
OUTPUTS = ("embedding", "tokens")


class RawImage(nn.Module):
    """The same model behind an image input: float32 (N, 3, S, S) with values 0..255."""

    def __init__(self, model: EdgeModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        return self.model.encode(pixels)


class Program:
    """The program that every artifact is a lowering of; each form is made when a backend asks for it.

    `lowered` is the model that forms are made of: with its products cut, as INT8 on some backends of a `recipe` wants
    it (`program.split_projections`). `facts` go into artifacts, for tools that know nothing of bundles. Where a
    recipe's values are FP16, `peaks` keeps how large they were on what was embedded so far.
    """

    def __init__(self, model: EdgeModel, recipe: Recipe | None = None, facts: Mapping[str, str] | None = None) -> None:
        self.model, self.facts = model, dict(facts or {})
        apart = recipe is not None and recipe.quantized and builds_of(recipe.backend).split_projections
        self.lowered = cut(model) if apart else model
        self.peaks = Peaks(model) if recipe is not None and recipe.fp16 else None
        self.outputs = OUTPUTS if model.tokens else OUTPUTS[:1]

    def onnx(self) -> ModelProto:
        """Return the ONNX form (opset 20): input `tiles` uint8 (N, S, S, 3), outputs float32."""
        return self._named(to_onnx(self.lowered))

    def onnx_fused(self) -> ModelProto:
        """Return the ONNX form with attention as one operation of ONNX Runtime's own."""
        return self._named(to_onnx(fuse(self.lowered)))

    def onnx_fp16(self) -> ModelProto:
        """Return the ONNX form with FP16 tensors inside; inputs and outputs as in `onnx`."""
        return self._named(to_fp16(to_onnx(self.lowered)))

    def _named(self, graph: ModelProto) -> ModelProto:
        """Put what tools ask a graph for into its metadata."""
        del graph.metadata_props[:]
        for key, value in self.facts.items():
            graph.metadata_props.add(key=key, value=value)
        return graph

    def exported_fp16(self) -> torch.export.ExportedProgram:
        """Return the exported program in FP16 and PyTorch's operations of 8 bits; input and outputs as in `onnx`."""
        from .decomposed import capture_typed  # what it registers is not needed for full precision

        return capture_typed(self.lowered, torch.float16)

    def image_program(self) -> torch.export.ExportedProgram:
        """Return the exported program behind an image input, float32 (1, 3, S, S) with values 0..255."""
        return capture_image(self.lowered)

    def with_linears(self, make: Callable[[QuantizedLinear], nn.Module]) -> EdgeModel:
        """Return a copy of `lowered`, its quantized linears replaced by what `make` makes of them."""
        from .linear import QuantizedLinear, replace_layer

        model = copy.deepcopy(self.lowered)
        for name, layer in list(model.named_modules()):
            if isinstance(layer, QuantizedLinear):
                replace_layer(model, name, make(layer))
        return model

    def delegable(self) -> torch.export.ExportedProgram:
        """Return the exported program of one tile, uint8 (1, S, S, 3), in the operations that XNNPACK takes."""
        from .delegable import delegable

        model = delegable(self.lowered)
        with torch.no_grad():
            return torch.export.export(model, (torch.zeros(1, model.size, model.size, 3, dtype=torch.uint8),))

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        """Embed `tiles`, uint8 (N, S, S, 3), in PyTorch: what lowering drift is measured against."""
        with self.peaks or nullcontext():
            return self._embed(_pixels(tiles))

    def nudged(self, tiles: np.ndarray) -> np.ndarray:
        """Embed `tiles` with every pixel moved by a relative 1e-6, about what summing in another order does.

        Rounding to 8 bits amplifies such a nudge: two exact executions of one INT8 program differ this much.
        """
        pixels = _pixels(tiles)
        noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
        return self._embed(pixels * (1.0 + 1e-6 * noise))

    def _embed(self, pixels: torch.Tensor) -> np.ndarray:
        with inference():
            result = self.model.encode(pixels)
        embedding: np.ndarray = (result if isinstance(result, torch.Tensor) else result[0]).numpy()
        return embedding


def _pixels(tiles: np.ndarray) -> torch.Tensor:
    # A copy: torch takes neither negative strides nor, without a warning, arrays that are read-only.
    return torch.from_numpy(np.array(tiles, order="C")).permute(0, 3, 1, 2).to(torch.float32)


def capture(model: EdgeModel) -> torch.export.ExportedProgram:
    """Return the exported program of `model`: uint8 (N, S, S, 3) -> float32 (N, D), any N."""
    example = torch.zeros(2, model.size, model.size, 3, dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def capture_image(model: EdgeModel) -> torch.export.ExportedProgram:
    """Return the exported program behind an image input: float32 (1, 3, S, S) with values 0..255."""
    with torch.no_grad():
        return torch.export.export(RawImage(model), (torch.zeros(1, 3, model.size, model.size),))


def to_onnx(model: EdgeModel) -> ModelProto:
    """Lower `model` to ONNX (opset 20): input `tiles`, outputs `embedding` and, where asked for, `tokens`."""
    outputs = list(OUTPUTS if model.tokens else OUTPUTS[:1])
    with quiet("torch.onnx", "onnxscript", "torch.export"):
        exported = torch.onnx.export(
            capture(model),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=outputs,
            custom_translation_table=_translations(),
            verbose=False,
        )
    assert exported is not None
    graph = exported.model
    fold_weight_transposes(graph)
    _forget_the_machine(graph)
    graph.producer_name, graph.producer_version = "edgepath", None
    proto = ir.to_proto(graph)
    _name_batch(proto)
    return proto


def _name_batch(graph: ModelProto) -> None:
    """Call the number of tiles `batch`, in place: the exporter calls it by a symbol of torch's, such as `s96`."""
    symbol = graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info):
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param:
                side.dim_param = re.sub(rf"\b{re.escape(symbol)}\b", "batch", side.dim_param)


def _translations() -> dict[Any, Callable[..., Any]]:
    """Return what `program.operations` are in ONNX; a zero-point says what kind 8 bits are of."""
    import ml_dtypes
    import onnxscript

    op: Any = onnxscript.opset20

    def quantize(x: Any, scale: float) -> Any:
        return op.QuantizeLinear(x, scale, _zero(op, np.int8))

    def quantize_e4m3(x: Any, scale: float) -> Any:
        return op.QuantizeLinear(x, scale, _zero(op, ml_dtypes.float8_e4m3fn))  # saturates, unless told not to

    def dequantize(integers: Any, scale: float) -> Any:
        return op.DequantizeLinear(integers, scale, _zero(op, integers.dtype.numpy()))

    def dequantize_rows(integers: Any, scale: Any) -> Any:
        return op.DequantizeLinear(integers, scale, axis=0)

    names = torch.ops.edgepath
    return {
        names.quantize.default: quantize,
        names.quantize_e4m3.default: quantize_e4m3,
        names.dequantize.default: dequantize,
        names.dequantize_rows.default: dequantize_rows,
    }


def _zero(op: Any, kind: Any) -> Any:
    return op.Constant(value=ir.tensor(np.array(0, kind)))


def _forget_the_machine(model: ir.Model) -> None:
    """Drop stack traces, paths and the exporter's own notes, in place: they have no place in an artifact."""
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [output for node in model.graph for output in node.outputs]
    for part in (model, model.graph, *model.graph, *values):
        part.metadata_props.clear()
        part.doc_string = None


def fold_weight_transposes(model: ir.Model) -> None:
    """Replace `Transpose(DequantizeLinear(W))` by `DequantizeLinear(W')`, W' stored transposed, in place.

    The products of one linear with different tokens share W, and have a Transpose each.
    """
    for source in [node for node in model.graph if node.op_type == "DequantizeLinear"]:
        turned = [node for node in source.outputs[0].consumers() if node.op_type == "Transpose"]
        weight = source.inputs[0]
        if not turned or weight is None or weight.const_value is None or not weight.is_initializer():
            continue
        stored = np.ascontiguousarray(weight.const_value.numpy().T)
        weight.const_value = ir.Tensor(stored, name=weight.name)
        weight.shape = ir.Shape(stored.shape)
        source.attributes["axis"] = ir.AttrInt64("axis", 1)
        source.outputs[0].shape = ir.Shape(stored.shape)
        for node in turned:
            node.outputs[0].replace_all_uses_with(source.outputs[0])
            model.graph.remove(node, safe=True)


def to_fp16(model: ModelProto) -> ModelProto:
    """Return `model` with FP16 tensors and scales throughout; inputs and outputs keep their types.

    The converter needs no shapes, and those of transposed weights would be stale, so they are dropped first.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    del model.graph.value_info[:]
    with warnings.catch_warnings():
        # It announces every tiny weight that FP16 flushes; drift against the FP32 reference measures what that costs.
        warnings.filterwarnings("ignore", message="the float32 number")
        half: ModelProto = convert_float_to_float16(
            model, keep_io_types=True, op_block_list=[], disable_shape_infer=True
        )
    return half

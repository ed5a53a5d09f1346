"""An ONNX graph computed node by node, each value stored as the graph declares it: what FP16 loses is seen on any CPU.

ONNX Runtime's CPU computes FP16 graphs in FP32: values beyond 65,504 pass through it, and are infinite on a device.
Here each node computes in FP32, sums included, and its result is rounded once, to FP16 where that is its type. A
device may keep more where it fuses nodes, or sum in another order; the graph promises no more than this.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...errors import BundleError, first_line
from .graph import read_graph
from .ops import MOVES, OPERATIONS

if TYPE_CHECKING:
    from onnx import NodeProto

_EIGHT_BITS = ("INT8", "UINT8")


class Evaluator:
    """Computes the graph in a file: tensors by input name -> tensors by output name, float32 where they are floats.

    What depends on constants alone is computed once. Raises BundleError for a node that `ops` does not know.
    """

    def __init__(self, path: Path) -> None:
        from onnx import TensorProto, numpy_helper, shape_inference

        graph = read_graph(path)
        inferred = shape_inference.infer_shapes(graph.model).graph
        self._path, self._nodes = path, graph.nodes
        self.inputs = [value.name for value in graph.model.graph.input if value.name not in graph.constants]
        self.outputs = [value.name for value in graph.model.graph.output]
        self.size = int(graph.model.graph.input[0].type.tensor_type.shape.dim[1].dim_value)
        self._types = {
            value.name: str(TensorProto.DataType.Name(value.type.tensor_type.elem_type))
            for value in (*inferred.value_info, *inferred.input, *inferred.output)
        }
        self._fixed = {name: _number(numpy_helper.to_array(tensor)) for name, tensor in graph.constants.items()}
        for node in graph.nodes:
            self._check(node)
        self._nodes = [node for node in graph.nodes if not self._is_fixed(node)]
        last = {name: place for place, node in enumerate(self._nodes) for name in node.input}
        self._finished: list[list[str]] = [[] for _ in self._nodes]
        for name in last.keys() - self._fixed.keys() - set(self.outputs):
            self._finished[last[name]].append(name)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values = {name: self._stored(name, inputs[name]) for name in self.inputs}
        with torch.inference_mode():
            for node, finished in zip(self._nodes, self._finished, strict=True):
                values |= self._compute(node, values)
                for name in finished:
                    del values[name]
        return {name: values[name] for name in self.outputs}

    def _is_fixed(self, node: NodeProto) -> bool:
        """Compute what a node makes of constants; tell whether there was nothing else in it."""
        if node.op_type != "Constant" and any(name and name not in self._fixed for name in node.input):
            return False
        if node.op_type != "Constant":
            self._fixed |= self._compute(node, {})
        return True

    def _compute(self, node: NodeProto, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        from onnx.helper import get_attribute_value

        given = [(values[name] if name in values else self._fixed[name]) if name else None for name in node.input]
        how = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}
        try:
            result = OPERATIONS[node.op_type](*given, **how)
        except (TypeError, ValueError, KeyError, IndexError, RuntimeError) as error:
            raise BundleError(f"{self._where(node)}: cannot be computed ({first_line(error)})") from error
        results = result if isinstance(result, tuple) else (result,)
        made = zip(node.output, results, strict=True)
        return {name: value if node.op_type in MOVES else self._stored(name, value) for name, value in made}

    def _stored(self, name: str, value: Tensor) -> Tensor:
        """Return a value as its type holds it: integers as they are, floats as float32 that the type can tell apart."""
        kind = self._types[name]
        if kind == "FLOAT16":
            return value.half().float()
        if kind.startswith(("INT", "UINT")) and kind not in _EIGHT_BITS:
            return value.long()
        return value.float() if kind == "FLOAT" else value

    def _check(self, node: NodeProto) -> None:
        if node.op_type != "Constant" and (node.domain not in ("", "ai.onnx") or node.op_type not in OPERATIONS):
            raise BundleError(
                f"{self._where(node)}: this operation is not evaluated; a recipe of your own with "
                'checked_with = "none" exports without evaluation'
            )
        if untyped := [name for name in node.output if name not in self._types and name not in self._fixed]:
            raise BundleError(f"{self._where(node)}: nothing says of what type {untyped[0]} is; export it again")

    def _where(self, node: NodeProto) -> str:
        return f"{self._path.name}: {node.op_type} {node.name!r}"


def _number(values: np.ndarray) -> Tensor:
    """Return a constant as the graph's values are kept: floats in float32, 8 bits as they are, others int64."""
    if values.dtype.name == "float8_e4m3fn":
        return torch.from_numpy(np.array(values.view(np.uint8), order="C")).view(torch.float8_e4m3fn)
    kept = values.astype(np.float32) if values.dtype.kind == "f" else values
    kept = kept if kept.dtype in (np.float32, np.int8, np.uint8, np.bool_) else kept.astype(np.int64)
    return torch.from_numpy(np.array(kept, order="C"))

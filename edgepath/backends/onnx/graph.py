"""An ONNX graph read for inspection: what makes and what uses each value, and what constants hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import UsageError, first_line

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

PRODUCTS = ("MatMul", "Gemm", "Conv")


class Graph:
    """An ONNX graph with what makes and what uses each value."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and (tensor := _constant(node)) is not None:
                self.constants[node.output[0]] = tensor
            elif node.op_type == "Identity" and node.input[0] in self.constants:
                self.constants[node.output[0]] = self.constants[node.input[0]]
        self.made_by = {name: node for node in self.nodes for name in node.output}
        self.used_by: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.used_by.setdefault(name, []).append(node)
        self.opset = next((opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), 0)

    def array(self, name: str) -> np.ndarray | None:
        """Return a constant's values, None for a value that is computed."""
        from onnx import numpy_helper

        tensor = self.constants.get(name)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

    def maker(self, name: str) -> str:
        """Return the operation that makes a value, "" for a constant or an input."""
        node = self.made_by.get(name)
        return "" if node is None else node.op_type

    def users(self, node: NodeProto) -> list[NodeProto]:
        """Return the nodes that use what a node makes."""
        return [user for name in node.output for user in self.used_by.get(name, [])]

    def quantized_type(self, node: NodeProto) -> str:
        """Return the ONNX name of the type that a Q or DQ node rounds to; "" where nothing says it."""
        from onnx import TensorProto

        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            return ""
        asked = next(
            (attribute.i for attribute in node.attribute if attribute.name == "output_dtype" and attribute.i), 0
        )
        tensor = self.constants.get(node.input[2]) if len(node.input) > 2 else None
        tensor = tensor or (self.constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None)
        if tensor is not None:
            return str(TensorProto.DataType.Name(tensor.data_type))
        if asked:
            return str(TensorProto.DataType.Name(asked))
        return "UINT8" if node.op_type == "QuantizeLinear" and len(node.input) < 3 else ""

    def is_weight(self, name: str) -> bool:
        """Tell whether a value is a constant, or one dequantized."""
        node = self.made_by.get(name)
        return name in self.constants or (
            node is not None and node.op_type == "DequantizeLinear" and node.input[0] in self.constants
        )

    def product_of(self, dequantize: NodeProto) -> NodeProto | None:
        """Return the product that a dequantized weight goes into."""
        if dequantize.input[0] not in self.constants:
            return None
        return next((user for user in self.users(dequantize) if user.op_type in PRODUCTS), None)

    def output_axis(self, product: NodeProto, rank: int) -> int:
        """Return along which axis of its weight a product's output channels lie."""
        if product.op_type == "Conv":
            return 0
        turned = product.op_type == "Gemm" and any(
            attribute.name == "transB" and attribute.i for attribute in product.attribute
        )
        return 0 if turned else rank - 1

    def squares(self, node: NodeProto) -> bool:
        """Tell whether a node squares its input."""
        if node.op_type == "Pow":
            power = self.array(node.input[1])
            return power is not None and power.size == 1 and float(power.ravel()[0]) == 2.0
        return bool(node.op_type == "Mul" and node.input[0] == node.input[1])

    def of(self, *kinds: str) -> Iterator[NodeProto]:
        """Yield the nodes of some kinds."""
        return (node for node in self.nodes if node.op_type in kinds)


def read_graph(file: Path) -> Graph:
    """Read a file and check its form. Raises UsageError for no valid ONNX graph, or one whose weights are missing."""
    return Graph(_read(file))


def _read(file: Path) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(file, format="protobuf", load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise UsageError(f"lint {file}: not a whole ONNX file ({first_line(error)})") from None
    if not model.graph.node:
        raise UsageError(f"lint {file}: not an ONNX graph: it holds no node")
    try:
        onnx.load_external_data_for_model(model, str(file.resolve().parent))
    except (onnx.checker.ValidationError, ValueError, OSError) as error:
        why = first_line(error)
        raise UsageError(f"lint {file}: its weights lie in another file ({why}); copy that file beside it") from None
    try:
        onnx.checker.check_model(model)
        for tensor in model.graph.initializer:
            onnx.numpy_helper.to_array(tensor)
    except (onnx.checker.ValidationError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"lint {file}: not a valid ONNX graph ({first_line(error)}); export it again") from None
    return model


def _constant(node: NodeProto) -> TensorProto | None:
    """Return what a Constant node holds; None for what is no number."""
    from onnx import helper, numpy_helper

    held = node.attribute[0]
    if held.name == "value":
        tensor: TensorProto = held.t
        return tensor
    if held.name in ("value_float", "value_floats", "value_int", "value_ints"):
        kind = np.float32 if "float" in held.name else np.int64
        return numpy_helper.from_array(np.array(helper.get_attribute_value(held), kind), node.output[0])
    return None

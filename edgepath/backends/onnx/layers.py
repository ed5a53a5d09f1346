"""Quantized linears cut out of an ONNX file, each run by ONNX Runtime as a graph of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..contents import Found, Layer
from .graph import PRODUCTS, Graph, read_graph
from .parts import bias_of

if TYPE_CHECKING:
    from onnx import NodeProto


def layers(path: Path) -> dict[int, Layer]:
    """Return the layers by their place among the products of a graph that `backends.onnx.parts` reads."""
    graph, by_place = read_graph(path), {}
    products = [node for node in graph.of(*PRODUCTS) if graph.is_weight(node.input[1])]
    for place, node in enumerate(products):
        if (weight := graph.made_by.get(node.input[1])) is None:
            continue  # not quantized
        after = graph.made_by[node.input[0]]
        before = graph.made_by[after.input[0]]
        nodes = [before, after, weight, node]
        if (add := bias_of(graph, node)) is not None:
            nodes.append(add)
        scale = graph.array(before.input[1])
        assert scale is not None
        by_place[place] = Layer(scale.dtype == np.float16, partial(_run, graph, nodes, scale.dtype))
    return by_place


def _run(graph: Graph, nodes: Sequence[NodeProto], dtype: np.dtype, x: np.ndarray) -> Found:
    """Return the 8-bit numbers of the first node, and the output of the last, without and with optimizations."""
    given = x.astype(dtype)
    integers, plain = (
        _output(graph, nodes[:1], given, "ORT_DISABLE_ALL"),
        _output(graph, nodes, given, "ORT_DISABLE_ALL"),
    )
    return integers, plain.astype(np.float32), _output(graph, nodes, given, "ORT_ENABLE_ALL").astype(np.float32)


def _output(graph: Graph, nodes: Sequence[NodeProto], x: np.ndarray, level: str) -> np.ndarray:
    import onnxruntime
    from onnx import TensorProto, helper

    start, end = nodes[0].input[0], nodes[-1].output[0]
    constants = {name: graph.constants[name] for node in nodes for name in node.input if name in graph.constants}
    initializers = []
    for name, tensor in constants.items():
        kept = type(tensor)()
        kept.CopyFrom(tensor)
        kept.name = name
        initializers.append(kept)
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float16): TensorProto.FLOAT16}
    kind = TensorProto.DataType.Value(graph.quantized_type(nodes[0])) if len(nodes) == 1 else kinds[x.dtype]
    # With sizes unknown, as in the whole graph: known ones are fused in another way.
    inputs = [helper.make_tensor_value_info(start, kinds[x.dtype], ["batch", "tokens", x.shape[-1]])]
    outputs = [helper.make_tensor_value_info(end, kind, None)]
    cut = helper.make_graph(nodes, "layer", inputs, outputs, initializers)
    model = helper.make_model(cut, opset_imports=graph.model.opset_import, ir_version=graph.model.ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    output: np.ndarray = session.run([end], {start: x})[0]
    # ONNX Runtime hands 8-bit floats on as their bits.
    return output.view(helper.tensor_dtype_to_np_dtype(kind)) if len(nodes) == 1 else output

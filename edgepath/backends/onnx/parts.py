"""Parts of an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import BundleError, UsageError
from ..contents import Norm, Parts, Product
from .graph import PRODUCTS, Graph, read_graph

# Operations whose constants belong to a product or a norm, and those that only hand one on.
_OWNERS = (*PRODUCTS, "LayerNormalization", "QuantizeLinear", "DequantizeLinear", "Constant", "Identity")

if TYPE_CHECKING:
    from onnx import NodeProto


def read(path: Path) -> Parts:
    """Return the parts of a graph as edgepath writes it. Raises BundleError for a product in another form."""
    try:
        graph = read_graph(path)
    except UsageError as error:
        raise BundleError(str(error).removeprefix("lint ")) from None
    products = [_product(graph, node, path) for node in graph.of(*PRODUCTS) if graph.is_weight(node.input[1])]
    norms = [_norm(graph, node, path) for node in graph.of("LayerNormalization")]
    tables, scalars = [], []
    for node in graph.nodes:
        for name in () if node.op_type in _OWNERS else node.input:
            value = graph.array(name)
            if value is None or value.dtype.kind != "f":
                continue
            if value.size > 1 and not _is_bias(graph, node, value):
                tables.append(value)
            elif value.size == 1 and node.op_type == "Mul":
                scalars.append(float(value.ravel()[0]))
    fused = [_attention(graph, node, path) for node in graph.of("MultiHeadAttention")]
    # One with a scale of its own scales by that; without, by 1/sqrt(d).
    scales = [scale for _, scale in fused]
    scalars += [scale for scale in scales if scale]
    attentions, heads = scales.count(0.0), tuple(count for count, _ in fused)
    both = [node for node in graph.of("MatMul") if not graph.is_weight(node.input[1])]
    rounded = sum(_is_rounded(graph, name) for node in both for name in node.input)
    return Parts(tuple(products), tuple(norms), tuple(tables), tuple(scalars), attentions, rounded, heads)


def _attention(graph: Graph, node: NodeProto, path: Path) -> tuple[int, float]:
    """Return how many heads attention as one operation has, and its own scale, 0 where it has none.

    Raises BundleError for one that does more (a mask, say), or takes the parts of a product in another order.
    """
    known = {attribute.name: attribute for attribute in node.attribute}
    makers = [(name, graph.made_by.get(name)) for name in node.input]
    places = [
        list(maker.output).index(name) for name, maker in makers if maker is not None and maker.op_type == "Split"
    ]
    if places != list(range(len(places))):
        raise BundleError(f"{path.name}: {node.name} takes queries, keys and values in another order; export it again")
    if odd := [*sorted(known.keys() - {"num_heads", "scale"}), *node.input[3:]]:
        raise BundleError(f"{path.name}: {node.name} is attention with {odd[0]}, which no program has; export it again")
    return known["num_heads"].i, known["scale"].f if "scale" in known else 0.0


def _is_rounded(graph: Graph, name: str) -> bool:
    """Tell whether a factor of a product is rounded, through transposes."""
    maker = graph.made_by.get(name)
    while maker is not None and maker.op_type == "Transpose":
        maker = graph.made_by.get(maker.input[0])
    return maker is not None and maker.op_type == "DequantizeLinear"


def _product(graph: Graph, node: NodeProto, path: Path) -> Product:
    maker = graph.made_by.get(node.input[1])
    dequantized = maker if maker is not None and maker.op_type == "DequantizeLinear" else None
    weight = _value(graph, node.input[1] if dequantized is None else dequantized.input[0], path)
    if graph.output_axis(node, weight.ndim) != 0:
        weight = weight.T
    bias = _bias(graph, node, len(weight))
    if dequantized is None:
        return Product(weight, bias)
    after = graph.made_by.get(node.input[0])
    before = graph.made_by.get(after.input[0]) if after is not None else None
    if after is None or before is None or (after.op_type, before.op_type) != ("DequantizeLinear", "QuantizeLinear"):
        raise BundleError(f"{path.name}: the input of {node.name} is not quantized, its weights are; export it again")
    scales = [float(_value(graph, rounding.input[1], path)) for rounding in (before, after)]
    scale = _value(graph, dequantized.input[1], path).astype(np.float32)
    return Product(weight, bias, scale, (scales[0], scales[1]))


def bias_of(graph: Graph, node: NodeProto) -> NodeProto | None:
    """Return the Add right after a product that adds its bias, a constant; None where there is none."""
    adds = (user for user in graph.users(node) if user.op_type == "Add")
    return next((add for add in adds if any(_is_vector(graph.array(name)) for name in add.input)), None)


def _bias(graph: Graph, node: NodeProto, width: int) -> np.ndarray:
    """Return what is added to a product: its own third input, or what an Add right after it adds."""
    given = graph.array(node.input[2]) if len(node.input) > 2 else None
    add = bias_of(graph, node) if given is None else None
    constants = [graph.array(name) for name in add.input] if add is not None else []
    given = next((constant for constant in constants if _is_vector(constant)), given)
    return np.zeros(width, np.float32) if given is None or given.shape != (width,) else given


def _is_vector(value: np.ndarray | None) -> bool:
    return value is not None and value.ndim == 1


def _is_bias(graph: Graph, add: NodeProto, value: np.ndarray) -> bool:
    """Tell whether a constant is what `_bias` reads of the product before this node."""
    makers = [graph.made_by.get(name) for name in add.input] if add.op_type == "Add" and value.ndim == 1 else []
    return any(maker is not None and maker.op_type in PRODUCTS and graph.is_weight(maker.input[1]) for maker in makers)


def _norm(graph: Graph, node: NodeProto, path: Path) -> Norm:
    known = {attribute.name: attribute.f for attribute in node.attribute}
    weight = _value(graph, node.input[1], path)
    bias = _value(graph, node.input[2], path) if len(node.input) > 2 else np.zeros_like(weight)
    return Norm(float(known.get("epsilon", 1e-5)), weight, bias)


def _value(graph: Graph, name: str, path: Path) -> np.ndarray:
    value = graph.array(name)
    if value is None:
        raise BundleError(f"{path.name}: {name} is computed, a constant was expected; export it again")
    return value

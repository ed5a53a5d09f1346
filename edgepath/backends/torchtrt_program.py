"""An exported program in PyTorch's own operations, `model.pt2`, read back: its parts, and its linears run alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BundleError, first_line
from .contents import Found, Layer, Norm, Parts, Product
from .runners.exported import load_program

_PRODUCTS = ("linear", "conv2d")
_ROUNDINGS = ("quantize_per_tensor", "dequantize_per_tensor", "dequantize_per_channel")
_OWNERS = (*_PRODUCTS, *_ROUNDINGS, "layer_norm")
_MOVES = ("transpose", "permute", "reshape", "flatten", "unbind", "select", "slice", "getitem", "chunk")


class Graph:
    """A program's operations in their order, each called by its short name, and the constants they use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._program = load_program(path)
        except RuntimeError as error:
            raise BundleError(f"{first_line(error)}; export it again") from None
        self.nodes = [node for node in self._program.graph.nodes if node.op == "call_function"]

    @cached_property
    def _constants(self) -> dict[str, Any]:
        signature = self._program.graph_signature
        held = dict(self._program.state_dict) | dict(self._program.constants)
        named = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        return {name: held[target].detach() for name, target in named.items()}

    def array(self, node: Any) -> np.ndarray | None:
        """Return a constant's values, None for a value that is computed."""
        value = self._constants.get(getattr(node, "name", ""))
        return None if value is None else np.asarray(value.numpy())

    def value(self, node: Any) -> np.ndarray:
        """Return a constant's values. Raises BundleError for a value that is computed."""
        array = self.array(node)
        if array is None:
            raise BundleError(f"{self._path.name}: {node} is computed, a constant was expected; export it again")
        return array

    def of(self, *kinds: str) -> Iterator[Any]:
        """Yield the operations of some kinds."""
        return (node for node in self.nodes if kind(node) in kinds)

    def rounding(self, node: Any) -> tuple[Any, Any]:
        """Return the two operations that round a product's input. Raises BundleError where there are none."""
        after = node.args[0]
        before = after.args[0] if kind(after) == "dequantize_per_tensor" else None
        if kind(before) != "quantize_per_tensor":
            raise BundleError(f"{self._path.name}: the input of {node} is not quantized, its weights are")
        return before, after


def kind(node: Any) -> str:
    """Return an operation's short name, such as "linear"; "" for what is none."""
    target = getattr(node, "target", None)
    return (
        getattr(target, "_opname", getattr(target, "__name__", "")) if getattr(node, "op", "") != "placeholder" else ""
    )


def read(path: Path) -> Parts:
    """Return the parts of a program as edgepath writes it. Raises BundleError for one in another form."""
    graph = Graph(path)
    products = tuple(_product(graph, node) for node in graph.of(*_PRODUCTS))
    norms = tuple(_norm(graph, node) for node in graph.of("layer_norm"))
    tables, scalars = [], []
    for node in graph.nodes:
        for given in () if kind(node) in _OWNERS else node.all_input_nodes:
            value = graph.array(given)
            if value is not None and value.dtype.kind == "f":
                tables.append(value)
        if kind(node) == "mul" and isinstance(node.args[1], float):
            scalars.append(node.args[1])
    attentions = list(graph.of("scaled_dot_product_attention"))
    scalars += [node.kwargs["scale"] for node in attentions if node.kwargs.get("scale") is not None]
    plain = sum(node.kwargs.get("scale") is None for node in attentions)
    for node in attentions:
        if odd := [*node.args[3:], *(node.kwargs.keys() - {"scale"})]:
            raise BundleError(f"{path.name}: {node} is attention with {odd[0]}, which no program has; export it again")
    rounded = sum(_is_rounded(given) for node in attentions for given in node.args[:3])
    return Parts(products, norms, tuple(tables), tuple(scalars), plain, rounded)


def layers(path: Path) -> Mapping[int, Layer]:
    """Return the quantized linears by their place among the products; each runs by PyTorch's own operations."""
    graph = Graph(path)
    products = enumerate(graph.of(*_PRODUCTS))
    return {
        place: Layer(True, partial(_run, graph, node))
        for place, node in products
        if kind(node.args[1]) == "dequantize_per_channel"
    }


def _run(graph: Graph, node: Any, x: np.ndarray) -> Found:
    """Return a layer's integers, and its output; eager PyTorch fuses nothing, so what kernels make is the same."""
    import torch

    before, after = graph.rounding(node)
    with torch.inference_mode():
        integers = before.target(torch.from_numpy(x).half(), *before.args[1:])
        rounded = after.target(integers, *after.args[1:], **after.kwargs)
        weight = node.args[1]
        tensors = [torch.from_numpy(graph.value(given)) for given in weight.args[:2]]
        dense = weight.target(*tensors, *weight.args[2:], **weight.kwargs)
        bias = torch.from_numpy(graph.value(node.args[2])) if _has_bias(node) else None
        output = node.target(rounded, dense, bias).float().numpy()
    return integers.numpy(), output, output


def _has_bias(node: Any) -> bool:
    return len(node.args) > 2 and node.args[2] is not None


def _product(graph: Graph, node: Any) -> Product:
    source = node.args[1]
    quantized = kind(source) == "dequantize_per_channel"
    weight = graph.value(source.args[0] if quantized else source)
    bias = graph.value(node.args[2]) if _has_bias(node) else np.zeros(len(weight), np.float32)
    if not quantized:
        return Product(weight, bias)
    before, after = graph.rounding(node)
    if any(rounding.args[2] not in (0, None) for rounding in (before, after, source)) or source.args[3] != 0:
        raise BundleError(f"{node} has zero-points, or scales along its input; export it again")
    scale = graph.value(source.args[1]).astype(np.float32)
    return Product(weight, bias, scale, (float(before.args[1]), float(after.args[1])))


def _norm(graph: Graph, node: Any) -> Norm:
    _, width, *rest = node.args
    weight, bias, epsilon = [*rest, None, None, None][:3]
    ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
    return Norm(
        1e-5 if epsilon is None else float(epsilon),
        ones if weight is None else graph.value(weight),
        zeros if bias is None else graph.value(bias),
    )


def _is_rounded(node: Any) -> bool:
    """Tell whether a factor of a product is rounded, through what only moves values."""
    while kind(node) in _MOVES:
        node = node.args[0]
    return kind(node) == "dequantize_per_tensor"

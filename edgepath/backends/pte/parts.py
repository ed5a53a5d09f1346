"""Parts of a `.pte`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import BundleError
from ..contents import Norm, Parts, Product
from .program import Graph, Kernel, Pte, load_pte, scales

PRODUCTS = ("XNNFullyConnected", "XNNConv2d")
_BOUNDS = 2  # columns behind a row, which carry its range (`program.delegable`)
_TRANSPOSED = 1  # XNNPACK's flag for weights stored (in, out)


def read(path: Path) -> Parts:
    """Return the parts of a program as edgepath writes it. Raises BundleError for a product in another form."""
    pte = load_pte(path)
    products: list[Product] = []
    norms: list[Norm] = []
    tables: list[np.ndarray] = []
    scalars: list[float] = []
    rounded = 0
    for call in pte.calls:
        if isinstance(call, Kernel):
            _kernel(call, norms, tables, path)
            continue
        for kind, fields in call.nodes:
            if kind in PRODUCTS:
                products.append(product(pte, call, kind, fields, path))
                continue
            if kind == "XNNBatchMatrixMultiply":
                rounded += sum(call.dtype(operand) != "xnn_datatype_fp32" for operand in call.inputs(fields))
            for value in (call.constants[operand] for operand in call.inputs(fields) if operand in call.constants):
                if value.size > 1:
                    tables.append(value)
                elif kind == "XNNMultiply":
                    scalars.append(float(value.ravel()[0]))
    return Parts(tuple(products), tuple(norms), tuple(tables), tuple(scalars), rounded=rounded)


def _kernel(call: Kernel, norms: list[Norm], tables: list[np.ndarray], path: Path) -> None:
    if call.name == "aten::native_layer_norm":
        width, weight, bias, epsilon = call.args[1:5]
        size = width if isinstance(width, int) else len(call.args[2]) if weight is not None else 0
        plain = np.ones(size, np.float32) if weight is None else weight
        norms.append(Norm(float(epsilon), plain, np.zeros_like(plain) if bias is None else bias))
    elif any(word in call.name for word in ("linear", "mm", "conv")):
        raise BundleError(f"{path.name}: {call.name} is not the delegate's; export it again")
    else:
        tables += [value for value in call.args if isinstance(value, np.ndarray) and value.size > 1]


def product(pte: Pte, graph: Graph, kind: str, fields: dict[str, Any], path: Path) -> Product:
    """Return a product of a delegate's graph."""
    weight = graph.constants[fields["filter_id"]]
    bias = graph.constants.get(fields["bias_id"], np.zeros(len(weight), np.float32))
    if kind == "XNNConv2d":
        return Product(weight.transpose(0, 3, 1, 2), bias)
    if weight.dtype != np.int8:
        return Product(weight.T if fields["flags"] & _TRANSPOSED else weight, bias)
    if weight[:, -_BOUNDS:].any():
        raise BundleError(f"{path.name}: a linear's weights take its rows' bounds for numbers; export it again")
    scale = scales(pte.stored, graph, fields["filter_id"])
    step = rounding(graph, fields, path)[0]
    return Product(weight[:, :-_BOUNDS], bias, scale, (step, step))


def rounding(graph: Graph, fields: dict[str, Any], path: Path) -> tuple[float, list[tuple[str, dict[str, Any]]]]:
    """Return the scale that a linear's input is rounded with, and the nodes that do it: clip, two bounds, convert."""
    nodes = []
    value = fields["input1_id"]
    for wanted in ("XNNConvert", "XNNStaticConstantPad", "XNNStaticConstantPad", "XNNClamp"):
        kind, node = graph.made_by.get(value, ("", {}))
        if kind != wanted:
            raise BundleError(f"{path.name}: the input of a linear is not quantized; export it again")
        nodes.append((kind, node))
        value = node["input_id"]
    (_, clamp), (_, low), (_, high) = nodes[:0:-1]
    columns = [(pad["pre_paddings"], pad["post_paddings"]) for pad in (low, high)]
    ends = (clamp["range"]["output_min"], clamp["range"]["output_max"])
    step = np.float32(ends[1] / 127)
    if (
        ends != (low["padding_value"], high["padding_value"])
        or columns != [([0, 0, 0], [0, 0, 1])] * 2
        or not np.isclose(ends[0], -128 * float(step), rtol=1e-6, atol=0)
    ):
        raise BundleError(f"{path.name}: a linear's input is rounded to no symmetric 8 bits; export it again")
    return float(step), nodes[::-1]

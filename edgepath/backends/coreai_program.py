"""Parts of a Core AI program, and its quantized layers, each run alone by Apple's interpreter.

Core AI's compiler gives no way to the numbers of large constants but its text form, which has them in hexadecimal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BundleError, first_line
from .contents import Found, Layer, Norm, Parts, Product
from .runners.coreai import call, check_whole, load_function, silent, widen

_PRODUCTS = ("coreai.decomposable.broadcasting_batch_matmul", "coreai.conv2d")
_ADD, _MULTIPLY = "coreai.decomposable.broadcasting_add", "coreai.decomposable.broadcasting_mul"
_QUANTIZE, _DEQUANTIZE, _INVOKE = "coreai.quantize", "coreai.dequantize", "coreai.invoke"
_BLOB = re.compile(r'^\s*(\w+): "0x([0-9A-F]+)"', re.MULTILINE)
_ALIGNMENT = 8  # hexadecimal digits in front of a blob's bytes


class Source:
    """A program read from its files; values and operations are those of Core AI's compiler."""

    def __init__(self, path: Path) -> None:
        from coreai.authoring import AIModelAsset

        self.path = path
        try:
            check_whole(path)
            with silent():
                self.program = AIModelAsset.load(path).program
        except (RuntimeError, ValueError, SystemError) as error:
            raise BundleError(f"{path.name}: Core AI cannot read it ({first_line(error)})") from None
        self.graphs = {_text(graph, "sym_name"): graph for graph in self._module.body.operations}
        if "main" not in self.graphs:
            raise self.odd("it has no function main")

    def operations(self, graph: str = "main") -> list[Any]:
        """Return the operations of a graph, in order."""
        return list(self.graphs[graph].regions[0].blocks[0].operations)

    def value(self, value: Any) -> np.ndarray | None:
        """Return the numbers of a constant, None for anything that is computed."""
        from coreai._compiler.ir import DenseResourceElementsAttr

        maker = made_by(value)
        if maker is None or maker.name != "coreai.constant":
            return None
        numbers = maker.attributes["value"]
        if not DenseResourceElementsAttr.isinstance(numbers):
            return np.array(numbers)
        name = str(DenseResourceElementsAttr(numbers)).partition("<")[2].partition(">")[0]
        kind = _NUMPY.get(str(value.type.element_type))
        if kind is None or name not in self._blobs:
            raise self.odd(f"a constant of type {value.type}")
        start, end = self._blobs[name]
        return np.frombuffer(bytes.fromhex(self._listing[start:end]), kind).reshape(value.type.shape)

    def numbers(self, value: Any, what: str) -> np.ndarray:
        """Return the numbers of a constant. Raises BundleError for anything that is computed."""
        constant = self.value(value)
        if constant is None:
            raise self.odd(f"{what} is computed, numbers were expected")
        return constant

    def odd(self, what: str) -> BundleError:
        """Return the error for a program in another form than edgepath writes it in."""
        return BundleError(f"{self.path.name}: {what}; export it again")

    @property
    def _module(self) -> Any:
        return self.program._module._mlir_module

    @cached_property
    def _listing(self) -> str:
        return str(self._module.operation.get_asm(large_elements_limit=0))

    @cached_property
    def _blobs(self) -> dict[str, tuple[int, int]]:
        return {match[1]: (match.start(2) + _ALIGNMENT, match.end(2)) for match in _BLOB.finditer(self._listing)}


_NUMPY = {"f32": np.float32, "f16": np.float16, "si8": np.int8}


def made_by(value: Any) -> Any:
    """Return the operation that makes a value, None for what a graph is given."""
    owner = value.owner
    return owner.opview if hasattr(owner, "opview") else None


def _text(operation: Any, name: str) -> str:
    return str(operation.attributes[name]).strip('"')


def read(path: Path) -> Parts:
    """Return the parts of a program as edgepath writes it. Raises BundleError for a product or norm in another form."""
    source = Source(path)
    products, norms, tables, scalars, rounded = [], [], [], [], 0
    for operation in source.operations():
        if operation.name in _PRODUCTS and _weights(source, operation) is not None:
            products.append(_product(source, operation))
        elif operation.name == _INVOKE and (norm := _norm(source, operation)):
            norms.append(norm)
        elif not _owned(source, operation):
            tables += [table for table in _tables(source, operation) if table.size > 1]
        inner = source.operations(_callee(operation)) if operation.name == _INVOKE else [operation]
        scalars += list(_scalars(source, inner))
        rounded += _rounded(source, inner)
    return Parts(tuple(products), tuple(norms), tuple(tables), tuple(scalars), rounded=rounded)


def _callee(invoke: Any) -> str:
    callee = re.search(r"@([\w.$]+)", str(invoke.attributes["callee"]))
    assert callee is not None
    return callee[1]


def _unpacked(value: Any) -> tuple[Any, Any, bool]:
    """Follow a product's weights to what they are stored as; also the dequantization between, and whether turned."""
    packed, turned = None, False
    while (maker := made_by(value)) is not None and maker.name in (_DEQUANTIZE, "coreai.transpose"):
        packed = maker if maker.name == _DEQUANTIZE else packed
        turned = turned or maker.name == "coreai.transpose"
        value = maker.operands[0]
    return value, packed, turned


def _weights(source: Source, product: Any) -> Any:
    """Return the stored weights of a product, None for a product of two activations."""
    value = _unpacked(product.operands[1])[0]
    maker = made_by(value)
    return value if maker is not None and maker.name == "coreai.constant" else None


def _product(source: Source, product: Any) -> Product:
    value, packed, turned = _unpacked(product.operands[1])
    weight = source.numbers(value, "a weight")
    if weight.ndim == 2 and not turned:
        weight = weight.T
    bias = np.zeros(len(weight), np.float32)
    if (added := _bias(source, product)) is not None:
        bias = source.numbers(added.operands[1], "a bias").ravel()
    if packed is None:
        return Product(weight, bias)
    after = made_by(product.operands[0])
    before = made_by(after.operands[0]) if after is not None and after.name == _DEQUANTIZE else None
    if before is None or before.name != _QUANTIZE:
        raise source.odd("the input of a product is not quantized, its weights are")
    for rounding in (packed, after, before):
        if any(source.numbers(offset, "a zero-point").any() for offset in (rounding.operands[2], rounding.operands[3])):
            raise source.odd("a quantization has a zero-point")
    scale, first, second = (source.numbers(rounding.operands[1], "a scale") for rounding in (packed, before, after))
    return Product(weight, bias, scale.astype(np.float32), (float(first.item()), float(second.item())))


def _bias(source: Source, product: Any) -> Any:
    """Return the addition of a bias right behind a product, None where there is none."""
    users = [use.owner for use in product.results[0].uses]
    if len(users) != 1 or users[0].name != _ADD:
        return None
    added = source.value(users[0].operands[1])
    size = _unpacked(product.operands[1])[0].type.shape[0]
    return users[0] if added is not None and added.size == size else None


def _norm(source: Source, invoke: Any) -> Norm | None:
    """Return the norm that an invoked graph is, None for another graph: what it computes, and what it says it is."""
    declared = str(source.graphs[_callee(invoke)].attributes["composite_decl"])
    if '"layer_norm"' not in declared:
        return None
    inner = source.operations(_callee(invoke))
    roots = [operation for operation in inner if operation.name == "coreai.rsqrt"]
    added = made_by(roots[0].operands[0]) if len(roots) == 1 else None
    stated = re.search(r"\beps = (\S+) :", declared)
    if added is None or added.name != _ADD or stated is None:
        raise source.odd("a norm is no LayerNorm")
    epsilon = float(source.numbers(added.operands[1], "a norm's epsilon").item())
    if not np.isclose(epsilon, float(stated[1]), rtol=1e-3, atol=0):
        raise source.odd(f"a norm computes with epsilon {epsilon:g}, and says {stated[1]}")
    weight, bias = (source.numbers(value, "a norm's weight").ravel() for value in list(invoke.operands)[1:3])
    return Norm(epsilon, weight, bias)


def _owned(source: Source, operation: Any) -> bool:
    """Tell whether an operation's constants belong to a product or a norm."""
    if operation.name in (_QUANTIZE, _DEQUANTIZE, "coreai.transpose", "coreai.constant"):
        return True
    maker = made_by(operation.operands[0]) if operation.name == _ADD else None
    return maker is not None and maker.name in _PRODUCTS and _bias(source, maker) is not None


def _tables(source: Source, operation: Any) -> Iterator[np.ndarray]:
    for value in operation.operands:
        if str(getattr(value.type, "element_type", "")).startswith("f"):
            table = source.value(value)
            if table is not None:
                yield table


def _scalars(source: Source, operations: list[Any]) -> Iterator[float]:
    for operation in operations:
        if operation.name == _MULTIPLY:
            yield from (float(scalar.item()) for scalar in _tables(source, operation) if scalar.size == 1)


def _rounded(source: Source, operations: list[Any]) -> int:
    products = [
        operation for operation in operations if operation.name == _PRODUCTS[0] and _weights(source, operation) is None
    ]
    makers = [made_by(factor) for product in products for factor in product.operands]
    return sum(maker is not None and maker.name == _DEQUANTIZE for maker in makers)


def layers(path: Path) -> dict[int, Layer]:
    """Return the layers by their place among the products of a program that `read` reads."""
    source = Source(path)
    products = [
        operation
        for operation in source.operations()
        if operation.name in _PRODUCTS and _weights(source, operation) is not None
    ]
    quantized = {
        place: product for place, product in enumerate(products) if _unpacked(product.operands[1])[1] is not None
    }
    half = {place: str(product.results[0].type.element_type) == "f16" for place, product in quantized.items()}
    run = _cut(source, quantized)  # from here on the products are others
    return {place: Layer(half[place], partial(run, place)) for place in quantized}


def _cut(source: Source, products: dict[int, Any]) -> Callable[[int, np.ndarray], Found]:
    """Give a program a function for each layer, copies of its own operations; return what runs them."""
    from coreai._compiler.dialects import coreai
    from coreai._compiler.ir import F32Type, InsertionPoint, Location, RankedTensorType

    module = source.program._module._mlir_module
    with module.context, Location.unknown():
        for place, product in products.items():
            before = made_by(made_by(product.operands[0]).operands[0])
            last = _bias(source, product) or product
            given = before.operands[0].type
            wide = RankedTensorType.get(given.shape, F32Type.get())
            with InsertionPoint(module.body):
                graph = coreai.GraphOp(name=f"layer_{place}", input_types=[wide], result_types=[], input_names=["x"])
            with graph.block:
                known = {before.operands[0]: coreai.cast(graph.arguments[0], given.element_type)}
                output = coreai.cast(_copied(last.results[0], known), F32Type.get())
                integers = known[before.results[0]]
            graph.set_outputs_spec_from_dict({"integers": integers, "output": output})
        widen(source.program)
    functions: dict[str, Any] = {}

    def run(place: int, x: np.ndarray) -> Found:
        if not functions:  # all at once: compiling takes longer than a layer
            functions.update(load_function(source.program, [f"layer_{index}" for index in products]))
        outputs = call(functions[f"layer_{place}"], x=x)
        return outputs["integers"], outputs["output"], outputs["output"]  # the interpreter fuses nothing

    return run


def _copied(value: Any, known: dict[Any, Any]) -> Any:
    """Copy the operations that make a value to where operations go now, down to the values that are known."""
    if value not in known:
        maker = made_by(value)
        given = [_copied(operand, known) for operand in maker.operands]
        copy = maker.operation.clone()
        for place, operand in enumerate(given):
            copy.operands[place] = operand
        known[value] = copy.results[0]
    return known[value]

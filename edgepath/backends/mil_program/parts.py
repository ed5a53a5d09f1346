"""Parts of a Core ML package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import BundleError
from ..contents import Norm, Parts, Product
from .program import Operation, Program, load_program


def read(path: Path) -> Parts:
    """Return the parts of a package as edgepath writes it. Raises BundleError for a product in another form."""
    try:
        return _parts(load_program(path))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        problem = f"an operation lacks what one of its kind has ({error!r})"
        raise BundleError(f"{path.name}: {problem}; export it again") from None


def _parts(program: Program) -> Parts:
    products = [
        _product(program, operation) for operation in program.operations if operation.kind in ("linear", "conv")
    ]
    norms = [_norm(program, operation) for operation in program.operations if operation.kind == "layer_norm"]
    tables, scalars = [], []
    for operation in program.operations:
        for name in () if _owner(operation.kind) else (name for names in operation.inputs.values() for name in names):
            constant = program.constants.get(name)
            if constant is None or not constant.type.dtype.startswith("fp"):
                continue
            value = _value(program, name, operation)
            if value.size > 1:
                tables.append(value)
            elif operation.kind == "mul":
                scalars.append(float(value.ravel()[0]))
    attentions = sum(operation.kind == "scaled_dot_product_attention" for operation in program.operations)
    return Parts(tuple(products), tuple(norms), tuple(tables), tuple(scalars), attentions)


def _owner(kind: str) -> bool:
    """Tell whether an operation's constants belong to a product or a norm."""
    return kind in ("linear", "conv", "layer_norm", "quantize", "dequantize") or kind.startswith("constexpr_")


def _product(program: Program, operation: Operation) -> Product:
    name = operation.inputs["weight"][0]
    maker = program.made_by.get(name)
    given = operation.inputs.get("bias")
    if maker is None:
        weight = _value(program, name, operation)
        return Product(weight, _value(program, given[0], operation) if given else np.zeros(len(weight), np.float32))
    if maker.kind != "constexpr_blockwise_shift_scale":
        raise BundleError(f"{program.where(operation)}: weights unpacked by {maker.kind}; export it again")
    weight = _value(program, maker.inputs["data"][0], operation)
    scale = _value(program, maker.inputs["scale"][0], operation).ravel().astype(np.float32)
    after = program.made_by.get(operation.inputs["x"][0])
    before = program.made_by.get(after.inputs["input"][0]) if after is not None and after.kind == "dequantize" else None
    if after is None or before is None or before.kind != "quantize":
        raise BundleError(f"{program.where(operation)}: its input is not quantized, its weights are; export it again")
    scales = [float(_value(program, rounding.inputs["scale"][0], rounding).ravel()[0]) for rounding in (before, after)]
    bias = _value(program, given[0], operation) if given else np.zeros(len(weight), np.float32)
    return Product(weight, bias, scale, (scales[0], scales[1]))


def _norm(program: Program, operation: Operation) -> Norm:
    epsilon, weight, bias = (
        _value(program, operation.inputs[key][0], operation) for key in ("epsilon", "gamma", "beta")
    )
    return Norm(float(epsilon.ravel()[0]), weight, bias)


def _value(program: Program, name: str, operation: Operation) -> np.ndarray:
    constant = program.constants.get(name)
    value = constant.read() if constant is not None else None
    if not isinstance(value, np.ndarray):
        raise BundleError(f"{program.where(operation)}: {name} is computed, numbers were expected; export it again")
    return value

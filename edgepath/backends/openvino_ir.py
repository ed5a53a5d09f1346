"""Parts of an OpenVINO IR."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BundleError, first_line
from .contents import Found, Layer, Norm, Parts, Product
from .runners.openvino import core

_LEVELS = 127  # a range of 8 bits ends at 127 steps


def read(path: Path) -> Parts:
    """Return the parts of an IR as edgepath writes it. Raises BundleError for a product or norm in another form."""
    model = open_model(path)
    products, norms, tables, scalars = [], [], [], []
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if is_product(node):
            products.append(_product(node, path))
        elif kind == "MVN":
            norms.append(_norm(node, path))
        elif not _owned(node):
            for value in _floats(node, path):
                if value.size > 1:
                    tables.append(value)
                elif kind == "Multiply":
                    scalars.append(float(value.ravel()[0]))
    attentions = sum(node.get_type_name() == "ScaledDotProductAttention" for node in model.get_ordered_ops())
    both = [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul" and not is_product(node)]
    rounded = sum(quantizer_of(node, i) is not None for node in both for i in (0, 1))
    return Parts(tuple(products), tuple(norms), tuple(tables), tuple(scalars), attentions, rounded)


def open_model(path: Path) -> Any:
    """Read an IR as an OpenVINO model. Raises BundleError for what OpenVINO does not read."""
    try:
        return core().read_model(path)
    except (RuntimeError, UnicodeDecodeError) as error:  # the second while it puts its own message together
        raise BundleError(f"{path.name}: OpenVINO cannot read it ({first_line(error)})") from None


def is_product(node: Any) -> bool:
    """Tell whether a node is a product with weights."""
    return node.get_type_name() in ("MatMul", "Convolution") and _constant(_input(node, 1))


def quantizer_of(product: Any, i: int = 0) -> Any:
    """Return the FakeQuantize that rounds a product's input, through what dequantizes it; None where there is none."""
    at = _input(product, i)
    while at.get_type_name() in ("Multiply", "Subtract", "Convert", "Transpose"):
        at = _input(at, 0)
    return at if at.get_type_name() == "FakeQuantize" else None


def _owned(node: Any) -> bool:
    """Tell whether the constants of an operation belong to a product or norm, or whether it only hands one on."""
    if node.get_type_name() in ("FakeQuantize", "ShapeOf") or _constant(node):
        return True
    if node.get_type_name() not in ("Add", "Multiply"):
        return False
    operands = [operand for operand in (_input(node, i) for i in (0, 1)) if not _constant(operand)]
    if node.get_type_name() == "Multiply":  # a norm's weight, or a dequantized activation
        return any(operand.get_type_name() in ("MVN", "Subtract", "Convert") for operand in operands)
    makers = [operand for operand in operands if operand.get_type_name() in ("MatMul", "Convolution")]
    scaled = [operand for operand in operands if operand.get_type_name() == "Multiply"]
    normed = [operand for operand in scaled if any(_input(operand, i).get_type_name() == "MVN" for i in (0, 1))]
    return bool(normed) or any(_constant(_input(maker, 1)) for maker in makers)


def _floats(node: Any, path: Path) -> list[np.ndarray]:
    """Return the floating-point constants that go into an operation."""
    operands = [_input(node, i) for i in range(node.get_input_size())]
    return [
        _value(operand, path)
        for operand in operands
        if _constant(operand) and operand.get_output_element_type(0).is_real()
    ]


def _product(node: Any, path: Path) -> Product:
    source, scale = _input(node, 1), None
    if source.get_type_name() == "Multiply" and _integers(source):
        scale = _value(_input(source, 1), path).ravel().astype(np.float32)
        source = _input(source, 0)
    weight = _value(source, path)
    if node.get_type_name() == "MatMul" and not node.get_attributes()["transpose_b"]:
        weight = weight.T
    bias = bias_of(node, path)[1]
    bias = np.zeros(len(weight), np.float32) if bias is None or len(bias) != len(weight) else bias
    if scale is None:
        return Product(weight, bias)
    quantizer = quantizer_of(node)
    scales = None if quantizer is None else _input_scales(_input(node, 0), node, path)
    return Product(weight.astype(np.int8), bias, scale, scales, _tokens(_input(quantizer or node, 0), path))


def _tokens(node: Any, path: Path) -> str:
    """Return which tokens a cut leaves: the first, the rest, or no such cut."""
    if node.get_type_name() != "Slice" or not all(_constant(_input(node, i)) for i in (1, 2, 3, 4)):
        return ""
    start, stop, step, axis = (_value(_input(node, i), path).ravel().tolist() for i in (1, 2, 3, 4))
    if (step, axis) != ([1], [1]):
        return ""
    if (start, stop) == ([0], [1]):
        return "first"
    return "rest" if start == [1] and stop[0] >= 2**31 - 1 else ""


def bias_of(node: Any, path: Path) -> tuple[Any, np.ndarray | None]:
    """Return the Add right after a product that adds a constant, and that constant; None for both without one."""
    for user in (port.get_node() for port in node.output(0).get_target_inputs()):
        for i in (0, 1) if user.get_type_name() == "Add" else ():
            if _constant(_input(user, i)):
                return user, _value(_input(user, i), path).ravel()
    return None, None


def _input_scales(dequantized: Any, node: Any, path: Path) -> tuple[float, float]:
    """Follow Multiply <- Subtract <- Convert ... <- FakeQuantize, and return the scales of both its ends."""
    at = quantizer_of(node)
    if at is None or dequantized.get_type_name() != "Multiply":
        raise BundleError(f"{path.name}: the input of {node.get_friendly_name()} is not quantized; export it again")
    low, high = (float(_value(_input(at, i), path)) for i in (1, 2))
    scale = high / _LEVELS
    if at.get_attributes()["levels"] != 256 or not np.isclose(low, -128 * scale, rtol=1e-5):
        raise BundleError(f"{path.name}: {at.get_friendly_name()} rounds to no symmetric 8 bits; export it again")
    return scale, float(_value(_input(dequantized, 1), path))


def _norm(node: Any, path: Path) -> Norm:
    values = []
    at = node
    for kind in ("Multiply", "Add"):  # weight, then bias
        users = [port.get_node() for port in at.output(0).get_target_inputs()]
        if len(users) != 1 or users[0].get_type_name() != kind:
            raise BundleError(f"{path.name}: {node.get_friendly_name()} is no norm with weight and bias")
        at = users[0]
        values.append(_value(_input(at, 1), path).ravel())
    return Norm(float(node.get_attributes()["eps"]), values[0], values[1])


def _input(node: Any, index: int) -> Any:
    return node.input_value(index).get_node()


def _integers(multiply: Any) -> bool:
    """Tell whether a Multiply dequantizes int8 constants."""
    at = _input(multiply, 0)
    while at.get_type_name() == "Convert":
        at = _input(at, 0)
    return at.get_type_name() == "Constant" and str(at.get_element_type()) == "<Type: 'int8_t'>"


def _constant(node: Any) -> bool:
    """Tell whether a value is computed of constants alone, by the few operations that unpack weights."""
    if node.get_type_name() == "Constant":
        return True
    if node.get_type_name() in ("Convert", "Reshape"):
        return _constant(_input(node, 0))
    return node.get_type_name() == "Multiply" and all(_constant(_input(node, i)) for i in (0, 1))


def _value(node: Any, path: Path) -> np.ndarray:
    """Return the value of a constant, through the operations that only convert or reshape it."""
    while node.get_type_name() in ("Convert", "Reshape"):
        node = _input(node, 0)
    if node.get_type_name() != "Constant":
        raise BundleError(f"{path.name}: {node.get_friendly_name()} is computed, a constant was expected")
    return np.array(node.get_data())


def layers(path: Path) -> dict[int, Layer]:
    """Return the layers by their place among the products of an IR that `read` reads."""
    model, by_place = open_model(path), {}
    products = [node for node in model.get_ordered_ops() if is_product(node)]
    for place, node in enumerate(products):
        quantizer = quantizer_of(node)
        if quantizer is not None:
            last = bias_of(node, path)[0] or node
            # With the layer goes the model: it owns the nodes.
            by_place[place] = Layer(False, partial(_run, model, quantizer, last))
    return by_place


def _run(model: Any, quantizer: Any, last: Any, x: np.ndarray) -> Found:
    """Return the integers that enter, and the output by reference and by the CPU's kernels."""
    import openvino

    given = openvino.opset13.parameter(list(x.shape), openvino.Type.f32)
    before = quantizer.input_value(0)
    quantizer.input(0).replace_source_output(given.output(0))
    try:
        integers, layer = (openvino.Model([node.output(0)], [given], "layer") for node in (quantizer, last))
        compiled = core().compile_model(
            layer, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
        )
        fused = np.array(compiled([x])[0], np.float32)
        return np.rint(_evaluated(integers, x)).astype(np.int8), _evaluated(layer, x), fused
    finally:
        quantizer.input(0).replace_source_output(before)


def _evaluated(model: Any, x: np.ndarray) -> np.ndarray:
    import openvino

    model.validate_nodes_and_infer_types()  # it was cut out of one with other shapes
    output = openvino.Tensor(model.output(0).get_element_type(), model.output(0).get_shape())
    if not model.evaluate([output], [openvino.Tensor(np.ascontiguousarray(x))]):
        raise RuntimeError("OpenVINO has no reference implementation of one of a layer's operations")
    return np.array(output.data, np.float32)

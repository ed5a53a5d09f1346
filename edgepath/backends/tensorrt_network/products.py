"""The products with weights in a TensorRT network, and whether two networks have the same ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..contents import Product
from .network import Layer, Network

_HANDED_ON = ("CAST", "IDENTITY", "SHUFFLE")


@dataclass(frozen=True)
class Comparison:
    """Two networks of one program: INT8 products in each, how many are equal to the bit, and linears left in float.

    A product is its integers, the scales of its weights and the scale of its input. `contract` says whether inputs and
    outputs have the same names, types and shapes.
    """

    int8: tuple[int, int]
    equal: int
    floats: tuple[int, int]
    contract: bool

    @property
    def same(self) -> bool:
        """Whether every product of both is INT8, and the same in both."""
        return self.int8 == (self.equal, self.equal) and self.floats == (0, 0) and self.contract


def compare_networks(first: Network, second: Network) -> Comparison:
    """Return what two networks have in common; biases and what is no product are the evaluator's business."""
    both = [products(network) for network in (first, second)]
    keys = [Counter(key_of(product) for product in linears if product.scale is not None) for linears in both]
    int8 = tuple(sum(counted.values()) for counted in keys)
    floats = tuple(sum(product.scale is None for product in linears) for linears in both)
    contract = (first.inputs, first.outputs) == (second.inputs, second.outputs)
    return Comparison((int8[0], int8[1]), sum((keys[0] & keys[1]).values()), (floats[0], floats[1]), contract)


def products(network: Network) -> list[Product]:
    """Return the linears in their order, weights (out, in); the bias is not read. The patch convolution is none."""
    makers = {name: layer for layer in network.layers for name in layer.outputs}
    matmuls = (layer for layer in network.layers if layer.kind == "MATRIX_MULTIPLY")
    return [product for layer in matmuls if (product := _product(layer, makers)) is not None]


def _product(layer: Layer, makers: Mapping[str, Layer]) -> Product | None:
    source = _source(layer.inputs[1], makers)
    if source is None:
        return None
    held = _source(source.inputs[0], makers) if source.kind == "DEQUANTIZE" else source
    if held is None or held.kind != "CONSTANT":
        return None  # a product of two activations
    weight = held.settings["value"]
    weight = weight.reshape(weight.shape[-2:])
    weight = weight if layer.settings["op1"] == "TRANSPOSE" else weight.T
    bias = np.zeros(len(weight), np.float32)
    given = _source(layer.inputs[0], makers)
    if source.kind == "CONSTANT" or given is None or given.kind != "DEQUANTIZE":
        return Product(weight, bias)
    before = _source(given.inputs[0], makers)
    rounded = before is not None and before.kind == "QUANTIZE"
    if not rounded or before is None or weight.dtype.itemsize != 1:
        return Product(weight, bias)
    scales = (_scale(before, makers), _scale(given, makers))
    return Product(weight, bias, _constant(source.inputs[1], makers).astype(np.float32).ravel(), scales)


def _source(name: str, makers: Mapping[str, Layer]) -> Layer | None:
    """Return the layer that makes a value, through those that only hand it on."""
    layer = makers.get(name)
    while layer is not None and layer.kind in _HANDED_ON:
        layer = makers.get(layer.inputs[0])
    return layer


def _constant(name: str, makers: Mapping[str, Layer]) -> np.ndarray:
    layer = _source(name, makers)
    assert layer is not None and layer.kind == "CONSTANT", name
    value: np.ndarray = layer.settings["value"]
    return value


def _scale(layer: Layer, makers: Mapping[str, Layer]) -> float:
    return float(_constant(layer.inputs[1], makers).ravel()[0])


def key_of(product: Product) -> tuple[object, ...]:
    """Return what of an 8-bit product has to be equal to the bit."""
    assert product.scale is not None
    weight, scale = np.ascontiguousarray(product.weight), np.ascontiguousarray(product.scale)
    return weight.dtype.name, weight.shape, weight.tobytes(), scale.tobytes(), product.input_scales

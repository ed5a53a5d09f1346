"""A TensorRT network as plain values, whatever front end made it: what the builder is given, before it chooses kernels.

TensorRT has no file for a network, and its weights are other objects' memory, so it is read while its maker lives.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError


@dataclass(frozen=True)
class Layer:
    """One layer: its `kind` as TensorRT names it, values by name ("" for an input that is left out), settings.

    `types` are those of the outputs, such as "HALF"; `settings` hold numbers, tuples, names and arrays.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    types: tuple[str, ...]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Network:
    """Layers in the order they run in; inputs and outputs by name, each with its type and shape, -1 for any number.

    `profile` has the smallest, likeliest and largest shape of inputs, where its maker set them.
    """

    inputs: Mapping[str, tuple[str, tuple[int, ...]]]
    outputs: Mapping[str, tuple[str, tuple[int, ...]]]
    layers: tuple[Layer, ...]
    profile: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)


# Of each kind: the class with its settings, and what of them is read.
_SETTINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ACTIVATION": ("IActivationLayer", ("type", "alpha", "beta")),
    "ATTENTION_INPUT": ("IAttentionInputLayer", ()),
    "ATTENTION_OUTPUT": ("IAttentionOutputLayer", ()),
    "CAST": ("ICastLayer", ()),
    "CONCATENATION": ("IConcatenationLayer", ("axis",)),
    "CONSTANT": ("IConstantLayer", ()),
    "CONVOLUTION": (
        "IConvolutionLayer",
        ("kernel_size_nd", "num_output_maps", "stride_nd", "pre_padding", "post_padding", "dilation_nd", "num_groups"),
    ),
    "DEQUANTIZE": ("IDequantizeLayer", ("axis",)),
    "ELEMENTWISE": ("IElementWiseLayer", ("op",)),
    "GATHER": ("IGatherLayer", ("axis", "mode", "num_elementwise_dims")),
    "IDENTITY": ("IIdentityLayer", ()),
    "MATRIX_MULTIPLY": ("IMatrixMultiplyLayer", ("op0", "op1")),
    "NORMALIZATION": ("INormalizationLayer", ("axes", "epsilon", "num_groups")),
    "QUANTIZE": ("IQuantizeLayer", ("axis",)),
    "REDUCE": ("IReduceLayer", ("op", "axes", "keep_dims")),
    "SELECT": ("ISelectLayer", ()),
    "SHAPE": ("IShapeLayer", ()),
    "SHUFFLE": ("IShuffleLayer", ("first_transpose", "reshape_dims", "second_transpose", "zero_is_placeholder")),
    "SLICE": ("ISliceLayer", ("start", "shape", "stride", "axes", "mode")),
    "SOFTMAX": ("ISoftMaxLayer", ("axes",)),
    "SQUEEZE": ("ISqueezeLayer", ()),
    "UNARY": ("IUnaryLayer", ("op",)),
    "UNSQUEEZE": ("IUnsqueezeLayer", ()),
}
_TENSORS_INSTEAD = {"SLICE": ("start", "shape", "stride"), "SHUFFLE": ("reshape_dims",)}
"""Settings that an input may take the place of: they are not asked for then, which would be warned of."""


def read_network(trt: Any, network: Any, profile: Any = None) -> Network:
    """Return an `INetworkDefinition` of the bindings `trt` as values. Raises UsageError for a layer not known here."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    shapes = {tensor.name: tuple(map(tuple, profile.get_shape(tensor.name))) for tensor in inputs} if profile else {}
    layers = [_layer(trt, network.get_layer(index)) for index in range(network.num_layers)]
    given, made = ({tensor.name: _about(tensor) for tensor in tensors} for tensors in (inputs, outputs))
    return Network(given, made, _in_order(layers, given), shapes)


def parse_onnx(trt: Any, path: Path) -> Network:
    """Return the network that the ONNX parser of the bindings `trt` makes of a file, strongly typed.

    Raises UsageError for a file it does not read.
    """
    logger = _silent(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        raise UsageError(f"{path.name}: TensorRT {trt.__version__} cannot read it: {parser.get_error(0).desc()}")
    return read_network(trt, network)


def _layer(trt: Any, layer: Any) -> Layer:
    kind, name = layer.type.name, layer.name
    if kind not in _SETTINGS:
        raise UsageError(f"TensorRT network: {kind} {name!r} is not known here; this network cannot be evaluated")
    given = [layer.get_input(index) for index in range(layer.num_inputs)]
    made = [layer.get_output(index) for index in range(layer.num_outputs)]
    inputs = tuple("" if tensor is None else tensor.name for tensor in given)
    of, names = _SETTINGS[kind]
    layer.__class__ = getattr(trt, of)  # the bindings hand out the base class
    replaced = {name for name, tensor in zip(_TENSORS_INSTEAD.get(kind, ()), inputs[1:], strict=False) if tensor}
    settings = {name: _value(getattr(layer, name)) for name in names if name not in replaced}
    settings |= _numbers(kind, layer)
    return Layer(
        kind, name, inputs, tuple(tensor.name for tensor in made), tuple(tensor.dtype.name for tensor in made), settings
    )


def _in_order(layers: Sequence[Layer], given: Iterable[str]) -> tuple[Layer, ...]:
    """Return layers so that each comes after those that make its inputs: torch_tensorrt adds shapes where it likes."""
    known, left, ordered = {"", *given}, list(layers), []
    while left:
        waiting = []
        for layer in left:
            if known.issuperset(layer.inputs):
                ordered.append(layer)
                known.update(layer.outputs)
            else:
                waiting.append(layer)
        if len(waiting) == len(left):
            raise UsageError(f"TensorRT network: nothing makes an input of {left[0].kind} {left[0].name!r}")
        left = waiting
    return tuple(ordered)


def _numbers(kind: str, layer: Any) -> dict[str, Any]:
    """Return what a layer holds besides its settings: arrays, copied, and how attention is computed."""
    if kind == "CONSTANT":
        return {"value": _array(layer.weights).reshape(tuple(layer.shape))}
    if kind == "CONVOLUTION":
        return {"kernel": np.array(layer.kernel), "bias": np.array(layer.bias)}
    if kind == "ATTENTION_INPUT":
        attention = layer.attention
        plain = not attention.causal and attention.mask is None and attention.norm_op.name == "SOFTMAX"
        return {"plain": plain and attention.normalization_quantize_scale is None}
    return {}


def _array(weights: Any) -> np.ndarray:
    """Return a layer's constant, copied. Of FP8 the bindings have no array, and hand out TensorRT's own `Weights`."""
    if isinstance(weights, np.ndarray):
        return weights.copy()
    import ml_dtypes

    # A pybind11 object holds, after Python's own two words, the address of its C++ object: type, address, count.
    of = _Weights.from_address(ctypes.c_void_p.from_address(id(weights) + object.__basicsize__).value or 0)
    if weights.dtype.name != "FP8" or (of.type, of.count) != (int(weights.dtype), weights.size):
        raise UsageError(f"TensorRT network: a constant of type {weights.dtype.name} cannot be read here")
    return np.frombuffer(ctypes.string_at(of.values, of.count), ml_dtypes.float8_e4m3fn)


class _Weights(ctypes.Structure):
    """`nvinfer1::Weights`."""

    _fields_ = (("type", ctypes.c_int32), ("values", ctypes.c_void_p), ("count", ctypes.c_int64))


def _value(value: Any) -> Any:
    """Return a setting as a plain value: TensorRT's dimensions as a tuple, its enumerations by name."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return value.name if hasattr(value, "name") else tuple(int(size) for size in value)


def _about(tensor: Any) -> tuple[str, tuple[int, ...]]:
    return tensor.dtype.name, tuple(tensor.shape)


def _silent(trt: Any) -> Any:
    class Silent(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            """Say nothing: what matters is in the errors."""

    return Silent()

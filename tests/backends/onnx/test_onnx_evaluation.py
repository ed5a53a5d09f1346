"""FP16 graphs computed node by node: held against ONNX's own reference evaluator, which rounds each node as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgepath.backends.onnx.evaluation import Evaluator
from edgepath.backends.onnx.ops import OPERATIONS
from edgepath.backends.runners.onnx_fp16 import Runner
from edgepath.errors import BundleError
from edgepath.exporting import Exported

HALF = TensorProto.FLOAT16
RNG = np.random.default_rng(0)
# What each operation is given besides `x`, FP16 (2, 5, 8), and its attributes.
CASES: dict[str, tuple[dict[str, np.ndarray], dict[str, object]]] = {
    "Add": ({"b": RNG.normal(size=8)}, {}),
    "Clip": ({"low": np.array(-0.5), "high": np.array(0.75)}, {}),
    "Concat": ({"b": RNG.normal(size=(2, 3, 8))}, {"axis": 1}),
    "Div": ({"b": RNG.normal(size=8) + 3}, {}),
    "Erf": ({}, {}),
    "Exp": ({}, {}),
    "Expand": ({"i": np.array([3, 2, 5, 8])}, {}),
    "Gather": ({"i": np.array(-1)}, {"axis": 1}),
    "Gelu": ({}, {}),
    "Identity": ({}, {}),
    "LayerNormalization": ({"s": RNG.normal(size=8), "b": RNG.normal(size=8)}, {"epsilon": 1e-6}),
    "MatMul": ({"b": RNG.normal(size=(8, 4))}, {}),
    "Mul": ({"b": RNG.normal(size=(5, 1))}, {}),
    "Pow": ({"b": np.array(2.0)}, {}),
    "ReduceMean": ({"i": np.array([1])}, {"keepdims": 0}),
    "Relu": ({}, {}),
    "Reshape": ({"i": np.array([0, 2, -1, 4])}, {}),
    "Sigmoid": ({}, {}),
    "Slice": ({"i_s": np.array([1]), "i_e": np.array([2**63 - 1]), "i_a": np.array([2]), "i_t": np.array([3])}, {}),
    "Softmax": ({}, {"axis": 1}),
    "Split": ({"i": np.array([3, 5])}, {"axis": 2}),
    "Sqrt": ({}, {}),
    "Sub": ({"b": RNG.normal(size=8)}, {}),
    "Tanh": ({}, {}),
    "Transpose": ({}, {"perm": [2, 0, 1]}),
    "Unsqueeze": ({"i": np.array([0, -1])}, {}),
}


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Write a graph of some nodes from `x` to `y`; constants whose name begins with `i` are indices, others FP16."""

    def save(
        nodes: Sequence[onnx.NodeProto],
        constants: dict[str, np.ndarray],
        kind: int = HALF,
        shape: Sequence[object] = ("batch", 5, 8),
    ) -> Path:
        outputs = [helper.make_tensor_value_info(name, kind, None) for name in nodes[-1].output]
        fixed = [
            numpy_helper.from_array(np.asarray(values) if name[0] in "iq" else np.asarray(values, np.float16), name)
            for name, values in constants.items()
        ]
        graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", HALF, shape)], outputs, fixed)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        onnx.save(onnx.shape_inference.infer_shapes(model), tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return save


def evaluated(path: Path, x: np.ndarray) -> list[np.ndarray]:
    return [values.numpy() for values in Evaluator(path)({"x": torch.from_numpy(x.astype(np.float32))}).values()]


def expected(path: Path, x: np.ndarray) -> list[np.ndarray]:
    with np.errstate(all="ignore"):
        return list(ReferenceEvaluator(str(path)).run(None, {"x": x}))


@pytest.mark.parametrize("kind", CASES)
def test_an_operation_is_the_reference_evaluators_in_fp16(saved: Callable[..., Path], kind: str) -> None:
    constants, attributes = CASES[kind]
    outputs = ["y", "z"] if kind == "Split" else ["y"]
    path = saved([helper.make_node(kind, ["x", *constants], outputs, "node", **attributes)], constants)
    x = np.abs(RNG.normal(size=(2, 5, 8))).astype(np.float16)

    for found, wanted in zip(evaluated(path, x), expected(path, x), strict=True):
        assert found.dtype == np.float32
        assert found.shape == wanted.shape
        assert np.array_equal(found, found.astype(np.float16).astype(np.float32))  # numbers that FP16 holds
        # The reference sums in FP16 where it is written in NumPy: one or two of its steps.
        assert np.allclose(found, wanted.astype(np.float32), rtol=2e-3, atol=2e-3)


def test_every_operation_is_tried() -> None:
    elsewhere = {"Cast", "Conv", "DequantizeLinear", "Gemm", "QuantizeLinear", "Shape", "Squeeze"}
    assert set(OPERATIONS) == set(CASES) | elsewhere


@pytest.mark.parametrize("zero", [np.int8(0), np.int8(-3), np.uint8(128)])
def test_8_bits_are_the_reference_evaluators(saved: Callable[..., Path], zero: np.generic) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "q_zero"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "q_zero"], ["y"], "dequantize"),
    ]
    path = saved(nodes, {"scale": np.array(0.0625), "q_zero": np.array(zero)})
    x = (RNG.normal(size=(2, 5, 8)) * 4).astype(np.float16)
    x[0, 0, :3] = 0.03125, 0.09375, 1000  # two halves between integers, and what is clipped
    assert np.array_equal(evaluated(path, x)[0], expected(path, x)[0].astype(np.float32))


def test_weights_have_a_scale_for_each_channel(saved: Callable[..., Path]) -> None:
    weight, scale = RNG.integers(-127, 128, (8, 4)).astype(np.int8), np.abs(RNG.normal(size=4)) / 64
    nodes = [
        helper.make_node("DequantizeLinear", ["q_weight", "scale"], ["w"], "weight", axis=1),
        helper.make_node("MatMul", ["x", "w"], ["y"], "product"),
    ]
    path = saved(nodes, {"q_weight": weight, "scale": scale})
    x = RNG.normal(size=(2, 5, 8)).astype(np.float16)
    assert np.allclose(evaluated(path, x)[0], expected(path, x)[0].astype(np.float32), rtol=2e-3, atol=2e-3)


def test_shapes_are_what_they_are_at_hand(saved: Callable[..., Path]) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], "shape", start=0, end=1),
        helper.make_node("Concat", ["shape", "i_rest"], ["wanted"], "wanted", axis=0),
        helper.make_node("Reshape", ["x", "wanted"], ["flat"], "flat"),
        helper.make_node("Squeeze", ["flat", "i_axes"], ["y"], "squeeze"),
    ]
    path = saved(nodes, {"i_rest": np.array([1, 40]), "i_axes": np.array([1])})
    x = RNG.normal(size=(3, 5, 8)).astype(np.float16)
    assert np.array_equal(evaluated(path, x)[0], x.reshape(3, 40).astype(np.float32))


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_and_conv_are_the_reference_evaluators(saved: Callable[..., Path], transposed: int) -> None:
    b = RNG.normal(size=(4, 8) if transposed else (8, 4))
    how = {"alpha": 0.5, "beta": 2.0, "transB": transposed}
    gemm = saved(
        [helper.make_node("Gemm", ["x", "b", "c"], ["y"], "gemm", **how)], {"b": b, "c": b[0, :1]}, HALF, (5, 8)
    )
    x = RNG.normal(size=(5, 8)).astype(np.float16)
    assert np.allclose(evaluated(gemm, x)[0], expected(gemm, x)[0].astype(np.float32), rtol=4e-3, atol=4e-3)
    how = {"strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv", **how)
    conv = saved([node], {"w": RNG.normal(size=(4, 3, 2, 2)), "b": RNG.normal(size=4)}, HALF, ("batch", 3, 7, 6))
    x = RNG.normal(size=(2, 3, 7, 6)).astype(np.float16)
    assert np.allclose(evaluated(conv, x)[0], expected(conv, x)[0].astype(np.float32), rtol=4e-3, atol=4e-3)


def test_what_overflows_is_infinite_and_then_no_number(saved: Callable[..., Path]) -> None:
    """`(x * 300) * 300 / 300`: FP32 has it right, FP16 does not; a difference of two infinities is no number."""
    nodes = [
        helper.make_node("Mul", ["x", "b"], ["large"], "up"),
        helper.make_node("Mul", ["large", "b"], ["larger"], "over"),
        helper.make_node("Sub", ["larger", "larger"], ["y"], "apart"),
    ]
    path = saved(nodes, {"b": np.array(300.0)})
    x = np.ones((1, 5, 8), np.float16)
    assert np.isnan(evaluated(path, x)[0]).all()
    assert np.isnan(expected(path, x)[0]).all()


def test_values_are_rounded_after_each_node(saved: Callable[..., Path]) -> None:
    """2049 is no FP16 number: rounded between, `x + 2048 - 2048` is 0 or 2 for `x` of 1, and not 1."""
    nodes = [
        helper.make_node("Add", ["x", "b"], ["sum"], "add"),
        helper.make_node("Sub", ["sum", "b"], ["y"], "sub"),
    ]
    path = saved(nodes, {"b": np.array(2048.0)})
    assert set(evaluated(path, np.ones((1, 5, 8), np.float16))[0].ravel()) == {0.0}


def test_an_operation_that_is_not_known_is_named(saved: Callable[..., Path]) -> None:
    path = saved([helper.make_node("Selu", ["x"], ["y"], "odd")], {})
    with pytest.raises(BundleError, match=r"model.onnx: Selu 'odd': this operation is not evaluated"):
        Evaluator(path)


@pytest.mark.parametrize("target", ["jetson-fp16", "jetson-int8", "thor-fp8"])
def test_a_whole_graph_is_near_the_program_and_the_reference_evaluator(
    exports: Callable[[str], Exported], target: str
) -> None:
    bundle = exports(target).bundle
    tiles, _ = bundle.golden()
    with Runner(bundle.artifact) as runner:
        found = runner(tiles[:2])
        assert np.array_equal(runner(tiles[1:2])[0], found[1])  # a tile's embedding does not depend on its batch
    wanted = ReferenceEvaluator(str(bundle.artifact)).run(["embedding"], {"tiles": tiles[:2]})[0]
    apart = np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    assert apart.max() < {"jetson-fp16": 0.005, "jetson-int8": 0.02, "thor-fp8": 0.04}[target]

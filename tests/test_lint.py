"""Graphs that edgepath makes are clean; each way to break one is found, at the node that is broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper

from edgepath.errors import UsageError
from edgepath.exporting import Exported
from edgepath.lint import Finding, finding_rows, lint

Exports = Callable[[str], Exported]


def load(exports: Exports, target: str) -> ModelProto:
    return onnx.load(exports(target).bundle.path / "model.onnx")


def found_in(model: ModelProto, tmp_path: Path) -> list[Finding]:
    onnx.save(model, tmp_path / "broken.onnx")
    return lint(tmp_path / "broken.onnx")


def node(model: ModelProto, kind: str, of: str = "") -> NodeProto:
    return next(one for one in model.graph.node if one.op_type == kind and of in one.name)


def constant(model: ModelProto, name: str, values: np.ndarray) -> str:
    model.graph.initializer.append(numpy_helper.from_array(values, name))
    return name


@pytest.mark.parametrize("target", ["jetson-int8", "jetson-fp16"])
def test_what_is_made_for_tensorrt_is_clean(exports: Exports, target: str) -> None:
    assert lint(exports(target).bundle.path) == []


def test_what_is_made_for_onnx_runtime_is_only_not_for_tensorrt(exports: Exports) -> None:
    assert [(f.level, f.rule) for f in lint(exports("onnx-int8").bundle.path)] == [("warning", "strong typing")]


def zero_point(model: ModelProto) -> str:
    one = node(model, "QuantizeLinear")
    del one.input[2:]
    one.input.append(constant(model, "three", np.array(3, np.int8)))
    return one.name


def unsigned(model: ModelProto) -> str:
    one = node(model, "QuantizeLinear")
    del one.input[2:]
    one.input.append(constant(model, "unsigned", np.array(0, np.uint8)))
    return one.name


def zero_scale(model: ModelProto) -> str:
    one = node(model, "DequantizeLinear")
    one.input[1] = constant(model, "nothing", np.array(0, np.float16))
    return one.name


def tiny_scale(model: ModelProto) -> str:
    one = node(model, "DequantizeLinear")
    one.input[1] = constant(model, "subnormal", np.array(1e-6, np.float16))
    return one.name


def scale_a_channel(model: ModelProto) -> str:
    one = node(model, "QuantizeLinear")
    one.input[1] = constant(model, "many", np.ones(96, np.float16))
    return one.name


def activation_in_floating_point(model: ModelProto) -> str:
    made = {name: one for one in model.graph.node for name in one.output}
    for product in model.graph.node:
        if product.op_type != "MatMul":
            continue
        dequantize = made.get(product.input[0])
        if dequantize is not None and dequantize.op_type == "DequantizeLinear":
            product.input[0] = made[dequantize.input[0]].input[0]
            return product.name
    raise AssertionError("no quantized product")


def transposed_weight(model: ModelProto) -> str:
    made = {name: one for one in model.graph.node for name in one.output}
    index, product = next(
        (i, one)
        for i, one in enumerate(model.graph.node)
        if one.op_type == "MatMul" and made[one.input[1]].op_type == "DequantizeLinear"
    )
    turned = helper.make_node("Transpose", [product.input[1]], ["turned"], perm=[1, 0])
    model.graph.node.insert(index, turned)
    product.input[1] = "turned"
    return product.name


def quantized_softmax(model: ModelProto) -> str:
    softmax, some = node(model, "Softmax"), node(model, "DequantizeLinear")
    softmax.input[0] = some.output[0]
    return softmax.name


def quantized_sum(model: ModelProto) -> str:
    added, some = node(model, "Add"), node(model, "DequantizeLinear")
    added.input[0] = added.input[1] = some.output[0]
    return added.name


def norm_taken_apart(model: ModelProto) -> str:
    norm = node(model, "LayerNormalization")
    x = norm.input[0]
    parts = [
        helper.make_node("ReduceMean", [x], ["mean"], name="mean"),
        helper.make_node("Sub", [x, "mean"], ["centred"], name="centre"),
        helper.make_node("Mul", ["centred", "centred"], ["squares"], name="square"),
        helper.make_node("ReduceMean", ["squares"], ["variance"], name="variance"),
    ]
    model.graph.node.extend(parts)
    return "variance"


def old_opset(model: ModelProto) -> str:
    model.opset_import[0].version = 18
    return next(one.name for one in model.graph.node if one.op_type == "QuantizeLinear")


def shared(model: ModelProto) -> str:
    constants = {one.name for one in model.graph.initializer}
    nodes = [one for one in model.graph.node if one.op_type == "DequantizeLinear" and one.input[0] in constants]
    zero = constant(model, "zero", np.zeros(96, np.int8))
    for one in nodes[:2]:
        one.input.append(zero)
    return nodes[0].name


@pytest.mark.parametrize(
    ("change", "level", "rule"),
    [
        (zero_point, "error", "symmetric"),
        (unsigned, "error", "symmetric"),
        (zero_scale, "error", "scale"),
        (tiny_scale, "warning", "scale"),
        (scale_a_channel, "error", "granularity"),
        (activation_in_floating_point, "error", "both inputs"),
        (transposed_weight, "error", "both inputs"),
        (quantized_softmax, "error", "floating point"),
        (quantized_sum, "error", "floating point"),
        (norm_taken_apart, "error", "fused norm"),
        (old_opset, "error", "opset"),
        (shared, "warning", "shared zero-point"),
    ],
)
def test_each_way_to_break_a_graph_is_found_where_it_is(
    exports: Exports, tmp_path: Path, change: Callable[[ModelProto], str], level: str, rule: str
) -> None:
    model = load(exports, "jetson-int8")
    name = change(model)
    findings = found_in(model, tmp_path)
    assert (level, rule, name) in [(f.level, f.rule, f.node) for f in findings]
    assert all(f.found and f.remedy and f.source for f in findings)
    assert len(finding_rows(findings)) == len(findings)


def test_what_is_no_graph_is_one_line(exports: Exports, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a graph")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name, said in (("text.onnx", "not a"), ("empty.onnx", "holds no node"), ("none.onnx", "no such ONNX file")):
        with pytest.raises(UsageError, match=said) as caught:
            lint(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"give a \.onnx file or a bundle"):
        lint(exports("openvino-int8").bundle.path)


def test_missing_external_data_is_one_line(exports: Exports, tmp_path: Path) -> None:
    model = load(exports, "jetson-int8")
    onnx.save(model, tmp_path / "apart.onnx", save_as_external_data=True, location="apart.data")
    assert lint(tmp_path / "apart.onnx") == []
    (tmp_path / "apart.data").unlink()
    with pytest.raises(UsageError, match="its weights lie in another file"):
        lint(tmp_path / "apart.onnx")

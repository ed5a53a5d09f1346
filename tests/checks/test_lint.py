"""Graphs that edgepath makes are clean; each way to break one is found, at the node that is broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgepath.backends.onnx.graph import Graph
from edgepath.checks.lint import Finding, lint, opset
from edgepath.errors import UsageError
from edgepath.exporting import Exported
from edgepath.reports.tables.checks import finding_table

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


@pytest.mark.parametrize("target", ["jetson-int8", "jetson-fp16", "thor-fp8"])
def test_what_is_made_for_tensorrt_is_clean(exports: Exports, target: str) -> None:
    assert lint(exports(target).bundle.path) == []


def test_int8_on_tensorrt_rtx_is_said_to_be_built_and_not_run(exports: Exports, tmp_path: Path) -> None:
    bundle = exports("rtx-int8").bundle
    (finding,) = lint(bundle.path)
    assert (finding.level, finding.rule) == ("warning", "not run")
    assert "documents disagree" in finding.found
    assert finding.source.endswith("rtx-int8")
    assert lint(bundle.path / "model.onnx") == []  # the file alone does not say what it is for
    assert lint(exports("rtx-fp16").bundle.path) == []


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


def unsigned_by_default(model: ModelProto) -> str:
    one = node(model, "QuantizeLinear")
    del one.input[2:]  # ONNX: without a zero-point, uint8
    return one.name


def weight(model: ModelProto) -> NodeProto:
    """The DequantizeLinear of a square weight."""
    shapes = {one.name: list(one.dims) for one in model.graph.initializer}
    nodes = (one for one in model.graph.node if one.op_type == "DequantizeLinear" and one.input[0] in shapes)
    return next(one for one in nodes if shapes[one.input[0]] == [96, 96])


def axis_of_inputs(model: ModelProto) -> str:
    one = weight(model)
    next(attribute for attribute in one.attribute if attribute.name == "axis").i = 0
    return one.name


def seven_scales(model: ModelProto) -> str:
    one = weight(model)
    one.input[1] = constant(model, "seven", np.ones(7, np.float16))
    return one.name


def one_scale(model: ModelProto) -> str:
    one = weight(model)
    one.input[1] = constant(model, "one", np.array(0.01, np.float16))
    return one.name


def computed_scale(model: ModelProto) -> str:
    one = node(model, "QuantizeLinear")
    one.input[1] = "computed"
    model.graph.node.insert(
        0, helper.make_node("Neg", [constant(model, "raw", np.array(-1, np.float16))], ["computed"])
    )
    return one.name


def integer_product(model: ModelProto) -> str:
    data = constant(model, "bytes", np.ones((2, 2), np.uint8))
    model.graph.node.append(helper.make_node("MatMulInteger", [data, data], ["integers"], name="dynamic"))
    return "dynamic"


def branches(model: ModelProto) -> str:
    graph = helper.make_graph([], "branch", [], [helper.make_tensor_value_info("bytes", onnx.TensorProto.BOOL, [])])
    held = numpy_helper.from_array(np.array(True), "bytes")
    graph.initializer.append(held)
    condition = constant(model, "condition", np.array(True))
    model.graph.node.append(
        helper.make_node("If", [condition], ["either"], name="if", then_branch=graph, else_branch=graph)
    )
    return "graph"


def quantized_softmax(model: ModelProto) -> str:
    softmax, some = node(model, "Softmax"), node(model, "DequantizeLinear")
    softmax.input[0] = some.output[0]
    return softmax.name


def quantized_sum(model: ModelProto) -> str:
    added = next(one for one in reversed(model.graph.node) if one.op_type == "Add")
    some = node(model, "DequantizeLinear")
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
        helper.make_node("Sqrt", ["variance"], ["deviation"], name="root"),
    ]
    model.graph.node.extend(parts)
    return "variance"


def old_opset(model: ModelProto) -> str:
    model.opset_import[0].version = 18
    for node in model.graph.node:  # an attribute that opset 18 does not have
        for attribute in [one for one in node.attribute if one.name == "saturate"]:
            node.attribute.remove(attribute)
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
        (unsigned_by_default, "error", "symmetric"),
        (axis_of_inputs, "error", "granularity"),
        (seven_scales, "error", "granularity"),
        (one_scale, "warning", "granularity"),
        (computed_scale, "error", "scale"),
        (integer_product, "error", "operators"),
        (branches, "warning", "operators"),
        (zero_scale, "error", "scale"),
        (tiny_scale, "warning", "scale"),
        (scale_a_channel, "error", "granularity"),
        (activation_in_floating_point, "error", "both inputs"),
        (transposed_weight, "error", "both inputs"),
        (quantized_softmax, "warning", "floating point"),
        (quantized_sum, "warning", "floating point"),
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
    assert len(finding_table(findings).rows) == len(findings)


def not_saturating(model: ModelProto) -> str:
    one = node(model, "QuantizeLinear")
    del one.attribute[:]
    one.attribute.append(helper.make_attribute("saturate", 0))
    return one.name


def nan_weight(model: ModelProto) -> str:
    weight = next(one for one in model.graph.initializer if one.data_type == TensorProto.FLOAT8E4M3FN and one.dims)
    values = numpy_helper.to_array(weight).copy()
    values.flat[5] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return next(one.name for one in model.graph.node if weight.name in one.input)


def e5m2(model: ModelProto) -> str:
    one = node(model, "QuantizeLinear")
    one.input[2] = constant(model, "other kind", np.array(0, ml_dtypes.float8_e5m2))
    return one.name


def int8_weight(model: ModelProto) -> str:
    weight = next(one for one in model.graph.initializer if one.data_type == TensorProto.FLOAT8E4M3FN and one.dims)
    integers = numpy_helper.to_array(weight).astype(np.float32).clip(-127, 127).astype(np.int8)
    weight.CopyFrom(numpy_helper.from_array(integers, weight.name))
    made = next(one for one in model.graph.node if weight.name in one.input)
    return next(one.name for one in model.graph.node if made.output[0] in one.input)


def float8_in_opset_18(model: ModelProto) -> str:
    model.opset_import[0].version = 18
    return next(one.name for one in model.graph.node if one.op_type in ("QuantizeLinear", "DequantizeLinear"))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (not_saturating, "float8"),
        (nan_weight, "float8"),
        (e5m2, "symmetric"),
        (int8_weight, "both inputs"),
    ],
)
def test_each_way_to_break_an_fp8_graph_is_found_where_it_is(
    exports: Exports, tmp_path: Path, change: Callable[[ModelProto], str], rule: str
) -> None:
    model = load(exports, "thor-fp8")
    name = change(model)
    assert ("error", rule, name) in [(f.level, f.rule, f.node) for f in found_in(model, tmp_path)]


def test_8_bit_floats_in_an_opset_without_them_are_found(exports: Exports) -> None:
    model = load(exports, "thor-fp8")
    name = float8_in_opset_18(model)  # no such file passes ONNX's own checker
    assert (name, "8-bit floats in opset 18") in [(f.node, f.found) for f in opset(Graph(model))]


def spread(model: ModelProto) -> None:
    """A variance on its own, without the root that a norm takes."""
    x = node(model, "LayerNormalization").input[0]
    parts = [
        helper.make_node("ReduceMean", [x], ["mean"]),
        helper.make_node("Sub", [x, "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "centred"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["variance"]),
    ]
    model.graph.node.extend(parts)


def scale_from_a_node(model: ModelProto) -> None:
    one = node(model, "QuantizeLinear")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["held"], value_float=0.02))
    model.graph.node.insert(1, helper.make_node("Identity", ["held"], ["passed on"]))
    one.input[1] = "passed on"


@pytest.mark.parametrize("change", [spread, scale_from_a_node])
def test_what_is_sane_is_left_alone(exports: Exports, tmp_path: Path, change: Callable[[ModelProto], None]) -> None:
    model = load(exports, "jetson-int8")
    change(model)
    assert found_in(model, tmp_path) == []


def test_damaged_graphs_are_one_line(exports: Exports, tmp_path: Path) -> None:
    model = load(exports, "jetson-int8")
    del node(model, "DequantizeLinear").input[1:]
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(UsageError, match="not a valid ONNX graph") as caught:
        lint(tmp_path / "broken.onnx")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="not a whole ONNX file"):
        lint(exports("jetson-int8").bundle.path / "bundle.json")


def test_what_is_no_graph_is_one_line(exports: Exports, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a graph")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name, said in (
        ("text.onnx", "not a whole ONNX file"),
        ("empty.onnx", "holds no node"),
        ("none.onnx", "no such ONNX file"),
    ):
        with pytest.raises(UsageError, match=said) as caught:
            lint(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"lint checks targets whose artifact is model\.onnx"):
        lint(exports("openvino-int8").bundle.path)


def test_missing_external_data_is_one_line(exports: Exports, tmp_path: Path) -> None:
    model = load(exports, "jetson-int8")
    onnx.save(model, tmp_path / "apart.onnx", save_as_external_data=True, location="apart.data")
    assert lint(tmp_path / "apart.onnx") == []
    (tmp_path / "apart.data").unlink()
    with pytest.raises(UsageError, match="its weights lie in another file"):
        lint(tmp_path / "apart.onnx")

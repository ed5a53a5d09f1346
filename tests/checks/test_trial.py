"""TensorRT-RTX itself reads and builds what edgepath makes for TensorRT, and names what it does not take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from edgepath.checks.trial import trial_build
from edgepath.cli import app
from edgepath.errors import UsageError
from edgepath.exporting import Exported

pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra rtx", exc_type=ImportError)


@pytest.mark.parametrize("target", ["jetson-int8", "jetson-fp16", "thor-fp8"])
def test_what_is_made_for_a_jetson_is_built(exports: Callable[[str], Exported], target: str) -> None:
    assert trial_build(exports(target).bundle.path) == []


def test_fp8_is_refused_for_a_gpu_that_has_none(exports: Callable[[str], Exported]) -> None:
    (finding,) = trial_build(exports("thor-fp8").bundle.path, ("SM86",))
    assert (finding.rule, finding.source.partition("built for ")[2]) == ("refused", "SM86")


@pytest.fixture
def refused(tmp_path: Path) -> Path:
    """A graph whose second node has a zero-point that TensorRT does not take; its first is sound."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in "xy")
    constants = {"scale": np.float32(0.1), "zero": np.uint8(3)}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="sound"),
        helper.make_node("QuantizeLinear", ["a", "scale", "zero"], ["q"], name="blocks.2.quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], name="after"),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "a.onnx")
    return tmp_path / "a.onnx"


def test_what_is_refused_names_the_node(refused: Path) -> None:
    (finding,) = trial_build(refused)
    assert (finding.level, finding.rule) == ("error", "refused")
    assert finding.node == "QuantizeLinear blocks.2.quantize"
    assert "zero point" in finding.found
    assert finding.source.endswith("built for SM86, SM120")


def test_lint_builds_where_asked_to(refused: Path) -> None:
    without, built = (CliRunner().invoke(app, ["lint", str(refused), "--json", *more]) for more in ([], ["--build"]))
    assert '"refused"' not in without.stdout
    assert built.exit_code == 1
    assert '"refused"' in built.stdout


def test_no_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such ONNX file"):
        trial_build(tmp_path)

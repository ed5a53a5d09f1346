"""FP8 in TensorRT's own network and engine: E4M3 weights are the program's to the bit, and one changed bit is seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, numpy_helper

from edgepath.backends.reading import missing_from_engine
from edgepath.backends.runners.tensorrt_rtx import BATCHES, serialize
from edgepath.backends.tensorrt_network.evaluation import Evaluator
from edgepath.backends.tensorrt_network.network import parse_onnx
from edgepath.checks.debugging import debug
from edgepath.checks.networks import check_network
from edgepath.checks.parts import named_parts
from edgepath.exporting import Exported
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program.calibrate import calibrate
from edgepath.program.fold import EdgeModel, fold
from edgepath.program.formats import FP8
from edgepath.program.forms import Program, to_onnx
from edgepath.program.linear import quantize
from edgepath.program.rebuilding import rebuild, same_weights

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra rtx", exc_type=ImportError)
LINEARS = 9


@pytest.fixture(scope="module")
def net(tiny: ModelSpec, tiles: np.ndarray) -> EdgeModel:
    model = fold(random_model(tiny), tiny)
    return quantize(model, calibrate(model, [tiles[:4]]), number_format=FP8)


def test_network_in_fp32_is_the_program(net: EdgeModel, tiles: np.ndarray, tmp_path: Path) -> None:
    onnx.save(to_onnx(net), tmp_path / "model.onnx")
    network = parse_onnx(trt, tmp_path / "model.onnx")
    found = Evaluator(network)({"tiles": torch.from_numpy(tiles[:4])})["embedding"].double()
    program = Program(net)
    wanted, nudged = (torch.from_numpy(values).double() for values in (program(tiles[:4]), program.nudged(tiles[:4])))
    cosines = [torch.cosine_similarity(values, wanted) for values in (found, nudged)]
    assert 1 - cosines[0].min() < 3 * (1 - cosines[1].min())


def flip(model: ModelProto) -> None:
    weight = next(one for one in model.graph.initializer if one.data_type == TensorProto.FLOAT8E4M3FN and one.dims)
    values = numpy_helper.to_array(weight).copy()
    values.view(np.uint8).flat[17] ^= 1
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def left_in_float(model: ModelProto) -> None:
    """Take the rounding of one linear's input out."""
    first = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    second = next(node for node in model.graph.node if first.output[0] in node.input)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == second.output[0]:
                node.input[place] = first.input[0]


@pytest.mark.parametrize(
    ("change", "counts"), [(None, (LINEARS, 0, 0)), (flip, (LINEARS, 0, 1)), (left_in_float, (LINEARS - 1, 1, 1))]
)
def test_linears_of_the_network_are_counted_and_compared(
    exports: Callable[[str], Exported],
    altered: Callable[..., object],
    change: Callable[[ModelProto], None] | None,
    counts: tuple[int, int, int],
) -> None:
    def changed(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx")
        assert change is not None
        change(model)
        onnx.save(model, folder / "model.onnx")

    bundle = exports("thor-fp8").bundle if change is None else altered("thor-fp8", changed)
    vit, spec, _ = same_weights(bundle, None)  # type: ignore[arg-type]
    program = Program(rebuild(bundle, bundle.recipe, vit, spec), bundle.recipe)  # type: ignore[arg-type, attr-defined]
    figures = check_network(bundle, program, bundle.golden()[0][:1])  # type: ignore[arg-type, attr-defined]
    assert figures is not None
    assert (figures["fp8"], figures["float"], figures["differ"], figures["int8"]) == (*counts, 0)
    assert figures["finite"]


def test_debug_counts_fp8(exports: Callable[[str], Exported]) -> None:
    result = debug(exports("thor-fp8").bundle, tiles="synthetic:1")
    assert (result["unproved"], result["parts"]["differences"]) == ([], [])
    assert result["network"] is not None
    assert (result["network"]["fp8"], result["network"]["differ"]) == (LINEARS, 0)


@pytest.mark.parametrize("capability", ["SM89", "SM120"])
def test_engine_for_a_gpu_with_fp8_holds_every_weight(net: EdgeModel, tmp_path: Path, capability: str) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(Program(net).onnx_fp16(), path)
    shapes = {"tiles": {name: [batch, 224, 224, 3] for name, batch in BATCHES.items()}}
    engine = serialize(trt, path, shapes, [capability])
    path.with_suffix(".engine").write_bytes(engine)
    products = named_parts(net)[0]
    name, product = next((name, product) for name, product in products.items() if product.scale is not None)
    assert missing_from_engine(path, products) == []
    rows = next(rows for rows in (product.weight.T.tobytes(), product.weight.tobytes()) if rows in engine)
    path.with_suffix(".engine").write_bytes(engine.replace(rows, rows[:-1] + bytes([rows[-1] ^ 1])))
    assert missing_from_engine(path, products) == [name]

"""FP8 linears: E4M3 as ml_dtypes and ONNX Runtime round it, with the calibration of INT8 and none of its tuning."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from torch import nn

from edgepath.exporting import Exported
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program import operations
from edgepath.program.calibrate import Ranges, calibrate
from edgepath.program.calibrating import _depends_on
from edgepath.program.fold import EdgeModel, fold
from edgepath.program.formats import FP8, INT8, to_numpy
from edgepath.program.forms import Program, to_fp16, to_onnx
from edgepath.program.linear import QuantizedLinear, load_program, quantize, quantize_linear, save_program
from edgepath.recipes.recipe import find_recipe
from edgepath.tiles.opening import open_tiles

E4M3 = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
LINEARS = 9


def test_every_float32_near_e4m3_is_rounded_as_ml_dtypes_rounds_it() -> None:
    finite = np.sort(E4M3[np.isfinite(E4M3.astype(np.float32))].astype(np.float32))
    ties = (finite[1:] + finite[:-1]) / 2
    x = np.concatenate([finite, ties, np.nextafter(ties, np.float32(500)), np.nextafter(ties, np.float32(-500))])
    for scale in (1.0, 2.0**-7):  # powers of two: x * (1 / scale) is exact
        codes = operations.quantize_e4m3(torch.from_numpy(x * np.float32(scale)), scale)
        np.testing.assert_array_equal(to_numpy(codes).view(np.uint8), x.astype(ml_dtypes.float8_e4m3fn).view(np.uint8))


def test_what_is_too_large_is_448_and_what_is_no_number_stays_none() -> None:
    x = torch.tensor([449.0, 1e9, torch.inf, -1e9, torch.nan])
    assert operations.quantize_e4m3(x, 1.0).float().tolist()[:4] == [448, 448, 448, -448]
    assert operations.quantize_e4m3(x, 1.0)[4].float().isnan()


def test_layer_equals_ml_dtypes_formula() -> None:
    layer = nn.Linear(64, 32)
    x = np.random.default_rng(1).normal(size=(2, 5, 64)).astype(np.float32)
    quantized = quantize_linear(layer, float(np.abs(x).max()) * 0.7, number_format=FP8)  # some values are cut off
    weight, scale = layer.weight.detach().numpy(), quantized.weight_scale.numpy()
    assert (np.abs(weight).max(1) / 448 <= scale).all()
    assert (np.abs(weight).max(1) / 448 >= scale * (1 - 2**-9)).all()
    codes = (weight / scale[:, None]).astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(to_numpy(quantized.weight).view(np.uint8), codes.view(np.uint8))
    given = np.clip(x * np.float32(1 / quantized.input_scale), -448, 448).astype(ml_dtypes.float8_e4m3fn)
    assert (np.abs(given.astype(np.float32)) == 448).any()
    wanted = given.astype(np.float64) * quantized.input_scale @ (codes.astype(np.float64) * scale[:, None]).T
    with torch.inference_mode():
        found = quantized(torch.from_numpy(x)).double().numpy()
    assert layer.bias is not None
    np.testing.assert_allclose(found, wanted + layer.bias.detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def ranges(tiny: ModelSpec, tiles: np.ndarray) -> Ranges:
    return calibrate(fold(random_model(tiny), tiny), [tiles[:4]])


@pytest.fixture(scope="module")
def net(tiny: ModelSpec, ranges: Ranges) -> EdgeModel:
    return quantize(fold(random_model(tiny), tiny), ranges, number_format=FP8)


@pytest.fixture(scope="module")
def graph(net: EdgeModel) -> ModelProto:
    return to_onnx(net)


def embedded(model: ModelProto, tiles: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    opened = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    embedding: np.ndarray = opened.run(["embedding"], {"tiles": tiles})[0]
    return embedding


def apart(one: np.ndarray, other: np.ndarray) -> float:
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float((1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).max())


def test_onnx_runtime_computes_the_program(net: EdgeModel, graph: ModelProto, tiles: np.ndarray) -> None:
    program = Program(net)
    wanted = program(tiles[:4])
    # No two exact executions agree: rounding amplifies the last bit of a sum. Its measure is the program, nudged.
    noise = apart(program.nudged(tiles[:4]), wanted)
    assert apart(embedded(graph, tiles[:4]), wanted) < 3 * noise
    # Measured 2.8e-4 (noise 4.7e-5): FP16's 11 bits tip values over to the next of E4M3's, which are far apart.
    assert apart(embedded(to_fp16(copy.deepcopy(graph)), tiles[:4]), wanted) < 8e-4


def test_graph_is_e4m3_at_both_inputs_of_every_linear(net: EdgeModel, graph: ModelProto) -> None:
    kinds = [tensor.data_type for tensor in graph.graph.initializer if len(tensor.dims) == 2]
    assert kinds.count(TensorProto.FLOAT8E4M3FN) == LINEARS
    rounded = [node for node in graph.graph.node if node.op_type == "QuantizeLinear"]
    assert len(rounded) == LINEARS
    zeros = {node.output[0]: node.attribute[0].t for node in graph.graph.node if node.op_type == "Constant"}
    zeros |= {tensor.name: tensor for tensor in graph.graph.initializer}
    assert {zeros[node.input[2]].data_type for node in rounded} == {TensorProto.FLOAT8E4M3FN}
    assert not any(attribute.name == "saturate" and not attribute.i for node in rounded for attribute in node.attribute)
    stored = {
        numpy_helper.to_array(tensor).T.tobytes()
        for tensor in graph.graph.initializer
        if tensor.data_type == TensorProto.FLOAT8E4M3FN and tensor.dims
    }
    ours = [to_numpy(layer.weight) for layer in net.modules() if isinstance(layer, QuantizedLinear)]
    assert stored == {weight.tobytes() for weight in ours}


def test_program_is_written_and_read_to_the_bit(net: EdgeModel, tmp_path: Path) -> None:
    save_program(net, tmp_path / "p.safetensors")
    other = copy.deepcopy(net)
    for layer in other.modules():
        if isinstance(layer, QuantizedLinear):
            layer.weight, layer.input_scale = torch.zeros_like(layer.weight), 1.0
    load_program(other, tmp_path / "p.safetensors")
    for (name, one), again in zip(net.named_modules(), other.modules(), strict=True):
        if isinstance(one, QuantizedLinear):
            assert isinstance(again, QuantizedLinear)
            assert torch.equal(one.weight.view(torch.uint8), again.weight.view(torch.uint8)), name
            assert one.input_scale == again.input_scale


def test_calibration_is_that_of_int8_without_its_tuning(exports: Callable[[str], Exported]) -> None:
    fp8, int8 = (np.load(exports(target).bundle.path / "ranges.npz") for target in ("thor-fp8", "jetson-int8"))
    seen = [name for name in int8 if name.startswith("absmax/")]
    assert sorted(fp8) == sorted([*seen, "tiles"])  # no strengths, no narrower ranges
    assert all(np.array_equal(fp8[name], int8[name]) for name in seen)
    tiles = open_tiles("synthetic:16", size=224)
    keys = [_depends_on(find_recipe(target), tiles, "cpu", {}) for target in ("thor-fp8", "jetson-int8")]
    assert keys[0] == keys[1]  # found once for both


def test_formats_are_told_apart(net: EdgeModel) -> None:
    formats = {layer.number_format for layer in net.modules() if isinstance(layer, QuantizedLinear)}
    assert formats == {FP8}
    assert quantize_linear(nn.Linear(4, 4), 1.0).number_format is INT8

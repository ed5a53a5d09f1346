"""Two front ends to TensorRT, one program: their networks are the same linears, and compute what the program does."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgepath.backends.tensorrt_network.evaluation import Evaluator
from edgepath.backends.tensorrt_network.network import Layer, Network, parse_onnx
from edgepath.backends.tensorrt_network.products import compare_networks, products
from edgepath.backends.torchtrt_process import convert_apart
from edgepath.errors import UsageError
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program.calibrate import calibrate
from edgepath.program.decomposed import capture_typed
from edgepath.program.fold import EdgeModel, fold
from edgepath.program.forms import Program, to_onnx
from edgepath.program.linear import quantize
from edgepath.program.smooth import smooth

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra rtx", exc_type=ImportError)
SHAPES = {"min": [1, 224, 224, 3], "opt": [1, 224, 224, 3], "max": [16, 224, 224, 3]}
LINEARS = 9  # of two blocks, the last one's query apart
Networks = Callable[[str, str], Network]


@pytest.fixture(scope="module")
def net(tiny: ModelSpec, tiles: np.ndarray) -> EdgeModel:
    model = fold(random_model(tiny), tiny)
    return quantize(model, smooth(model, calibrate(model, [tiles[:4]])))


@pytest.fixture(scope="module")
def networks(net: EdgeModel, tmp_path_factory: pytest.TempPathFactory) -> Networks:
    """The network by a front end ("onnx" or "torchtrt") in a type ("fp32" or "fp16"), made once."""
    folder, made = tmp_path_factory.mktemp("networks"), {}

    def by(front: str, kind: str) -> Network:
        if front == "torchtrt":
            require_torchtrt()
        if (front, kind) not in made:
            made[front, kind] = _parsed(net, folder, kind) if front == "onnx" else _converted(net, folder, kind)
        return made[front, kind]

    return by


def require_torchtrt() -> None:
    """Skip without Torch-TensorRT: importing it takes a GPU, so that is not tried."""
    import importlib.util

    if importlib.util.find_spec("torch_tensorrt") is None:
        pytest.skip("needs the extra torchtrt")


def _parsed(net: EdgeModel, folder: Path, kind: str) -> Network:
    onnx.save(to_onnx(net) if kind == "fp32" else Program(net).onnx_fp16(), folder / f"{kind}.onnx")
    return parse_onnx(trt, folder / f"{kind}.onnx")


def _converted(net: EdgeModel, folder: Path, kind: str) -> Network:
    program = capture_typed(net, torch.float32 if kind == "fp32" else torch.float16)
    torch.export.save(program, folder / f"{kind}.pt2")
    return convert_apart(folder / f"{kind}.pt2", SHAPES, ["embedding"], ["SM86"]).network


def embedded(network: Network, tiles: np.ndarray, **options: bool) -> np.ndarray:
    found: np.ndarray = Evaluator(network, **options)({"tiles": torch.from_numpy(tiles)})["embedding"].numpy()
    return found


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest 1 - cosine, in float64."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float((1 - (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).max())


@pytest.mark.parametrize(("front", "most"), [("torchtrt", 1e-12), ("onnx", 1e-5)])
def test_network_in_fp32_is_the_program(
    networks: Networks, net: EdgeModel, tiles: np.ndarray, front: str, most: float
) -> None:
    # Torch-TensorRT's layers sum as PyTorch does: measured 8.7e-15. The parser's attention scales queries and keys
    # before their product, and rounding to 8 bits amplifies that: 1.9e-6, where the program's own noise is 2.5e-5.
    assert apart(embedded(networks(front, "fp32"), tiles[:4]), Program(net)(tiles[:4])) < most


@pytest.mark.parametrize("front", ["torchtrt", "onnx"])
def test_network_in_fp16_is_near_the_program(networks: Networks, net: EdgeModel, tiles: np.ndarray, front: str) -> None:
    network, program = networks(front, "fp16"), Program(net)
    assert network.inputs == {"tiles": ("UINT8", (-1, 224, 224, 3))}
    assert network.outputs == {"embedding": ("FLOAT", (-1, 96))}
    # Measured 5.1e-5 and 6.2e-5: FP16's 11 bits move values that rounding to 8 bits then amplifies.
    assert apart(embedded(network, tiles[:4]), program(tiles[:4])) < 2e-4


def test_both_front_ends_make_the_same_int8_linears(networks: Networks, net: EdgeModel) -> None:
    one, other = networks("torchtrt", "fp16"), networks("onnx", "fp16")
    compared = compare_networks(one, other)
    assert (compared.int8, compared.equal, compared.floats) == ((LINEARS, LINEARS), LINEARS, (0, 0))
    assert compared.contract
    assert compared.same
    assert one.profile == {"tiles": tuple(tuple(SHAPES[name]) for name in ("min", "opt", "max"))}
    # Attention is one layer of Torch-TensorRT's, and its parts in the parser's.
    assert sum(layer.kind == "ATTENTION_INPUT" for layer in one.layers) == 2
    assert sum(layer.kind == "SOFTMAX" for layer in other.layers) == 2


def changed(network: Network, kind: str, change: Callable[[Mapping[str, Any]], dict[str, Any]], at: int = 0) -> Network:
    """A network whose layer number `at` of a kind has other settings."""
    place = [number for number, layer in enumerate(network.layers) if layer.kind == kind][at]
    layers = list(network.layers)
    layers[place] = dataclasses.replace(
        layers[place], settings={**layers[place].settings, **change(layers[place].settings)}
    )
    return dataclasses.replace(network, layers=tuple(layers))


def test_one_bit_of_one_weight_is_seen(networks: Networks) -> None:
    network = networks("onnx", "fp16")
    weights = [layer for layer in network.layers if layer.kind == "CONSTANT"]
    at = next(number for number, layer in enumerate(weights) if layer.settings["value"].dtype == np.int8)

    def flip(settings: Mapping[str, Any]) -> dict[str, Any]:
        value = settings["value"].copy()
        value.flat[17] ^= 1
        return {"value": value}

    compared = compare_networks(network, changed(network, "CONSTANT", flip, at))
    assert (compared.int8, compared.equal, compared.same) == ((LINEARS, LINEARS), LINEARS - 1, False)


def test_a_linear_that_lost_its_rounding_counts_as_float(networks: Networks) -> None:
    network = networks("onnx", "fp16")
    kept = [layer for layer in network.layers if layer.kind != "QUANTIZE" or layer is not network.layers[-1]]
    place = next(number for number, layer in enumerate(kept) if layer.kind == "QUANTIZE")
    kept[place] = dataclasses.replace(kept[place], kind="IDENTITY", inputs=kept[place].inputs[:1], settings={})
    compared = compare_networks(network, dataclasses.replace(network, layers=tuple(kept)))
    assert (compared.int8, compared.floats, compared.same) == ((LINEARS, LINEARS - 1), (0, 1), False)


def test_a_norm_with_another_epsilon_is_seen_in_fp32(networks: Networks, net: EdgeModel, tiles: np.ndarray) -> None:
    # In FP16, rounding hides it: the reason that structure is compared in FP32.
    network, wanted = networks("onnx", "fp32"), Program(net)(tiles[:2])
    other = changed(network, "NORMALIZATION", lambda settings: {"epsilon": 0.1})
    assert apart(embedded(other, tiles[:2]), wanted) > 100 * apart(embedded(network, tiles[:2]), wanted)


def test_an_overflow_of_fp16_shows_and_only_with_rounding(networks: Networks, tiles: np.ndarray) -> None:
    # LayerScale is the fourth constant behind a product's bias; a factor makes what it scales larger than 65,504.
    network = networks("onnx", "fp16")
    at = [layer for layer in network.layers if layer.kind == "CONSTANT"]
    place = next(number for number, layer in enumerate(at) if layer.name.endswith("blocks.0.ls1.gamma"))
    large = changed(network, "CONSTANT", lambda settings: {"value": settings["value"].astype(np.float32) * 1e6}, place)
    assert not np.isfinite(embedded(large, tiles[:1])).all()
    assert np.isfinite(embedded(large, tiles[:1], rounding=False)).all()


def test_a_layer_that_is_not_known_is_named() -> None:
    layer = Layer(
        "GATHER", "strange", ("x", "x"), ("y",), ("FLOAT",), {"axis": 0, "mode": "ND", "num_elementwise_dims": 0}
    )
    network = Network({"x": ("FLOAT", (-1,))}, {"y": ("FLOAT", (-1,))}, (layer,))
    with pytest.raises(
        UsageError, match=r"GATHER 'strange' cannot be computed \(a gather of mode ND is not evaluated\)"
    ):
        Evaluator(network)({"x": torch.zeros(1)})


def test_a_file_that_the_parser_does_not_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(json.dumps({}).encode())
    with pytest.raises(UsageError, match=r"^a\.onnx: TensorRT .* cannot read it"):
        parse_onnx(trt, tmp_path / "a.onnx")


def test_products_are_the_programs(networks: Networks, net: EdgeModel) -> None:
    from edgepath.checks.parts import named_parts

    ours = [product for product in named_parts(net)[0].values() if product.scale is not None]
    theirs = products(networks("onnx", "fp16"))
    assert sorted(one.weight.shape for one in ours) == sorted(one.weight.shape for one in theirs)
    assert {one.weight.tobytes() for one in ours} == {np.ascontiguousarray(one.weight).tobytes() for one in theirs}
    assert {one.input_scales for one in ours} == {one.input_scales for one in theirs}

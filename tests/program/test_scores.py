"""Queries and keys in INT8: the numbers they are rounded with, in the program and in every artifact that has them."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch

import edgepath
from edgepath.bundle.bundle import Bundle, open_bundle
from edgepath.checks.debugging import debug
from edgepath.checks.lint import lint
from edgepath.checks.parts import differences
from edgepath.errors import UsageError, WeightsError
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program.calibrate import Ranges, calibrate
from edgepath.program.fold import EdgeModel, fold
from edgepath.program.forms import Program
from edgepath.program.rebuilding import rebuild, same_weights
from edgepath.program.scores import check_kept, round_scores
from edgepath.recipes.recipe import Recipe, find_recipe
from edgepath.searching import search

TILES: dict[str, Any] = {"weights": "random", "calibration": "synthetic:64", "calibration_tiles": 16, "device": "cpu"}
FIRST, LAST = "vit.blocks.0.attn", "vit.blocks.1.attn"


@pytest.fixture(scope="module")
def net(tiny: ModelSpec) -> EdgeModel:
    return fold(random_model(tiny), tiny)


@pytest.fixture(scope="module")
def ranges(net: EdgeModel, tiles: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Ranges:
    """Taken in two batches, and back from disk."""
    path = tmp_path_factory.mktemp("ranges") / "ranges.npz"
    calibrate(net, [tiles[:3], tiles[3:5]]).save(path)
    return Ranges.load(path)


def heads(net: EdgeModel, name: str, tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return queries and keys of an attention, from what its products compute."""
    found: list[np.ndarray] = []
    attn = net.get_submodule(name)
    names = ("qkv",) if name == FIRST else ("q", "kv")
    hooks = [
        getattr(attn, part).register_forward_hook(lambda _, inputs, output: found.append(output.numpy()))
        for part in names
    ]
    with torch.inference_mode():
        net(torch.from_numpy(tiles))
    for hook in hooks:
        hook.remove()
    if name == FIRST:
        return found[0][..., :96], found[0][..., 96:192]
    return found[0], found[1][..., :96]


@pytest.mark.parametrize("name", [FIRST, LAST])
def test_ranges_are_the_largest_queries_and_keys(name: str, net: EdgeModel, ranges: Ranges, tiles: np.ndarray) -> None:
    wanted = [float(np.abs(values).max()) for values in heads(net, name, tiles[:5])]
    np.testing.assert_allclose(ranges.scores[name], wanted, rtol=1e-5)


def test_the_program_is_numpys_formula(net: EdgeModel, ranges: Ranges, tiles: np.ndarray) -> None:
    """Of the last attention: softmax over INT8 queries times INT8 keys; values as they are."""
    program = round_scores(copy.deepcopy(net), ranges, keep=[f"{FIRST}.scores"])
    scales = [program.get_submodule(f"{LAST}.{norm}").scale for norm in ("q_norm", "k_norm")]
    for scale, largest in zip(scales, ranges.scores[LAST], strict=True):
        assert largest / 127 <= scale <= largest / 127 * (1 + 2**-10)
        assert np.float16(scale) == scale
    queries, keys = (
        np.clip(np.rint(values / scale), -128, 127) * scale
        for values, scale in zip(heads(net, LAST, tiles[:2]), scales, strict=True)
    )
    queries, keys = (values.reshape(2, -1, 3, 32).transpose(0, 2, 1, 3) for values in (queries, keys))
    scores = queries @ keys.transpose(0, 1, 3, 2) / np.sqrt(32)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    caught: list[np.ndarray] = []
    attn = program.get_submodule(LAST)
    hooks = [
        attn.kv.register_forward_hook(lambda _, inputs, output: caught.append(output.numpy()[..., 96:])),
        attn.proj.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].numpy())),
    ]
    with torch.inference_mode():
        program(torch.from_numpy(tiles[:2]))
    for hook in hooks:
        hook.remove()
    values = caught[0].reshape(2, -1, 3, 32).transpose(0, 2, 1, 3)
    wanted = (shares @ values).transpose(0, 2, 1, 3).reshape(2, 1, 96)
    # A query on the edge between two integers may fall either way; the keys are many, so it hardly shows.
    np.testing.assert_allclose(caught[1], wanted, rtol=0, atol=2e-3 * float(np.abs(wanted).max()))


def written(path: Path, target: str, **changed: Any) -> str:
    base = find_recipe(target)
    recipe = replace(base, target="scores", quantize=replace(base.quantize, looks=13, scores=True, **changed))
    path.write_text(recipe.to_toml(), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("target", ["openvino-int8", "jetson-int8"])
@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_an_artifact_has_them_and_is_rebuilt(target: str, rounding: str, known_tiny: ModelSpec, tmp_path: Path) -> None:
    recipe = written(tmp_path / "scores.toml", target, rounding=rounding)
    done = edgepath.export(recipe, model=known_tiny.name, out=tmp_path, **TILES)
    assert done.passed
    assert {f"{FIRST}.scores", f"{LAST}.scores"} <= done.report["program"].keys()
    found = edgepath.verify(done.bundle, tiles="synthetic:4:5", weights="random", device="cpu")
    assert found["passed"]
    assert found["tiles"]["differences"] == []
    if rounding == "nearest":
        assert debug(done.bundle, tiles="synthetic:1:5", weights="random")["unproved"] == []
        assert [line for line in differences(program_of(done.bundle), done.bundle.artifact) if line] == []
    if target == "jetson-int8":
        assert [one for one in lint(done.bundle.artifact) if one.level == "error"] == []


def program_of(bundle: Bundle) -> Any:
    vit, spec, _ = same_weights(bundle, "random")
    recipe = Recipe.from_json(bundle.manifest["recipe"])
    return Program(rebuild(bundle, recipe, vit, spec), recipe).lowered


def test_openvino_multiplies_them_in_int8(known_tiny: ModelSpec, tmp_path: Path) -> None:
    recipe = written(tmp_path / "scores.toml", "openvino-int8")
    done = edgepath.export(recipe, model=known_tiny.name, out=tmp_path, **TILES)
    compiled = openvino.Core().compile_model(done.bundle.artifact, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    into: list[set[str]] = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        kind = node.get_rt_info()["layerType"].astype(str)
        if kind in ("MatMul", "Subgraph") and node.get_input_size() > 1:
            given = [node.input_value(i).get_node().get_rt_info() for i in (0, 1)]
            into.append({one["outputPrecisions"].astype(str) for one in given})
    assert into.count({"i8"}) == 2


@pytest.mark.parametrize(("side", "end"), [(0, "Q"), (1, "DQ")])
def test_another_scale_of_a_query_or_a_key_is_found(side: int, end: str, known_tiny: ModelSpec, tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    recipe = written(tmp_path / "scores.toml", "jetson-int8")
    done = edgepath.export(recipe, model=known_tiny.name, out=tmp_path, **TILES)
    program, artifact = program_of(done.bundle), done.bundle.artifact
    model = onnx.load(artifact)
    made_by = {name: node for node in model.graph.node for name in node.output}
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    product = next(node for node in model.graph.node if node.op_type == "Softmax")
    while product.op_type != "MatMul":
        product = made_by[product.input[0]]
    node = made_by[product.input[side]]
    while node.op_type == "Transpose":
        node = made_by[node.input[0]]
    if end == "Q":
        node = made_by[node.input[0]]
    model.graph.initializer.append(numpy_helper.from_array(constants[node.input[1]] * np.float16(3), "other_scale"))
    node.input[1] = "other_scale"
    (tmp_path / "odd").mkdir()
    onnx.save(model, tmp_path / "odd" / "model.onnx")
    (line,) = map(str, differences(program, tmp_path / "odd" / "model.onnx"))
    what = "quantized" if end == "Q" else "dequantized"
    assert line.startswith(f"{FIRST}.scores: {what} with ")


def test_the_scales_of_queries_and_keys_in_each_others_place_are_found(known_tiny: ModelSpec, tmp_path: Path) -> None:
    recipe = written(tmp_path / "scores.toml", "openvino-int8")
    done = edgepath.export(recipe, model=known_tiny.name, out=tmp_path, **TILES)
    program = program_of(done.bundle)
    assert differences(program, done.bundle.artifact) == []
    attn = program.get_submodule(FIRST)
    attn.q_norm.scale, attn.k_norm.scale = attn.k_norm.scale, attn.q_norm.scale
    found = list(map(str, differences(program, done.bundle.artifact)))
    assert [line.split(" with ")[0] for line in found] == [
        f"{FIRST}.scores: quantized",
        f"{FIRST}.scores: dequantized",
    ]


def test_search_takes_them_for_arms(known_tiny: ModelSpec, tmp_path: Path) -> None:
    found = search("openvino-int8", {"cosine_mean": 0.9}, tmp_path / "mixed.toml", model="tiny", scores=True, **TILES)
    work = {layer["layer"]: layer["multiply_adds"] for layer in found["layers"]}
    assert work[f"{FIRST}.scores"] == 3 * 32 * 261 * 261
    assert work[f"{LAST}.scores"] == 3 * 32 * 261
    assert found["kept"] == []
    done = edgepath.export(str(tmp_path / "mixed.toml"), model="tiny", out=tmp_path, **TILES)
    assert done.report["recipe"]["quantize"]["scores"] is True
    assert done.report["drift"]["quantization"]["cosine_mean"] == pytest.approx(
        found["points"][0]["cosine_mean"], abs=1e-9
    )
    assert open_bundle(done.bundle.path).manifest["program"].keys() == work.keys()
    with pytest.raises(UsageError, match="attention's scores can be INT8 for openvino"):
        search("onnx-int8", {"cosine_mean": 0.9}, tmp_path / "other.toml", model="tiny", scores=True, **TILES)


@pytest.mark.parametrize(
    ("keep", "scores", "said"),
    [
        (f"{FIRST}.scores", False, "is not in INT8 without quantize.scores; leave it out"),
        ("vit.blocks.7.attn.scores", True, "the model has no attention of vit.blocks.7.attn.scores; did you mean"),
    ],
)
def test_scores_that_cannot_be_kept_are_refused(keep: str, scores: bool, said: str, net: EdgeModel) -> None:
    check_kept(net, [f"{FIRST}.scores"], True)
    with pytest.raises(UsageError, match=said):
        check_kept(net, [keep], scores)


def test_ranges_of_an_older_calibration_are_refused(net: EdgeModel, ranges: Ranges) -> None:
    with pytest.raises(UsageError, match=f"the queries and keys of {FIRST} are missing"):
        round_scores(copy.deepcopy(net), replace(ranges, scores={}))


def test_keys_whose_scale_fp16_does_not_hold_are_refused(net: EdgeModel, ranges: Ranges) -> None:
    """Their scale would be infinite, and every embedding no number."""
    large = replace(ranges, scores=ranges.scores | {LAST: (1.0, 1e7)})
    with pytest.raises(WeightsError, match=r"queries or keys reach 1e\+07; .* leave out quantize\.scores"):
        round_scores(copy.deepcopy(net), large)

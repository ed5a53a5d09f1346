"""`search` keeps as few layers out of INT8 as its budget allows, goes on where it was cut off, and writes a recipe."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import edgepath
from edgepath import searching
from edgepath.checks.candidate import Point, Ran, missed, required
from edgepath.errors import UsageError
from edgepath.machine.progress import Stages, silent
from edgepath.models import catalogue as models
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program.calibrate import calibrate, linears
from edgepath.program.fold import fold
from edgepath.program.linear import quantize_linear, replace_layer
from edgepath.program.sensitivity import multiply_adds, sensitivities
from edgepath.recipes.recipe import Recipe, find_recipe, load_recipe
from edgepath.reports.drawings import draw_search
from edgepath.reports.tables.checks import point_table
from edgepath.searching import parse_budget, search

Search = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def deep(tiny: ModelSpec) -> Any:
    """Six blocks: work enough for the few layers of the last one not to count."""
    spec = replace(tiny, name="deep", timm_args={**tiny.timm_args, "depth": 6})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "_SPECS", (*models.model_specs(), spec))
        yield spec


@pytest.fixture
def find(deep: ModelSpec, tmp_path: Path) -> Search:
    def run(budget: dict[str, float], name: str = "mixed.toml", **changed: Any) -> dict[str, Any]:
        how = {"model": "deep", "weights": "random", "calibration": "synthetic:64", "calibration_tiles": 16}
        target = changed.pop("target", "onnx-int8")
        return search(target, budget, tmp_path / name, device="cpu", **(how | changed))

    return run


def test_fewest_layers_are_kept_that_meet_the_budget(find: Search, deep: ModelSpec, tmp_path: Path) -> None:
    whole = find({"cosine_mean": 0.9})
    assert whole["kept"] == []
    assert [point["kept"] for point in whole["points"]] == [0]
    drift = 1 - whole["points"][0]["cosine_mean"]
    budget = {"cosine_mean": 1 - 0.75 * drift}
    found = find(budget, "less.toml")
    points = {point["kept"]: point for point in found["points"]}
    kept = len(found["kept"])
    assert points[0]["cosine_mean"] < budget["cosine_mean"] <= points[kept]["cosine_mean"]
    assert points[kept]["artifact"]["cosine_mean"] >= budget["cosine_mean"]
    assert missed(points[kept - 1], found["required"])  # one layer fewer is not enough
    assert points[kept]["int8_share"] >= 0.9  # so nine tenths of INT8's speed-up are left
    assert found["kept"] == [layer["layer"] for layer in found["layers"][:kept]]
    verdicts = [row[-1] for row in point_table(found).rows if row[0] in ("0", str(kept))]
    assert verdicts == ["missed: cosine_mean", "met"]
    alone = [row[-1] for row in point_table(found).rows if "not built" in row]
    assert "met by the program" in alone
    assert "met" not in alone
    draw_search(found, tmp_path / "front.png")
    assert not list(tmp_path.glob("*.search.json"))

    recipe = load_recipe(tmp_path / "less.toml")
    assert recipe.accept.cosine_mean == budget["cosine_mean"]
    done = edgepath.export(
        str(tmp_path / "less.toml"),
        model="deep",
        weights="random",
        calibration="synthetic:64",
        calibration_tiles=16,
        out=tmp_path,
        device="cpu",
    )
    assert done.report["drift"]["quantization"]["cosine_mean"] == pytest.approx(points[kept]["cosine_mean"], abs=1e-9)
    assert set(done.report["program"]) == {layer["layer"] for layer in found["layers"][kept:]}
    artifact = points[kept]["artifact"]
    for figure in ("cosine_mean", "cosine_p01"):  # the very artifact, run on the very tiles
        assert done.report["drift"]["total"][figure] == pytest.approx(artifact[figure], abs=1e-9)
    assert points[0]["artifact"] is None  # its program is not good enough: nothing was built
    assert found["ran_with"] == done.report["ran_with"]
    assert found["required"] == {"cosine_mean": budget["cosine_mean"], "cosine_p01": 0.99}
    other_parts = next(gate for gate in done.report["gates"] if gate["gate"] == "other parts")
    assert other_parts["passed"]
    assert edgepath.verify(done.bundle, tiles="synthetic:4:9", weights="random", device="cpu")["tiles"]["drift"][
        "total"
    ]


def test_where_nothing_runs_the_artifact_the_program_is_judged_and_that_is_said(find: Search, tmp_path: Path) -> None:
    unchecked = replace(find_recipe("onnx-int8"), checked_with="none")
    (tmp_path / "unchecked.toml").write_text(unchecked.to_toml(), encoding="utf-8")
    found = find({"cosine_mean": 0.9}, target=str(tmp_path / "unchecked.toml"))
    assert found["ran_with"] is None
    assert [point["artifact"] for point in found["points"]] == [None]
    assert "not run here" in found["notes"][0]


def test_an_artifact_that_is_not_finite_or_fails_another_gate_misses() -> None:
    ran = Ran(cosine_mean=0.999, cosine_p01=0.998, failed=[], ran_with="it", runtime={})
    point = Point(kept=0, int8_share=1.0, cosine_mean=0.999, cosine_p01=0.998, artifact=ran)
    least = required(find_recipe("jetson-int8").accept)
    assert missed(point, least) == []
    assert missed({**point, "artifact": {**ran, "cosine_mean": None, "cosine_p01": None}}, least) == list(least)
    assert missed({**point, "artifact": {**ran, "failed": ["FP16 headroom"]}}, least) == ["FP16 headroom"]
    assert missed({**point, "cosine_p01": 0.5}, least) == ["cosine_p01"]


def test_a_search_that_was_cut_off_goes_on(find: Search) -> None:
    first: list[tuple[str, int]] = []

    def stop(stage: str, done: int, _: int) -> None:
        if stage == "layers" and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find({"cosine_p01": 0.9}, progress=stop)
    find({"cosine_p01": 0.9}, progress=lambda stage, done, _: first.append((stage, done)))
    assert [done for stage, done in first if stage == "layers"][:3] == [0, 5, 6]


def test_what_another_search_measured_is_not_used_and_that_is_said(
    find: Search, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "mixed.toml.search.json"
    state.write_text('{"key": "another", "drift": {"vit.blocks.0.attn.qkv": 0.5}, "points": {}}')
    found = find({"cosine_mean": 0.9})
    assert max(layer["drift"] for layer in found["layers"]) < 0.1
    assert "mixed.toml.search.json: not gone on with (of another recipe" in caplog.text
    for foreign in ("cut off", "[]", '{"key": 1}', "[" * 9999):
        state.write_text(foreign)
        assert find({"cosine_mean": 0.9}, force=True)["layers"] == found["layers"]


def test_a_layers_drift_is_that_of_the_model_with_it_alone_in_int8(deep: ModelSpec, tiles: np.ndarray) -> None:
    net = fold(random_model(deep), deep, embedding="cls+mean")
    ranges = calibrate(net, [tiles[:4]])
    found = dict(sensitivities(net, ranges, tiles[4:16], skip=["vit.blocks.0.attn.qkv"]))
    assert found.keys() == linears(net).keys() - {"vit.blocks.0.attn.qkv"}
    pixels = torch.from_numpy(tiles[4:16])
    for name in ("vit.blocks.2.mlp.fc1", "vit.blocks.5.attn.proj"):
        layer = net.get_submodule(name)
        with torch.inference_mode():
            exact = net(pixels).double()
            replace_layer(net, name, quantize_linear(layer, float(ranges.absmax[name].max())))
            alone = net(pixels).double()
            replace_layer(net, name, layer)
        assert found[name] == pytest.approx(float(1 - torch.cosine_similarity(alone, exact).mean()), rel=0.02)


def test_multiply_adds_are_those_of_the_shapes(deep: ModelSpec) -> None:
    work = multiply_adds(fold(random_model(deep), deep))
    assert work["vit.blocks.0.attn.qkv"] == 261 * 96 * 288
    assert work["vit.blocks.5.attn.kv"] == 261 * 96 * 192
    assert work["vit.blocks.5.mlp.fc2"] == 256 * 96  # the class token alone


@pytest.mark.parametrize("target", ["onnx-int8", "jetson-int8", "coreml-fp16", "rtx-int8"])
def test_a_recipe_reads_back_from_its_toml(target: str, tmp_path: Path) -> None:
    recipe = find_recipe(target)
    recipe = replace(recipe, quantize=replace(recipe.quantize, keep=("a.b", 'quote " and \\')))
    (tmp_path / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.toml") == recipe


def test_a_kept_layer_that_is_not_there_is_named_before_the_work(deep: ModelSpec, tmp_path: Path) -> None:
    values = find_recipe("onnx-int8").to_json()
    values["quantize"]["keep"] = ["vit.blocks.0.attn.qvk"]
    (tmp_path / "odd.toml").write_text(Recipe.from_json(values).to_toml())
    with pytest.raises(UsageError, match=r'has no linear vit.blocks.0.attn.qvk; did you mean "vit.blocks.0.attn.qkv"'):
        edgepath.export(
            str(tmp_path / "odd.toml"), model="deep", weights="random", calibration="synthetic:64", out=tmp_path
        )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"target": "openvino-fp16"}, "it has no INT8 layers to choose from"),
        ({"budget": {}}, "no budget; give one"),
        ({"budget": {"cosine_p1": 0.9}}, 'budget "cosine_p1" is not known; did you mean "cosine_p01"'),
        ({"budget": {"cosine_p01": 1.5}}, "expected a cosine between 0 and 1"),
        ({"out": "mixed.json"}, "that ends in .toml"),
        ({"out": "my mix.toml"}, "give a name of letters, digits"),
        ({"out": "nowhere/mixed.toml"}, "in a folder that exists"),
        ({"out": "there.toml"}, "there.toml exists; give --force"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "there.toml").touch()
    how = {"target": "onnx-int8", "budget": {"cosine_p01": 0.9}, "out": "mixed.toml"} | changed
    with pytest.raises(UsageError) as caught:
        search(how["target"], how["budget"], tmp_path / how["out"])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_budget_that_nothing_meets_is_said(find: Search, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not met even without INT8"):
        find({"cosine_mean": 1 - 1e-16})
    assert not (tmp_path / "mixed.toml").exists()


def test_a_budget_that_only_full_precision_meets_is_said(find: Search, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"only full precision meets .*; all in INT8 it is cosine_mean 0\.9"):
        find({"cosine_mean": 1 - 1e-9})
    assert not (tmp_path / "mixed.toml").exists()


def test_budgets_are_read() -> None:
    assert parse_budget(["cosine_p01=0.99", "cosine_mean = 0.999"]) == {"cosine_p01": 0.99, "cosine_mean": 0.999}
    with pytest.raises(UsageError, match='budget "cosine_p01": give a figure and a number'):
        parse_budget(["cosine_p01"])


@pytest.mark.parametrize("layers", [1, 2, 13])
def test_the_fewest_are_found_whatever_programs_and_artifacts_need(
    layers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidates that miss below a number of kept layers, one for programs and one for artifacts."""
    recipe = find_recipe("openvino-int8")
    order = [f"layer {i}" for i in range(layers)]
    shared: Any = SimpleNamespace(recipe=recipe)
    for needs in itertools.product(range(layers + 1), repeat=2):

        def candidate(shared: Any, kept: list[str], share: float, build: bool, stages: Any, needs: Any = needs) -> Any:
            cosine, ran = (1.0 if len(kept) >= need else 0.0 for need in needs)
            built = {"cosine_mean": ran, "cosine_p01": ran, "failed": []} if build and cosine else None
            return {"kept": len(kept), "cosine_mean": cosine, "cosine_p01": cosine, "artifact": built}

        monkeypatch.setattr(searching, "_candidate", candidate)
        state, steps = searching._State(tmp_path / f"{needs}.toml", "key"), list[int]()
        found = searching._fewest_kept(order, dict.fromkeys(order, 1), shared, state, Stages(silent), steps.append)
        assert found == max(needs)
        assert sum(steps) <= layers.bit_length() + 2
        assert found == layers or state.points[str(found)]["artifact"]
        assert all(int(count) >= needs[0] for count, point in state.points.items() if point["artifact"])

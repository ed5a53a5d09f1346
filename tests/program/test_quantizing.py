"""Whatever a recipe does to weights: a bundle is rebuilt as it was made, and search measures that very program."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import grimp
import pytest
import torch

import edgepath
from edgepath.errors import UsageError
from edgepath.machine.progress import Stages
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program import quantizing
from edgepath.program.fold import fold
from edgepath.program.linear import QuantizedLinear
from edgepath.program.quantizing import calibrated, quantized, rounded
from edgepath.recipes.recipe import Recipe, find_recipe
from edgepath.searching import search
from edgepath.tiles.opening import open_tiles

TILES: dict[str, Any] = {"weights": "random", "calibration": "synthetic:64", "calibration_tiles": 16, "device": "cpu"}
KEPT = "vit.blocks.0.mlp.fc2"


def recipe(**changed: Any) -> Recipe:
    base = find_recipe("onnx-int8")
    return replace(base, target="other", quantize=replace(base.quantize, looks=13, **changed))


def written(path: Path, **changed: Any) -> str:
    path.write_text(recipe(**changed).to_toml(), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("changed", "qad"),
    [
        ({"rounding": "gptq"}, 0),
        ({"rounding": "gptq", "weight_bits": 4, "keep": (KEPT,)}, 0),
        ({"keep": (KEPT,)}, 2),
    ],
    ids=["gptq", "gptq, 4 bits, one kept", "qad, one kept"],
)
def test_bundle_is_rebuilt_as_it_was_made(
    changed: dict[str, Any], qad: int, known_tiny: ModelSpec, tmp_path: Path
) -> None:
    target = written(tmp_path / "other.toml", **changed)
    done = edgepath.export(target, model=known_tiny.name, qad=qad, out=tmp_path, **TILES)
    assert (done.bundle.path / "program.safetensors").exists()
    assert (KEPT in done.report["program"]) == ("keep" not in changed)
    found = edgepath.verify(done.bundle, tiles="synthetic:4:5", weights="random", device="cpu")
    assert found["tiles"]["differences"] == []
    assert found["tiles"]["drift"]["lowering"]["cosine_mean"] > 0.999


def test_rounding_in_turn_drifts_less_and_search_measures_it(known_tiny: ModelSpec, tmp_path: Path) -> None:
    figures = {}
    for rounding in ("nearest", "gptq"):
        how = {"rounding": rounding, "weight_bits": 4}
        target = written(tmp_path / f"{rounding}.toml", **how)
        done = edgepath.export(target, model=known_tiny.name, out=tmp_path, force=True, **TILES)
        figures[rounding] = done.report["drift"]["quantization"]["cosine_mean"]
        found = search(target, {"cosine_mean": 0.5}, tmp_path / "found.toml", model="tiny", force=True, **TILES)
        assert found["points"][0]["cosine_mean"] == pytest.approx(figures[rounding], abs=1e-9)
    assert 1 - figures["gptq"] < 0.7 * (1 - figures["nearest"])


def test_only_the_roundings_differ(tiny: ModelSpec) -> None:
    nets = [fold(random_model(tiny), tiny) for _ in range(2)]
    how = recipe()
    ranges, seen = calibrated(how, nets[0], open_tiles("synthetic:16"), "cpu", Stages(lambda *_: None))
    one, other = quantized(how, nets[0], ranges), rounded(how, nets[1], ranges, seen, lambda _: None)
    for name, layer in one.named_modules():
        if isinstance(layer, QuantizedLinear):
            twin = other.get_submodule(name)
            assert (twin.input_scale, twin.in_features) == (layer.input_scale, layer.in_features)
            assert torch.equal(twin.weight_scale, layer.weight_scale)
            assert int((twin.weight.int() - layer.weight.int()).abs().max()) in range(1, 8)


def test_ranges_are_kept_by_all_they_depend_on(
    tiny: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPATH_CACHE", str(tmp_path))
    net = fold(random_model(tiny), tiny)

    def look(how: Recipe, tiles: str = "synthetic:16", of: str = "a") -> tuple[Any, bool]:
        stages: list[str] = []
        ranges, seen = calibrated(
            how, net, open_tiles(tiles), "cpu", Stages(lambda stage, *_: stages.append(stage)), of={"weights": of}
        )
        known = "known ranges" in stages
        assert known == (not seen) != ("calibrate" in stages)
        return ranges, known

    base = replace(recipe(), quantize=replace(recipe().quantize, looks=2))
    first, known = look(base)
    assert not known
    again, known = look(replace(base, target="another", backend="openvino"))
    assert known
    assert (again.tiles, again.strengths, again.limits, again.scores) == (
        first.tiles,
        first.strengths,
        first.limits,
        first.scores,
    )
    assert all((again.absmax[name] == values).all() for name, values in first.absmax.items())
    changes: list[dict[str, Any]] = [{"looks": 3}, {"weight_bits": 4}, {"smooth_alpha": 0.0}]
    changes.append({"rounding": "gptq"})  # needs the tokens themselves
    assert not any(look(replace(base, quantize=replace(base.quantize, **change)))[1] for change in changes)
    assert not look(base, tiles="synthetic:16:1")[1]
    assert not look(base, of="b")[1]
    for changed in ("device_name", "_code"):
        with monkeypatch.context() as patch:
            patch.setattr(quantizing, changed, lambda *_: "another")
            assert not look(base)[1]
    for file in (tmp_path / "ranges").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert not look(base)[1]
    assert look(base)[1]


def test_what_ranges_follow_from_is_all_that_calibration_imports() -> None:
    graph = grimp.build_graph("edgepath", cache_dir=None)
    roots = ("edgepath.program.tune", "edgepath.program.calibrate")
    found = {*roots, "edgepath.program.quantizing"}.union(*map(graph.find_upstream_modules, roots))
    in_program = {name.removeprefix("edgepath.").replace(".", "/") for name in found if ".program." in name}
    assert in_program == set(quantizing.RANGES_FROM)
    assert not [name for name in graph.find_upstream_modules("edgepath.tiles.synthetic") if ".tiles." in name
                and not name.startswith("edgepath.tiles.synthetic")]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "survives"),
    [
        ("reports/console.py", True),
        ("program/forms.py", True),
        ("program/tune.py", False),
        ("tiles/synthetic/looks.py", False),
    ],
)
def test_kept_ranges_survive_the_edit_of_a_file_that_has_no_part_in_them(
    file: str, survives: bool, tmp_path: Path, checkout: Path
) -> None:
    package = tmp_path / "edgepath"
    shutil.copytree(checkout / "edgepath", package, ignore=shutil.ignore_patterns("__pycache__", "shipped"))
    script = "from edgepath.program.quantizing import _code; print(_code())"

    def code() -> str:
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        return subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout

    before = code()
    (package / file).write_text((package / file).read_text() + "\n# edited\n")
    assert (code() == before) is survives


def test_a_second_target_needs_no_second_look(known_tiny: ModelSpec, tmp_path: Path) -> None:
    stages: list[str] = []
    for target, backend in (("one", "onnxruntime"), ("two", "openvino")):
        how = replace(recipe(), target=target, backend=backend, checked_with=backend)
        how = replace(how, quantize=replace(how.quantize, looks=5))
        (tmp_path / f"{target}.toml").write_text(how.to_toml(), encoding="utf-8")
        edgepath.export(
            str(tmp_path / f"{target}.toml"),
            model=known_tiny.name,
            out=tmp_path,
            progress=lambda stage, *_: stages.append(stage),
            **TILES,
        )
    assert stages.count("calibrate") > 0
    assert "known ranges" in stages[stages.index("parts") :]
    assert "calibrate" not in stages[stages.index("parts") :]
    one, two = ((tmp_path / f"{known_tiny.name}-{target}" / "ranges.npz").read_bytes() for target in ("one", "two"))
    assert one == two


def test_training_and_rounding_in_turn_exclude_each_other(known_tiny: ModelSpec, tmp_path: Path) -> None:
    target = written(tmp_path / "other.toml", rounding="gptq")
    with pytest.raises(UsageError, match="qad rounds to the nearest step; give a recipe without gptq"):
        edgepath.export(target, model=known_tiny.name, qad=2, out=tmp_path, **TILES)
    base = find_recipe("openvino-int8")
    scores = replace(base, quantize=replace(base.quantize, scores=True))
    (tmp_path / "scores.toml").write_text(scores.to_toml(), encoding="utf-8")
    with pytest.raises(UsageError, match="give a recipe without scores"):
        edgepath.export(str(tmp_path / "scores.toml"), model=known_tiny.name, qad=2, out=tmp_path, **TILES)

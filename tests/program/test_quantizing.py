"""Whatever a recipe does to weights: a bundle is rebuilt as it was made, and search measures that very program."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import grimp
import pytest

import edgepath
from edgepath.bundle.bundle import Bundle, open_bundle
from edgepath.checks.debugging import debug
from edgepath.errors import BundleError
from edgepath.machine.progress import Stages
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program import calibrating, preparing
from edgepath.program.calibrate import Plan, Ranges
from edgepath.program.calibrating import calibrated
from edgepath.program.fold import fold
from edgepath.program.rescaling import Exponents
from edgepath.recipes.recipe import Headroom, Recipe, find_recipe
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


@pytest.mark.parametrize(("bits", "qad"), [(4, 0), (8, 2)], ids=["4 bits, one kept", "qad, one kept"])
def test_bundle_is_rebuilt_as_it_was_made(bits: int, qad: int, known_tiny: ModelSpec, tmp_path: Path) -> None:
    target = written(tmp_path / "other.toml", weight_bits=bits, keep=(KEPT,))
    done = edgepath.export(target, model=known_tiny.name, qad=qad, out=tmp_path, **TILES)
    assert (done.bundle.path / "program.safetensors").exists() == bool(qad)
    assert KEPT not in done.report["program"]
    found = edgepath.verify(done.bundle, tiles="synthetic:4:5", weights="random", device="cpu")
    assert found["tiles"]["differences"] == []
    assert found["tiles"]["drift"]["lowering"]["cosine_mean"] > 0.999


def test_search_measures_the_very_program(known_tiny: ModelSpec, tmp_path: Path) -> None:
    target = written(tmp_path / "coarse.toml", weight_bits=4)
    done = edgepath.export(target, model=known_tiny.name, out=tmp_path, **TILES)
    wanted = done.report["drift"]["quantization"]["cosine_mean"]
    found = search(target, {"cosine_mean": 0.5}, tmp_path / "found.toml", model="tiny", **TILES)
    assert found["points"][0]["cosine_mean"] == pytest.approx(wanted, abs=1e-9)


def older(bundle: Bundle, key: str, value: Any) -> Bundle:
    """Write into a bundle's recipe what versions before 0.2 wrote."""
    path = bundle.path / "bundle.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["recipe"]["quantize"] |= {"rounding": "nearest", "scores": False, key: value}
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return open_bundle(bundle.path)


def test_bundles_of_removed_keys_run_and_are_not_rebuilt(known_tiny: ModelSpec, tmp_path: Path) -> None:
    done = edgepath.export(written(tmp_path / "other.toml"), model=known_tiny.name, out=tmp_path, **TILES)
    fresh: dict[str, Any] = {"tiles": "synthetic:4:5", "weights": "random", "device": "cpu"}
    assert edgepath.verify(older(done.bundle, "scores", False), **fresh)["tiles"]["differences"] == []
    for key, value, said in (("scores", True, "scores = true"), ("rounding", "gptq", 'rounding = "gptq"')):
        bundle = older(done.bundle, key, value)
        assert edgepath.verify(bundle)["passed"]
        wanted = rf"its program cannot be rebuilt \(quantize\.{said} was removed\); export it again"
        with pytest.raises(BundleError, match=wanted):
            edgepath.verify(bundle, **fresh)
        with pytest.raises(BundleError, match=wanted):
            debug(bundle, weights="random")


def test_ranges_are_kept_by_all_they_depend_on(
    tiny: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPATH_CACHE", str(tmp_path))
    net = fold(random_model(tiny), tiny)

    def look(how: Recipe, tiles: str = "synthetic:16", of: str = "a") -> tuple[tuple[Ranges, Plan], bool]:
        stages: list[str] = []
        found = calibrated(
            how, net, open_tiles(tiles), "cpu", Stages(lambda stage, *_: stages.append(stage)), of={"weights": of}
        )
        known = "known ranges" in stages
        assert known != ("calibrate" in stages)
        return found, known

    base = replace(recipe(), quantize=replace(recipe().quantize, looks=2))
    (first, plan), known = look(base)
    assert not known
    (again, same_plan), known = look(replace(base, target="another", backend="openvino"))
    assert known
    assert (again.tiles, same_plan) == (first.tiles, plan)
    assert all((again.absmax[name] == values).all() for name, values in first.absmax.items())
    changes: list[dict[str, Any]] = [{"looks": 3}, {"weight_bits": 4}, {"smooth_alpha": 0.0}]
    assert not any(look(replace(base, quantize=replace(base.quantize, **change)))[1] for change in changes)
    assert not look(base, tiles="synthetic:16:1")[1]
    assert not look(base, of="b")[1]
    for changed in ("device_name", "_code"):
        with monkeypatch.context() as patch:
            patch.setattr(calibrating, changed, lambda *_: "another")
            assert not look(base)[1]
    for file in (tmp_path / "ranges").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert not look(base)[1]
    assert look(base)[1]


def test_what_ranges_follow_from_is_all_that_calibration_imports() -> None:
    graph = grimp.build_graph("edgepath", cache_dir=None)
    roots = ("edgepath.program.tune", "edgepath.program.calibrate")
    found = {*roots, "edgepath.program.calibrating"}.union(*map(graph.find_upstream_modules, roots))
    in_program = {name.removeprefix("edgepath.").replace(".", "/") for name in found if ".program." in name}
    assert in_program == set(calibrating.RANGES_FROM)
    below = {
        name.removeprefix("edgepath.").replace(".", "/")
        for name in graph.find_upstream_modules("edgepath.tiles.synthetic")
    }
    in_tiles = {name for name in below if name.startswith("tiles/") and not name.startswith("tiles/synthetic")}
    assert in_tiles == set(calibrating.LOOKS_FROM)


def test_what_fits_fp16_follows_from_all_that_finding_it_imports() -> None:
    graph = grimp.build_graph("edgepath", cache_dir=None)
    root = "edgepath.program.rescaling"
    found = {root, "edgepath.program.preparing"} | graph.find_upstream_modules(root)
    in_program = {name.removeprefix("edgepath.").replace(".", "/") for name in found if ".program." in name}
    assert in_program == set(preparing.EXPONENTS_FROM)


def test_what_fits_fp16_is_found_once(known_tiny: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPATH_CACHE", str(tmp_path))
    base = find_recipe("jetson-fp16")
    near = replace(base, accept=replace(base.accept, headroom=Headroom(at_least=1e5)))  # so that something comes near
    given = preparing.Inputs("random", "synthetic:48", 16, None, False, "refuse", False, "cpu")
    looked: list[str] = []

    def exponents(recipe: Recipe) -> Exponents:
        def progress(stage: str, done: int, total: int) -> None:
            if stage == "headroom" and 0 < done < total:
                looked.append(stage)

        stages = Stages(progress)
        return preparing.fitted(recipe, preparing.prepare(known_tiny, given, stages), stages).exponents

    first, tiles = exponents(near), len(looked)
    assert first
    assert tiles > 0
    again = exponents(near)
    assert len(looked) == tiles
    assert {name: values.tolist() for name, values in first.items()} == {
        name: values.tolist() for name, values in again.items()
    }
    assert not exponents(base), "another recipe asks for less"
    assert len(looked) == 2 * tiles
    for file in (tmp_path / "exponents").iterdir():
        file.write_bytes(file.read_bytes()[:-20])
    assert exponents(near).keys() == first.keys()
    assert len(looked) == 3 * tiles


@pytest.mark.parametrize(
    ("file", "survives"),
    [
        ("reports/console.py", True),
        ("program/forms.py", True),
        ("program/quantizing.py", True),
        ("program/tune.py", False),
        ("tiles/synthetic/looks.py", False),
        ("tiles/opening.py", False),
        ("program/preparing.py", False),
        ("bundle/running.py", False),
    ],
)
def test_kept_ranges_survive_the_edit_of_a_file_that_has_no_part_in_them(
    file: str, survives: bool, tmp_path: Path, checkout: Path
) -> None:
    package = tmp_path / "edgepath"
    shutil.copytree(checkout / "edgepath", package, ignore=shutil.ignore_patterns("__pycache__", "shipped"))
    script = "from edgepath.program.calibrating import _code; print(_code())"

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

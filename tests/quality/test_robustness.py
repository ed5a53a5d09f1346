"""The artifact is held against full precision on the same slides; a broken quantization fails the gates."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_slides import LOOKS, plism

from edgepath.bundle.bundle import Bundle
from edgepath.checks.gates import all_passed
from edgepath.checks.verification import verify
from edgepath.errors import UsageError
from edgepath.exporting import Exported
from edgepath.quality import plism as metrics
from edgepath.quality import robustness as measuring
from edgepath.quality.both_models import ARTIFACT, FULL
from edgepath.quality.plism import FIGURES, summarise
from edgepath.quality.robustness import robustness
from edgepath.recipes.recipe import Recipe
from edgepath.reports.tables.drift import gate_table
from edgepath.reports.tables.quality import robustness_table
from edgepath.tiles.synthetic import synthesize

Exports = Callable[[str], Exported]
Altered = Callable[[str, Callable[[Path], object]], Bundle]
PLACES = 12


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 places in three looks, one of which differs in the scanner only and one in the staining only."""
    folder = tmp_path_factory.mktemp("paired")
    for staining, scanner in LOOKS:
        (folder / f"{staining}_{scanner}").mkdir()
        for i, tile in enumerate(synthesize(PLACES, seed=3, staining=staining, scanner=scanner)):
            Image.fromarray(tile).save(folder / f"{staining}_{scanner}" / f"{i}.png")
    return folder


def test_both_models_are_measured_on_the_same_slides(exports: Exports, paired: Path) -> None:
    result = robustness(exports("onnx-fp32").bundle, paired=paired, device="cpu", threads=2)
    assert result["kind"] == "robustness"
    assert list(result["ran_with"]) == [FULL, ARTIFACT]
    assert result["passed"]
    assert result["slides"]["slides"] == 3
    assert set(result["figures"][FULL]) == {"scanner", "staining", "both", "all"}
    for group, figures in result["figures"][FULL].items():
        for name, value in figures.items():
            if name != "pairs":
                assert result["figures"][ARTIFACT][group][name]["median"] == pytest.approx(value["median"], abs=1e-4)
    assert 0 < result["figures"][FULL]["all"]["cosine"]["median"] < 1
    assert result["leaderboard"][FULL] == pytest.approx(result["leaderboard"][ARTIFACT], abs=1e-4)
    assert any("12 places only" in note for note in result["notes"])
    shown = robustness_table(result)
    assert all(len(row) == len(shown.header) for row in shown.rows)
    assert {row[-1] for row in gate_table(result["gates"]).rows} == {True}


def test_an_interrupted_run_goes_on(exports: Exports, tmp_path: Path) -> None:
    folder, features = plism(tmp_path / "plism"), tmp_path / "features"
    bundle = exports("onnx-fp32").bundle

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == f"embed, {FULL}" and done > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        robustness(bundle, plism=folder, features=features, device="cpu", progress=interrupt)
    kept = sorted(features.rglob("features.npy"))
    assert len(kept) == 2
    before = [path.stat().st_mtime_ns for path in kept]
    result = robustness(bundle, plism=folder, features=features, device="cpu")
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert len(list(features.rglob("features.npy"))) == 6
    assert result["slides"]["kind"] == "plism"
    assert result["kept_slides"] == {FULL: 2, ARTIFACT: 0}
    assert f"{FULL}: 2 of 3 slides were embedded by an earlier run." in result["notes"]
    with pytest.raises(UsageError, match="lie in the bundle"):
        robustness(bundle, plism=folder, features=bundle.path / "features", device="cpu")
    assert not (bundle.path / "features").exists()


def test_slides_held_in_small_blocks_give_the_same_figures(
    exports: Exports, paired: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = exports("onnx-fp32").bundle
    whole = robustness(bundle, paired=paired, device="cpu")
    monkeypatch.setattr(metrics, "_HELD", 1)
    blocked = robustness(bundle, paired=paired, device="cpu")
    order = {str(row["of"]): row for row in blocked["pairs"][FULL]}
    assert all(order[str(row["of"])] == row for row in whole["pairs"][FULL])


def tripled(which: str) -> Callable[[Path], object]:
    """Return what makes scales of an ONNX three times what they are: of `weights`, or of activations where they are
    rounded (`rounding`), where they are read back (`reading`), or in both places alike (`both`)."""
    import onnx
    from onnx import numpy_helper

    def change(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx")
        makers = {name: node for node in model.graph.node for name in node.output}
        stored = {one.name: one for one in model.graph.initializer}
        readers = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
        activations = [node for node in readers if node.input[0] in makers]
        rounders = [makers[node.input[0]] for node in activations]
        weights = [node for node in readers if node.input[0] in stored]
        changed = {"weights": weights, "rounding": rounders, "reading": activations, "both": [*rounders, *activations]}
        assert changed[which]
        for number, node in enumerate(changed[which]):  # a scale of its own: Q and DQ may share one
            values = numpy_helper.to_array(stored[node.input[1]])
            name = f"tripled_{number}"
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(3 * values, values.dtype), name))
            node.input[1] = name
        onnx.save(model, folder / "model.onnx")

    return change


@pytest.mark.parametrize("which", ["weights", "rounding", "reading"])
def test_scales_three_times_as_large_fail_the_gates(
    which: str, exports: Exports, altered: Altered, paired: Path
) -> None:
    good, bad = exports("onnx-int8").bundle, altered("onnx-int8", tripled(which))
    assert robustness(good, paired=paired, device="cpu")["passed"]
    broken = robustness(bad, paired=paired, device="cpu")
    assert not broken["passed"]
    assert not all(row[-1] for row in gate_table(broken["gates"]).rows)
    assert {gate["gate"]: gate["passed"] for gate in verify(bad)["golden"]["gates"]} == {
        "cosine_mean": False,
        "cosine_p01": False,
    }


def test_rounding_three_times_as_coarse_is_named(exports: Exports, altered: Altered, paired: Path) -> None:
    """It costs 1.6 of 8 bits, and an embedding of 8 bits bears that: the drift stays allowed, the scales are wrong."""
    good, bad = exports("onnx-int8").bundle, altered("onnx-int8", tripled("both"))
    assert verify(good, tiles=paired, device="cpu")["passed"]
    found = verify(bad, tiles=paired, device="cpu")
    gates = {gate["gate"]: gate["passed"] for gate in found["tiles"]["gates"]}
    assert gates == {"cosine_mean": True, "cosine_p01": True, "other parts": False}
    assert not found["passed"]


def test_kept_features_are_not_those_of_other_tiles(exports: Exports, paired: Path, tmp_path: Path) -> None:
    import shutil

    bundle, features = exports("onnx-fp32").bundle, tmp_path / "features"
    robustness(bundle, paired=paired, features=features, device="cpu")
    again = shutil.copytree(paired, tmp_path / "other")
    for path in again.rglob("0.png"):
        Image.fromarray(synthesize(1, seed=8)[0]).save(path)
    robustness(bundle, paired=again, features=features, device="cpu")
    assert len(list(features.iterdir())) == 4  # two models on two sets


def test_one_scanner_that_fails_is_not_hidden_by_the_others(exports: Exports) -> None:
    recipe = Recipe.from_json(exports("onnx-fp32").bundle.manifest["recipe"])
    names = [f"GMH_S{i}" for i in range(7)]
    looks = {name: ("GMH", name.partition("_")[2]) for name in names}
    full, artifact = [], []
    for one, other in combinations(names, 2):
        full.append({"of": [one, other], "group": "scanner"} | dict.fromkeys(FIGURES, 0.9))
        artifact.append(full[-1] | ({"top10": 0.5} if "GMH_S3" in (one, other) else {}))
    summaries = [summarise(rows) for rows in (full, artifact)]
    assert all_passed(measuring.gates(recipe, *summaries, 100))
    (failed,) = [gate for gate in measuring.worst_gates(recipe, full, artifact, looks) if not gate.passed]
    assert failed.of == "pairs of scanner S3, the worst"
    assert failed.measured == pytest.approx(0.4)


def test_one_tile_of_a_few_places_decides_no_gate(exports: Exports) -> None:
    recipe = Recipe.from_json(exports("onnx-fp32").bundle.manifest["recipe"])
    rows = [{"of": ["a", "b"], "group": "scanner"} | dict.fromkeys(FIGURES, 1.0) for _ in range(9)]
    # Five of nine pairs miss one of 32 tiles: the median falls by 3 points, the mean by 1.7; two of nine: 0, and 0.7.
    for missed, passed in ((5, False), (2, True)):
        worse = [row | ({"top1": 31 / 32} if number < missed else {}) for number, row in enumerate(rows)]
        found = measuring.gates(recipe, summarise(rows), summarise(worse), 16)
        lost = {gate.of: gate for gate in found if gate.figure == "top1"}
        assert lost["scanner, mean over pairs"].measured == pytest.approx(missed / 9 / 32)
        assert lost["scanner, mean over pairs"].passed is passed
    many = measuring.gates(recipe, summarise(rows), summarise(worse), 50)
    assert {gate.of for gate in many} == {"scanner", "all"}


def test_a_folder_that_cannot_hold_features_is_said_before_any_tile(exports: Exports, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"features .*file: cannot be written .*give another folder"):
        robustness(exports("onnx-fp32").bundle, tiles=4, features=tmp_path / "file", device="cpu")


def test_of_four_places_none_can_miss_the_ten_nearest(exports: Exports, paired: Path, tmp_path: Path) -> None:
    for path in sorted(paired.rglob("*.png")):
        if path.stem in "0123":
            copy = tmp_path / path.relative_to(paired)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    result = robustness(exports("onnx-fp32").bundle, paired=tmp_path, device="cpu")
    assert result["slides"]["places"] == 4
    assert {gate["gate"] for gate in result["gates"]} == {"cosine", "top1"}
    assert any("cannot miss top10: no gate on it" in note for note in result["notes"])

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
from edgepath.checks.verdicts import Verdict
from edgepath.checks.verification import verify
from edgepath.errors import UsageError
from edgepath.exporting import Exported
from edgepath.quality.both_models import ARTIFACT, FULL
from edgepath.quality.pairs import ByPlace
from edgepath.quality.plism import FIGURES, summarise
from edgepath.quality.robustness import gates, robustness
from edgepath.recipes.recipe import find_recipe
from edgepath.reports.table import failed
from edgepath.reports.tables.drift import gate_table
from edgepath.reports.tables.quality import robustness_table
from edgepath.tiles.synthetic import synthesize

Exports = Callable[[str], Exported]
Altered = Callable[[str, Callable[[Path], object]], Bundle]
PLACES = 12
RECIPE = find_recipe("onnx-int8")


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
    assert result["verdict"] == "inconclusive"  # of 12 places no loss of hits can be said to be small
    assert {gate["verdict"] for gate in result["gates"] if gate["gate"] == "top1"} == {"inconclusive"}
    shown = robustness_table(result)
    assert all(len(row) == len(shown.header) for row in shown.rows)
    assert not any(failed(row[-1]) for row in gate_table(result["gates"]).rows)


def test_float16_prints_the_benchmarks_figures_and_judges_those_of_float32(
    exports: Exports, paired: Path, tmp_path: Path
) -> None:
    from edgepath.quality.plism_float16 import compare_half, prepare_half

    bundle = exports("onnx-int8").bundle
    options = {"paired": paired, "features": tmp_path / "features", "device": "cpu"}
    exact, half = robustness(bundle, **options), robustness(bundle, half=True, **options)
    assert half["gates"] == exact["gates"]
    for name, word in ((FULL, "fp32"), (ARTIFACT, bundle.digest[:8])):
        (folder,) = (tmp_path / "features").glob(f"*{word}*")
        slides = {path.parent.name: np.load(path)[:, 3:] for path in folder.rglob("features.npy")}
        for row in half["pairs"][name]:
            a, b = (prepare_half(slides[slide], slide) for slide in row["of"])
            assert {key: row[key] for key in FIGURES} == compare_half(a, b)
        assert half["figures"][name] == summarise(half["pairs"][name])
    (note,) = [note for note in half["notes"] if note.startswith("float16: figures as plism-benchmark prints them")]
    assert f"({exact['figures'][FULL]['all']['cosine']['median']:.4f})" in note
    assert not any(note.startswith("float16") for note in exact["notes"])


def test_an_interrupted_run_goes_on(exports: Exports, tmp_path: Path) -> None:
    folder, features = plism(tmp_path / "plism"), tmp_path / "features"
    bundle = exports("onnx-fp32").bundle

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == f"embed, {FULL}" and done > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        robustness(bundle, plism=folder, features=features, device="cpu", progress=interrupt)
    kept = sorted(features.rglob("features.npy"))
    assert len(kept) == 4  # of two slides, by both models
    before = [path.stat().st_mtime_ns for path in kept]
    result = robustness(bundle, plism=folder, features=features, device="cpu")
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert len(list(features.rglob("features.npy"))) == 6
    assert result["slides"]["kind"] == "plism"
    assert result["kept_slides"] == {FULL: 2, ARTIFACT: 2}
    assert f"{FULL}: 2 of 3 slides were embedded by an earlier run." in result["notes"]
    with pytest.raises(UsageError, match="lies in the bundle"):
        robustness(bundle, plism=folder, features=bundle.path / "features", device="cpu")
    assert not (bundle.path / "features").exists()


def test_slides_held_in_small_blocks_give_the_same_figures(
    exports: Exports, paired: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = exports("onnx-fp32").bundle
    whole = robustness(bundle, paired=paired, device="cpu")
    monkeypatch.setattr("edgepath.quality.pairs._HELD", 1)
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
    assert any(gate["measured"] > gate["required"] for gate in broken["gates"])
    # Rounding loses an eighth of top-1 on average: of 12 places, chance may do that.
    assert broken["verdict"] == ("inconclusive" if which == "rounding" else "inferior")
    assert any(failed(row[-1]) for row in gate_table(broken["gates"]).rows) is (which != "rounding")
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


def by_place(places: int, lost: dict[str, int], figure: str = "top10") -> tuple[ByPlace, ByPlace]:
    """Return full precision's hits and the artifact's on seven scanners: so many places lose theirs on a scanner."""
    full, artifact = ByPlace(), ByPlace()
    for one, other in combinations([f"S{i}" for i in range(7)], 2):
        hits = np.full((len(FIGURES), places), 0.9)
        looks = [("GMH", one), ("GMH", other)]
        full.add("scanner", looks, hits)
        missed = hits.copy()
        missed[FIGURES.index(figure), : max(lost.get(name, 0) for name in (one, other))] -= 0.9
        artifact.add("scanner", looks, missed)
    return full, artifact


def test_one_scanner_that_fails_is_not_hidden_by_the_others() -> None:
    found = {(gate.figure, gate.of): gate for gate in gates(RECIPE, *by_place(400, {"S3": 40}))}
    worst = found["top10", "pairs of scanner S3, the worst of 7"]
    assert worst.verdict is Verdict.INFERIOR
    assert worst.measured == pytest.approx(0.09)
    over_all = found["top10", "scanner, mean over pairs"]
    assert over_all.measured == pytest.approx(0.09 * 6 / 21)
    assert over_all.interval is not None
    assert worst.interval is not None
    assert over_all.interval[0] < worst.interval[0]
    others = [gate for (figure, _), gate in found.items() if figure != "top10"]
    assert {gate.verdict for gate in others} == {Verdict.NON_INFERIOR}


def test_one_tile_of_sixty_places_fails_nothing_and_many_do() -> None:
    for lost, worst, over_all in (
        ({"S3": 1}, Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE),
        ({"S3": 20}, Verdict.INFERIOR, Verdict.INFERIOR),
    ):
        found = {gate.of: gate for gate in gates(RECIPE, *by_place(60, lost, "top1")) if gate.figure == "top1"}
        assert found["pairs of scanner S3, the worst of 7"].verdict is worst
        assert found["scanner, mean over pairs"].verdict is over_all
        assert {(gate.n, gate.unit) for gate in found.values()} == {(60, "places")}


@pytest.mark.parametrize(("places", "verdict"), [(3, Verdict.INCONCLUSIVE), (400, Verdict.NON_INFERIOR)])
def test_no_loss_is_judged_by_how_many_places_there_were(places: int, verdict: Verdict) -> None:
    found = gates(RECIPE, *by_place(places, {}))
    assert {gate.verdict for gate in found if gate.figure != "cosine"} == {verdict}
    assert [gate.of for gate in found if gate.figure == "cosine"] == [
        "scanner, mean over pairs",
        "pairs of scanner S0, the worst of 7",
    ]


def test_a_group_that_is_all_pairs_is_judged_once() -> None:
    full, artifact = by_place(60, {})
    assert "all, mean over pairs" not in {gate.of for gate in gates(RECIPE, full, artifact)}
    for model in (full, artifact):  # another staining: now all pairs are more than those of one group
        model.add("staining", [("GMH", "S0"), ("GMR", "S0")], np.full((len(FIGURES), 60), 0.9))
    assert {"scanner, mean over pairs", "staining, mean over pairs", "all, mean over pairs"} <= {
        gate.of for gate in gates(RECIPE, full, artifact)
    }


def test_losses_by_place_are_those_of_the_pairs(exports: Exports, paired: Path) -> None:
    result = robustness(exports("onnx-int8").bundle, paired=paired, device="cpu")
    pairs = zip(result["pairs"][FULL], result["pairs"][ARTIFACT], strict=True)
    lost = [one["cosine"] - other["cosine"] for one, other in pairs]
    (gate,) = [gate for gate in result["gates"] if (gate["gate"], gate["of"]) == ("cosine", "all, mean over pairs")]
    assert gate["measured"] == pytest.approx(np.mean(lost), abs=1e-9)
    assert (gate["n"], gate["unit"]) == (PLACES, "places")


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

"""The report: drifts, gates and cautions from arrays, and a page whose tables hold."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from edgepath.backends import Runtime, builds_of, find
from edgepath.checks.drift import measure
from edgepath.checks.parts import Difference
from edgepath.checks.results import Report
from edgepath.checks.summary import NOT_RUN, Made, Origins, build_report, cautions, drifts, judge_drift, notes
from edgepath.machine.hardware import machine
from edgepath.recipes.recipe import Recipe, find_recipe, recipes
from edgepath.reports.markdown import to_markdown
from edgepath.reports.tables.drift import drift_table, gate_table

RECIPE = find_recipe("onnx-int8")
KEYS = [f"slide/{i:02d}.png" for i in range(12)]
DRIFTS = ("quantization", "lowering", "noise_floor", "total")


def ran(kind: str, text: str = "whatever a display says, even: not Core ML, TensorRT") -> Runtime:
    return Runtime(kind, find(kind).title, "1.0", text)


def embeddings(program: float = 0.01, artifact: float = 0.02) -> dict[str, np.ndarray]:
    """Embeddings that lie further and further from the reference; `nudged` next to the program."""
    rng = np.random.default_rng(0)
    reference, quantized, lowered = rng.standard_normal((3, 12, 32)).astype(np.float32)
    moved = reference + np.float32(program) * quantized
    return {
        "reference": reference,
        "program": moved,
        "nudged": moved * np.float32(1.000001),
        "artifact": reference + np.float32(artifact) * lowered,
    }


def without(names: str, **noise: float) -> dict[str, np.ndarray]:
    return {name: values for name, values in embeddings(**noise).items() if name not in names.split()}


def report(found: dict[str, np.ndarray] | None = None, recipe: Recipe = RECIPE, **changes: Any) -> Report:
    origins: dict[str, Any] = {
        "model": {"name": "tiny", "licence": "Apache-2.0"},
        "weights": {"source": "random weights (seed 0)", "random": True, "sha256": "a1b2c3d4" * 8},
        "contract": {"size": 224, "embedding": "cls", "dim": 32, "tokens": False},
        "calibration": {"kind": "synthetic", "name": "synthetic:160", "count": 128},
        "held_out": {"kind": "synthetic", "name": "synthetic:160", "count": 12, "keys": KEYS},
        "skipped": [],
        "reference": "PyTorch 2.14.1 FP32, CPU",
    }
    made: dict[str, Any] = {
        "artifact": {"file": "model.onnx", "size_bytes": 12_345_678},
        "embeddings": embeddings() if found is None else found,
        "differences": [],
        "runtime": ran("onnxruntime", "ONNX Runtime 1.22.0, CPU"),
        "program": {"vit.blocks.0.mlp.fc1": [0.01, 0.002]},
    }
    for key, value in changes.items():
        (origins if key in origins else made)[key] = value
    cost = {"seconds": {"calibrate": 1.5, "lower": 2.25}, "peak_memory_bytes": 3 << 29}
    return build_report("tiny-onnx-int8", recipe, Origins(**origins), Made(**made), cost)


def tables(markdown: str) -> list[list[list[str]]]:
    """Read the tables as GitHub does: a bar that is not escaped parts cells, a line without bars ends the table."""
    found: list[list[list[str]]] = [[]]
    for line in markdown.splitlines():
        if line.startswith("|"):
            assert line.endswith(" |")
            found[-1].append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


# --- drifts


def test_each_drift_compares_its_two_sides() -> None:
    found = embeddings()
    measured = drifts(found, KEYS)
    assert tuple(measured) == DRIFTS
    assert measured["quantization"] == measure(found["reference"], found["program"], KEYS).to_json()
    assert measured["lowering"] == measure(found["program"], found["artifact"], KEYS).to_json()
    assert measured["noise_floor"] == measure(found["program"], found["nudged"], KEYS).to_json()
    assert measured["total"] == measure(found["reference"], found["artifact"], KEYS).to_json()
    assert len({json.dumps(figures) for figures in measured.values()}) == 4


@pytest.mark.parametrize(
    ("missing", "gone"),
    [
        ("artifact", {"lowering", "total"}),
        ("nudged", {"noise_floor"}),
        ("program", {"quantization", "lowering", "noise_floor"}),
        ("artifact nudged", {"lowering", "total", "noise_floor"}),
    ],
)
def test_drift_with_a_side_that_is_not_there_is_none(missing: str, gone: set[str]) -> None:
    measured = drifts(without(missing), KEYS)
    assert {name for name, figures in measured.items() if figures is None} == gone


def test_an_artifact_that_ran_on_the_first_tiles_is_measured_and_judged_on_these() -> None:
    found = embeddings()
    found["artifact"] = found["artifact"][:5]
    made = report(found)
    few = [found[side][:5] for side in ("reference", "program", "artifact")]
    assert made["drift"]["lowering"] == measure(few[1], few[2], KEYS[:5]).to_json()
    assert made["drift"]["total"] == measure(few[0], few[2], KEYS[:5]).to_json()
    assert made["drift"]["quantization"] == measure(found["reference"], found["program"], KEYS).to_json()
    assert [gate["n"] for gate in made["gates"] if gate["kind"] == "drift"] == [5, 5]
    assert sorted(tile["golden"] for tile in made["worst"]["tiles"]) == list(range(5))


# --- gates


def test_artifact_is_judged_where_it_ran() -> None:
    # the program alone would pass
    found = embeddings(program=0.0, artifact=0.5)
    measured, judged = drifts(found, KEYS), judge_drift(RECIPE, found)
    assert [gate.figure for gate in judged] == ["cosine_mean", "cosine_p01"]
    for gate in judged:
        assert gate.of == "total"
        assert gate.measured == measured["total"][gate.figure] < 0.95
        assert gate.bound == getattr(RECIPE.accept, gate.figure)
        assert gate.passed is False


def test_program_is_judged_where_the_artifact_did_not_run() -> None:
    for noise, passed in ((0.01, True), (0.5, False)):
        found = without("artifact", program=noise)
        measured = drifts(found, KEYS)
        for gate in judge_drift(RECIPE, found):
            assert gate.of == "quantization"
            assert gate.measured == measured["quantization"][gate.figure]
            assert gate.passed is passed


def test_gates_judge_the_drift_that_is_reported() -> None:
    found = embeddings(artifact=0.1)
    measured = drifts(found, KEYS)["total"]
    for gate in judge_drift(RECIPE, found):
        assert gate.measured == measured[gate.figure]
        assert (gate.n, gate.unit) == (12, "tiles")
        assert gate.interval is not None
        assert gate.interval[0] < gate.measured < gate.interval[1]


def test_one_failed_gate_fails_the_report() -> None:
    assert report()["passed"] is True
    strict = Recipe.from_json(RECIPE.to_json() | {"accept": {"cosine_mean": 0.5, "cosine_p01": 0.99999}})
    failed = report(recipe=strict)
    assert [gate["verdict"] for gate in failed["gates"]] == ["non-inferior", "inferior", "non-inferior"]
    assert (failed["verdict"], failed["passed"]) == ("inferior", False)
    page = to_markdown(failed)
    assert page.startswith("# tiny-onnx-int8: FAILED\n")
    assert [row[-1] for row in tables(page)[1][2:]] == ["non-inferior", "INFERIOR", "ok"]


def test_a_sample_that_is_too_small_is_said_and_fails_nothing() -> None:
    found = report()
    assert (found["verdict"], found["passed"]) == ("inconclusive", True)
    (unsure,) = [gate for gate in found["gates"] if gate["verdict"] == "inconclusive" and gate["gate"] == "cosine_p01"]
    assert (unsure["n"], unsure["n_to_decide"]) == (12, 299)
    page = to_markdown(found)
    assert re.match(r"# tiny-onnx-int8: passed, [12] of 3 gates inconclusive\n", page)
    (row,) = [row for row in tables(page)[1] if row[0] == "cosine 1 %"]
    assert row[-3:] == ["12 tiles", "about 299", "inconclusive"]


# --- cautions


@pytest.mark.parametrize(
    ("random", "kind", "said"),
    [
        (False, "folder", []),
        (False, None, ["Measured on synthetic tiles"]),
        (True, "pack", ["Weights: here. Figures describe the arithmetic"]),
        (False, "synthetic", ["Calibrated on synthetic tiles"]),
        (True, "synthetic", ["arithmetic", "synthetic"]),
    ],
)
def test_cautions_say_what_a_reader_must_know(random: bool, kind: str | None, said: list[str]) -> None:
    keys = [f"{i}.png" for i in range(20)]
    calibration, held_out = {"kind": kind} if kind else None, {"kind": kind or "synthetic", "keys": keys}
    found = cautions({"random": random, "source": "here"}, calibration, held_out)
    assert len(found) == len(said)
    for caution, part in zip(found, said, strict=True):
        assert part in caution


@pytest.mark.parametrize(("rounded", "said"), [(True, 1), (False, 0)])
def test_rounded_weights_are_a_caution(rounded: bool, said: int) -> None:
    weights = {"random": False, "source": "here", "precision": "bfloat16", "rounded": rounded}
    found = cautions(weights, None, {"kind": "folder", "keys": ["a.png"] * 20})
    assert [line.startswith("Weights: stored in bfloat16. Full precision computes") for line in found] == [True] * said


@pytest.mark.parametrize(
    ("target", "features", "noted"),
    [
        ("openvino-int8", ["avx2"], True),
        ("onnx-int8", ["avx2", "avx512f"], True),
        ("openvino-int8", ["avx2", "avx512f", "avx512_vnni"], False),
        ("openvino-int8", ["avx2", "avx_vnni"], False),
        ("onnx-int8", ["asimddp"], False),
        ("openvino-fp16", ["avx2"], False),
        ("jetson-int8", ["avx2"], False),  # its graph computes in FP16 here, not in 8 bits
    ],
)
def test_note_says_where_int8_is_not_judged_fairly(
    target: str, features: list[str], noted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepath.checks.summary.cpu_features", lambda: features)
    found = notes(recipes()[target], ran(recipes()[target].checked_with))
    assert any("no VNNI" in note for note in found) == noted


def test_note_says_that_core_ml_itself_did_not_run() -> None:
    (note,) = notes(recipes()["coreml-int8"], ran("mil"))
    assert "not run by Core ML" in note
    assert notes(recipes()["coreml-int8"], ran("coreml")) == []


def test_note_says_that_an_engine_did_not_run() -> None:
    (note,) = notes(recipes()["rtx-fp16"], ran("onnxruntime"))
    assert "built without a GPU, was not run" in note
    assert [*notes(recipes()["rtx-int8"], ran("onnxruntime"))][1:] == [builds_of("tensorrt_rtx").int8_note]
    assert notes(recipes()["rtx-int8"], ran("tensorrt_rtx")) == []


def test_note_says_that_nothing_ran() -> None:
    (note,) = notes(recipes()["coreml-int8"], None)
    assert "not run here" in note


# --- the whole


def test_report_is_json_and_says_schema_1() -> None:
    for found in (embeddings(), without("artifact"), without("nudged artifact")):
        made = report(found)
        assert made["schema"] == 1
        assert json.loads(json.dumps(made, allow_nan=False)) == json.loads(json.dumps(made))
        assert made["recipe"]["target"] == "onnx-int8"
        assert Recipe.from_json(json.loads(json.dumps(made["recipe"]))) == RECIPE


def test_report_is_json_for_one_tile() -> None:
    found = {name: values[:1] for name, values in embeddings().items()}
    made = report(found, held_out={"name": "one", "count": 1, "keys": KEYS[:1]})
    json.dumps(made, allow_nan=False)
    assert "| - |" in to_markdown(made)


def test_machine_is_described() -> None:
    found = machine()
    assert set(found) == {"cpu", "cpu_features", "cores", "system", "python"}
    assert all(found[key] for key in ("cpu", "cores", "system", "python"))


def test_page_says_verdict_drift_gates_and_origin() -> None:
    made = report()
    page = to_markdown(made)
    title, _, caution = page.splitlines()[:3]
    assert re.fullmatch("# tiny-onnx-int8: passed, [12] of 3 gates inconclusive", title)
    assert caution.startswith("> Weights: random weights (seed 0). Figures describe")
    assert page.endswith("|\n")
    drift, gate, facts = tables(page)
    assert drift[0] == list(drift_table(drifts(embeddings(), KEYS)).header)
    assert gate[0] == list(gate_table(()).header)
    total = made["drift"]["total"]
    assert drift[-1][1:5] == ["12", *(f"{total[k]:.6f}" for k in ("cosine_mean", "cosine_p01", "cosine_min"))]
    assert drift[-1][5:] == [f"{total['relative_l2']:.5f}", f"{total['neighbour_overlap']:.3f}"]
    known = dict(facts[2:])
    assert known["model"] == "tiny (Apache-2.0)"
    assert known["weights"] == "random weights (seed 0), sha256 a1b2c3d4a1b2c3d4"
    assert known["embedding"] == "cls, 32 numbers"
    assert known["calibrated on"] == "128 tiles of synthetic:160"
    assert known["measured on"] == "12 golden tiles of synthetic:160"
    assert known["artifact"] == "model.onnx, 12.3 MB"
    assert known["artifact run with"] == "ONNX Runtime 1.22.0, CPU"
    assert known["export took"] == "3.8 s, peak memory 1.50 GiB"


def test_page_says_what_was_not_run_here() -> None:
    page = to_markdown(report(without("artifact"), runtime=None, calibration=None))
    assert "> The artifact was not run here; gates were applied to the program" in page
    drift, gate, facts = tables(page)
    rows = {row[0].split()[0]: row[1:] for row in drift[2:]}
    assert rows["lowering"] == rows["total"] == [NOT_RUN] * 6
    assert NOT_RUN not in rows["quantization"]
    assert [row[1] for row in gate[2:]] == ["quantization"] * 2 + ["lowering"]
    assert dict(facts[2:])["artifact run with"] == "not run here"
    assert dict(facts[2:])["calibrated on"] == "needs none"


def test_fewer_than_eleven_tiles_have_no_top_10() -> None:
    found = drifts({name: values[:5] for name, values in embeddings().items()}, KEYS[:5])
    assert {row[-1] for row in drift_table(found).rows} == {"-"}
    assert {row[-1].partition(" ")[2] for row in drift_table(drifts(embeddings(), KEYS)).rows} == {""}


def test_tokens_are_named() -> None:
    contract = {"size": 224, "embedding": "cls+mean", "dim": 64, "tokens": True}
    assert dict(tables(to_markdown(report(contract=contract)))[2][2:])["embedding"] == (
        "cls+mean, 64 numbers, and patch tokens"
    )


def test_tables_are_well_formed_whatever_a_file_is_called() -> None:
    skipped = [("a|b.png", "not an image"), ("c.png", "two\nlines | and a bar"), ("`d`.png", "")]
    page = to_markdown(report(skipped=skipped))
    found = tables(page)
    assert len(found) == 4
    for table in found:
        assert len(table) > 2
        assert {len(row) for row in table} == {len(table[0])}
        assert table[1] == ["---"] * len(table[0])
    assert found[-1][2:] == [["a|b.png", "not an image"], ["c.png", "two lines | and a bar"], ["`d`.png", ""]]
    assert len(tables(to_markdown(report()))) == 3


def test_few_tiles_are_said() -> None:
    few = {"kind": "folder", "keys": KEYS}
    many = {"kind": "folder", "keys": [str(i) for i in range(16)]}
    trained = {"random": False, "source": "weights"}
    assert cautions(trained, None, many) == []
    assert cautions(trained, None, few) == [
        "Measured on 12 tiles only: drift on others may be larger; verify it with --tiles FOLDER."
    ]


def test_an_artifact_that_is_not_its_program_fails_and_says_where() -> None:
    found = report(differences=[Difference("numbers", "vit.norm", "epsilon 0.001, the program's is 1e-06")])
    assert found["passed"] is False
    assert found["gates"][-1]["measured"] == 1
    page = to_markdown(found)
    assert "The artifact is not its program: vit.norm: epsilon 0.001" in page
    assert "| parameters that differ | lowering | 1 | <= 0 |  |  |  | FAILED |" in page


@pytest.mark.parametrize(
    ("licence", "random", "warned"),
    [
        ("CC-BY-NC-ND-4.0, gated", False, True),
        ("CC BY-ND 4.0", False, True),
        ("no derivatives", False, True),
        ("CC-BY-NC-4.0", False, False),
        ("Apache-2.0", False, False),
        ("CC-BY-NC-ND-4.0", True, False),
    ],
)
def test_licence_without_derivatives_is_said(licence: str, random: bool, warned: bool) -> None:
    weights = {"source": "x", "sha256": "0" * 64, "random": random, "precision": "float32"}
    held_out = {"kind": "folder", "keys": ["a"] * 99}
    said = cautions(weights, None, held_out, licence)  # type: ignore[arg-type]
    assert any("may be a derivative of them, which must not be handed on" in line for line in said) == warned

"""The benchmark's figures for a bundle and its model, on a folder in its layout; a broken quantization fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from benchmark_folder import GENES, TASKS, TILES, by_the_benchmark, write_benchmark

from edgepath.bundle.bundle import Bundle
from edgepath.bundle.running import BATCH
from edgepath.checks.verdicts import Verdict
from edgepath.cli import main
from edgepath.errors import EdgepathError, MissingRuntime, UsageError
from edgepath.exporting import Exported
from edgepath.models import reference
from edgepath.models.catalogue import find_model
from edgepath.models.weights import load_model
from edgepath.quality import both_models
from edgepath.quality.both_models import ARTIFACT, FULL
from edgepath.quality.hest.measuring import gates, probe_hest
from edgepath.recipes.recipe import find_recipe
from edgepath.reports.tables.drift import gate_table
from edgepath.reports.tables.quality import gene_table, task_table

Exports = Callable[[str], Exported]
Made = dict[str, tuple[np.ndarray, np.ndarray]]
COMPONENTS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Made]:
    root = tmp_path_factory.mktemp("hest")
    return root, write_benchmark(root)


def embedded(bundle: Bundle, made: Made) -> dict[str, dict[str, np.ndarray]]:
    """Return every sample's embeddings by both models, in batches as the product makes them: INT8 rounds by batch."""
    vit, spec, _ = load_model(find_model("tiny"), "random")
    with bundle.runner(threads=1) as artifact, reference.Runner(vit, spec.mean, spec.std, "cls", "cpu") as full:
        return {
            name: {
                sample: np.concatenate([run(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)])
                for sample, (pixels, _) in made.items()
            }
            for name, run in ((FULL, full), (ARTIFACT, artifact))
        }


def wanted(task: str, of: dict[str, np.ndarray], made: Made) -> np.ndarray:
    """Return Pearson's correlations (splits, genes), the splits' rows in the order of their samples."""
    rows = []
    for test in TASKS[task]:
        train = [name for name in TASKS[task] if name != test]
        x, y = np.concatenate([of[name] for name in train]), np.concatenate([made[name][1] for name in train])
        rows.append(by_the_benchmark(x, y, of[test], made[test][1], COMPONENTS))
    return np.stack(rows)


def test_figures_are_the_benchmarks_for_both_models(exports: Exports, folder: tuple[Path, Made]) -> None:
    root, made = folder
    bundle = exports("onnx-int8").bundle
    said: dict[str, tuple[int, int]] = {}
    result = probe_hest(
        bundle,
        root,
        components=COMPONENTS,
        device="cpu",
        threads=1,
        progress=lambda stage, done, total: said.update({stage: (done, total)}),
    )
    for model, of in embedded(bundle, made).items():
        tables = {task: wanted(task, of, made) for task in TASKS}
        for found in result["tasks"]:
            splits = tables[found["task"]].mean(1)
            score = found["scores"][model]
            assert score["splits"] == pytest.approx(splits.tolist(), abs=1e-6)
            assert score["pearson"] == pytest.approx(splits.mean(), abs=1e-6)
            assert score["std"] == pytest.approx(splits.std(), abs=1e-6)
            assert [row["gene"] for row in found["genes"]] == GENES
            genes = tables[found["task"]].mean(0).tolist()
            assert [row[model] for row in found["genes"]] == pytest.approx(genes, abs=1e-6)
        mean = np.mean([table.mean() for table in tables.values()])
        assert result["pearson"][model] == pytest.approx(mean, abs=1e-6)
        assert mean > 0.2  # or there would be nothing to lose
    tiles = TILES * len(made)
    assert result["kind"] == "genes"
    assert list(result["ran_with"]) == [FULL, ARTIFACT]
    assert said[f"embed, {FULL}"] == said[f"embed, {ARTIFACT}"] == (tiles, tiles)  # once each, in however many splits
    assert said["fit"] == (10, 10)
    assert result["source"]["count"] == tiles
    assert result["passed"] == all(gate["passed"] for gate in result["gates"])
    assert "10 principal components; the benchmark's figures are of 256." in result["notes"]
    json.dumps(result, allow_nan=False)


def test_tables_hold_every_task_and_the_worst_genes(exports: Exports, folder: tuple[Path, Made]) -> None:
    result = probe_hest(exports("onnx-int8").bundle, folder[0], components=COMPONENTS, device="cpu", threads=1)
    shown, genes, gates = task_table(result), gene_table(result), gate_table(result["gates"])
    assert [row[0] for row in shown.rows] == ["IDC", "SKCM", "mean"]
    lost = [float(row[-1]) for row in genes.rows]
    assert lost == sorted(lost, reverse=True)
    assert all(len(row) == len(one.header) for one in (shown, genes, gates) for row in one.rows)


def test_an_artifact_equal_to_its_model_loses_nothing(exports: Exports, folder: tuple[Path, Made]) -> None:
    result = probe_hest(
        exports("onnx-fp32").bundle, folder[0], tasks=["SKCM"], components=COMPONENTS, device="cpu", threads=1
    )
    assert result["passed"]
    assert [gate["of"] for gate in result["gates"]] == ["task SKCM"]
    for gene in result["tasks"][0]["genes"]:
        assert abs(gene["lost"]) < 1e-3


def task(name: str, lost: list[float]) -> dict[str, object]:
    splits = {FULL: [0.5 + value for value in lost], ARTIFACT: [0.5] * len(lost)}
    return {"task": name, "scores": {model: {"splits": of} for model, of in splits.items()}}


def test_gates_hold_the_mean_and_the_worst_task() -> None:
    recipe = find_recipe("onnx-int8")
    tasks = [task("A", [-0.02] * 2), task("B", [0.02, 0.04, 0.03, 0.03])]
    found = gates(recipe, tasks)
    assert [(gate.of, gate.n) for gate in found] == [("mean over tasks", 6), ("task B, the worst of 2", 4)]
    assert found[0].measured == pytest.approx(0.005)  # tasks count alike, not splits
    assert found[1].measured == pytest.approx(0.03)
    assert {gate.unit for gate in found} == {"splits"}
    assert {gate.verdict for gate in found} == {Verdict.INCONCLUSIVE}


def test_few_splits_say_little_and_many_or_large_losses_do() -> None:
    recipe = find_recipe("onnx-int8")
    for lost, verdict in (
        ([0.0] * 3, Verdict.INCONCLUSIVE),
        ([0.001, -0.001] * 15, Verdict.NON_INFERIOR),
        ([0.3, 0.31, 0.29], Verdict.INFERIOR),
    ):
        (gate,) = gates(recipe, [task("A", lost)])
        assert (gate.verdict, gate.of) == (verdict, "task A")


def test_embeddings_that_are_not_finite_are_named(
    exports: Exports, folder: tuple[Path, Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = both_models.embed_all

    def broken(*given: object) -> np.ndarray:
        rows = embed(*given)  # type: ignore[arg-type]
        rows[3] = np.nan
        return rows

    monkeypatch.setattr(both_models, "embed_all", broken)
    with pytest.raises(EdgepathError, match="the full precision embedding of TENX99/003xTENX99-1 is not finite"):
        probe_hest(exports("onnx-fp32").bundle, folder[0], components=COMPONENTS, device="cpu")


def test_too_few_numbers_are_told_before_anything_is_embedded(exports: Exports, folder: tuple[Path, Made]) -> None:
    with pytest.raises(UsageError, match=r"HEST IDC, split 0: 256 principal components of 36 tiles .*--components 36"):
        probe_hest(exports("onnx-fp32").bundle, folder[0], device="cpu", progress=lambda *_: pytest.fail("embedded"))


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["edgepath", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr()
    return int(left.value.code or 0), said.out, said.err


def test_command(
    exports: Exports, folder: tuple[Path, Made], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = exports("onnx-fp32").bundle.path
    words = ("probe", "hest", bundle, folder[0], "--task", "SKCM", "--components", COMPONENTS, "--device", "cpu")
    code, out, _ = run(capsys, monkeypatch, *words)
    assert code == 0
    assert "36 patches of hest" in out
    assert "SKCM" in out
    assert "passed, with caution: 1 of 1 gates inconclusive, n is too small to tell" in " ".join(out.split())
    assert "2 splits" in out
    assert run(capsys, monkeypatch, *words, "--strict")[0] == 1
    code, out, _ = run(capsys, monkeypatch, *words, "--json")
    assert (code, json.loads(out)["tasks"][0]["task"]) == (0, "SKCM")
    for more, said in (
        ((), "probe: give `edgepath probe labels BUNDLE FOLDER` or `edgepath probe hest BUNDLE FOLDER`"),
        (("--hest", "x", "--labelled", "y"), "probe: give `edgepath probe labels BUNDLE FOLDER` or"),
        (("--hest", "x", "--folds", 3), "No such option: --folds"),
        (("--labelled", "x", "--task", "IDC"), "No such option: --task"),
        (("--hest=absent",), "HEST absent: no such folder"),
        (
            ("--hest=absent",),
            "edgepath probe BUNDLE --hest FOLDER is deprecated; use edgepath probe hest BUNDLE FOLDER",
        ),
    ):
        code, out, err = run(capsys, monkeypatch, "probe", bundle, *more)
        assert (code, out) == (2, "")
        assert said in " ".join(err.split())


def test_a_missing_package_is_named(
    exports: Exports, folder: tuple[Path, Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgepath.machine import packages

    monkeypatch.setattr(packages, "_importable", lambda name: name != "h5py")
    with pytest.raises(MissingRuntime, match=r"h5py not installed; pip install 'edgepath\[features\]'"):
        probe_hest(exports("onnx-fp32").bundle, folder[0])

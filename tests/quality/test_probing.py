"""A task's score on the artifact beside full precision's, on the same folds; labels and groups that cannot be."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from edgepath.errors import TileError, UsageError
from edgepath.exporting import Exported
from edgepath.quality.both_models import ARTIFACT, FULL
from edgepath.quality.classifiers import auroc
from edgepath.quality.probing import probe
from edgepath.reports.tables.drift import gate_table
from edgepath.reports.tables.quality import flip_table, score_table
from edgepath.tiles.synthetic import synthesize

Exports = Callable[[str], Exported]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tissue and hardly any of it, 12 tiles each, and a table that says of which slide each is."""
    folder = tmp_path_factory.mktemp("labelled")
    lines = ["path,label,slide"]
    for label, strength in (("pale", 0.2), ("dark", 1.0)):
        (folder / label).mkdir()
        for i, tile in enumerate(synthesize(12, seed=11)):
            Image.fromarray((255 - strength * (255.0 - tile)).astype(np.uint8)).save(folder / label / f"{i}.png")
            lines.append(f"{label}/{i}.png,{label},{label}{i // 2}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_both_models_are_probed_on_the_same_folds(exports: Exports, labelled: Path) -> None:
    result = probe(exports("onnx-int8").bundle, labelled, folds=3, device="cpu", threads=2)
    assert result["kind"] == "probe"
    assert list(result["ran_with"]) == [FULL, ARTIFACT]
    assert result["classes"] == {"dark": 12, "pale": 12}
    assert result["groups"] is None
    assert any("of one patient or slide is not known" in note for note in result["notes"])
    for method in ("knn", "linear"):
        for name in (FULL, ARTIFACT):
            score = result["scores"][method][name]
            assert score["balanced_accuracy"] > 0.9
            assert score["auroc_low"] <= score["auroc"] <= score["auroc_high"]
    assert result["passed"] == all(gate["passed"] for gate in result["gates"])
    assert len(score_table(result).rows) == 4
    assert len(gate_table(result["gates"]).rows) == 4
    for flip in result["flips"]:
        assert flip[FULL] != flip[ARTIFACT]


def test_a_method_that_went_is_shown_by_its_name() -> None:
    score = dict.fromkeys(("balanced_accuracy", "low", "high", "auroc", "auroc_low", "auroc_high"), 0.5)
    flip = {"tile": "a/0.png", "method": "eva", "label": "a", FULL: "a", ARTIFACT: "b"}  # as 0.1.0 wrote it
    of_old = {"scores": {"eva": {FULL: score, ARTIFACT: score}}, "flips": [flip]}
    assert score_table(of_old).rows[0][0] == flip_table(of_old).rows[0][1] == "eva"


def test_tiles_of_a_slide_stay_in_one_fold(exports: Exports, labelled: Path) -> None:
    result = probe(exports("onnx-fp32").bundle, labelled / "labels.csv", folds=3, device="cpu")
    assert result["groups"] == 12
    assert not any("of one patient" in note for note in result["notes"])
    assert result["source"]["name"] == "labels"
    assert result["passed"]
    assert result["flips"] == []


@pytest.mark.parametrize("table", ["slides.csv", "manifest.csv"])
@pytest.mark.parametrize("column", ["patient_id", "case", "slide_id"])
def test_patients_before_slides_under_any_usual_name(
    exports: Exports, labelled: Path, table: str, column: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(labelled, tmp_path / "labelled")
    rows = [line.split(",") for line in (folder / "labels.csv").read_text().split()[1:]]
    lines = ["path,label,slide_id" if column == "slide_id" else f"path,label,slide,{column}"]
    for path, label, slide in rows:
        patient = f"{label}{int(slide.removeprefix(label)) // 2}"  # of two slides
        lines.append(",".join([path, label, slide] + [patient] * (column != "slide_id")))
    (folder / table).write_text("\n".join(lines) + "\n")
    given = folder / table if table == "slides.csv" else folder
    result = probe(exports("onnx-fp32").bundle, given, folds=3, device="cpu")
    assert result["groups"] == (12 if column == "slide_id" else 6)


def test_one_slide_for_all_tiles_is_named(exports: Exports, labelled: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(labelled, tmp_path / "labelled")
    for path in sorted(folder.rglob("*.png")):
        path.rename(path.with_name(f"tile_x{path.stem}_y0.png"))
    with pytest.raises(UsageError, match="every tile is of slide tile, as tables or file names say; give a CSV"):
        probe(exports("onnx-fp32").bundle, folder, folds=3, device="cpu")


def test_area_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice(["a", "b"], 60)
    share = np.round(rng.uniform(size=60), 1)  # ties
    assert auroc(truth, np.stack([1 - share, share], 1)) == pytest.approx(roc_auc_score(truth == "b", share))
    truth, shares = rng.choice(list("abc"), 90), rng.dirichlet((1, 1, 1), 90)
    wanted = roc_auc_score(truth, shares, multi_class="ovr", average="macro")
    assert auroc(truth, shares) == pytest.approx(wanted)


def table(folder: Path, text: str) -> Path:
    (folder / "bad.csv").write_text(text)
    return folder / "bad.csv"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,class\npale/0.png,x\n", "needs columns path and label; found path, class"),
        ("", "needs columns path and label; found no rows"),
        ("path,label\npale/0.png,\n", r"pale/0\.png has no label"),
        ("path,label\npale/99.png,x\n", r"pale/99\.png is no tile below"),
        ("path,label\npale/0.png,x\npale/1.png,x\n", "all 2 tiles are x; two classes"),
        ("path,label\npale/0.png,x\npale/1.png,y\n", "1 tiles are x; 5 folds need as many"),
        ("path,label\npale/0.png,x\npale/0.png,y\n", r"pale/0\.png stands in it twice"),
        ("path,label\npale/0.png,x,\n", "line 2 has 3 values, there are 2 columns"),
        ("path,label\npale/0.png,x,y,z\npale/1.png,y\n", "line 2 has 4 values, there are 2 columns"),
        ("path,label,label\npale/0.png,x,y\n", "its column label stands there twice"),
        ("# made by R\npath,label\npale/0.png,x\n", "line 2 has 2 values, there are 1 columns"),
        ("path;label\npale/0.png;x\n", "needs columns path and label; found path;label"),
        ("path,label,case\npale/0.png,x,1\npale/1.png,y,\n", r"pale/1\.png has no case; name it for every tile"),
    ],
)
def test_tables_no_fold_can_be_made_of_are_refused(exports: Exports, labelled: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        probe(exports("onnx-fp32").bundle, table(labelled, text), device="cpu")


def test_folders_without_labels_are_refused(exports: Exports, labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"0\.png has no label; give a folder with a folder a class"):
        probe(exports("onnx-fp32").bundle, labelled / "pale", device="cpu")
    with pytest.raises(TileError, match="no such file or folder"):
        probe(exports("onnx-fp32").bundle, tmp_path / "none", device="cpu")

"""The benchmark's folder is read as it is, and every way it can be wrong is one line before anything is embedded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from benchmark_folder import GENES, TASKS, TILES, write_benchmark, write_h5ad, write_patches, write_split

from edgepath.errors import UsageError
from edgepath.quality.hest.ridge import check_split
from edgepath.quality.hest.tasks import open_tasks


def test_tasks_splits_samples_and_expression_are_read(tmp_path: Path) -> None:
    made = write_benchmark(tmp_path)
    tasks = open_tasks(tmp_path)
    assert {task.name: list(task.samples) for task in tasks} == {
        "IDC": ["TENX99", "NCBI783", "TENX95"],  # in the order in which the splits name them
        "SKCM": ["TENX117", "TENX115"],
    }
    assert [(split.train, split.test) for split in tasks[1].splits] == [
        (("TENX117",), ("TENX115",)),
        (("TENX115",), ("TENX117",)),
    ]
    for task in tasks:
        assert task.genes == tuple(GENES)
        assert len(task) == TILES * len(TASKS[task.name])
        for name, sample in task.samples.items():
            pixels, counts = made[name]
            assert np.array_equal(np.concatenate(list(sample.tiles(224, "refuse"))), pixels)
            assert sample.expression == pytest.approx(np.log(1 + counts.astype(float)), abs=1e-12)


def test_some_tasks_are_chosen_and_one_may_stand_alone(tmp_path: Path) -> None:
    write_benchmark(tmp_path)
    assert [task.name for task in open_tasks(tmp_path, ["SKCM"])] == ["SKCM"]
    assert [task.name for task in open_tasks(tmp_path / "IDC")] == ["IDC"]
    with pytest.raises(UsageError, match='task "SKMC" is not in it; did you mean "SKCM"'):
        open_tasks(tmp_path, ["SKMC"])


def test_patches_of_another_size_are_resized_when_told_how(tmp_path: Path) -> None:
    write_benchmark(tmp_path)
    with pytest.raises(UsageError, match="patches of 224 pixels, 196 are needed; choose --resize"):
        open_tasks(tmp_path, size=196)
    sample = open_tasks(tmp_path, size=196, resize="squash")[0].samples["TENX95"]
    assert next(sample.tiles(196, "squash")).shape == (TILES, 196, 196, 3)


def counts(change: Callable[[np.ndarray], object]) -> Callable[[Path], None]:
    def apply(task: Path) -> None:
        with h5py.File(task / "adata" / "TENX95.h5ad", "a") as file:
            values = file["X"][:]
            change(values)
            file["X"][:] = values

    return apply


def patches(pixels: np.ndarray, barcodes: list[str]) -> Callable[[Path], None]:
    return lambda task: write_patches(task / "patches" / "TENX95.h5", pixels, barcodes)


def declares(name: str, shape: tuple[int, ...], kind: object) -> Callable[[Path], None]:
    """Return what puts a dataset in the patches' file that declares much and holds nothing."""

    def apply(task: Path) -> None:
        with h5py.File(task / "patches" / "TENX95.h5", "a") as file:
            del file[name]
            file.create_dataset(name, shape, kind, chunks=True)

    return apply


GREY = np.zeros((2, 224, 224), np.uint8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda task: (task / "var_50genes.json").unlink(), r"var_50genes\.json: no list of genes can be read"),
        (lambda task: (task / "var_50genes.json").write_text("[]"), "no list of genes can be read"),
        (lambda task: (task / "var_50genes.json").write_text('{"genes": []}'), "genes is .*; a list of names"),
        (lambda task: (task / "var_50genes.json").write_text('{"genes": ["A", "A"]}'), "a gene stands in it twice"),
        (lambda task: (task / "var_50genes.json").write_text('{"genes": ["PTEN"]}'), "lacks 1 of 1 genes"),
        (lambda task: (task / "splits" / "test_1.csv").unlink(), r"test_1\.csv: no such file; splits are"),
        (lambda task: [path.unlink() for path in (task / "splits").iterdir()], r"train_0\.csv: no such file"),
        (lambda task: (task / "splits" / "test_0.csv").write_text("a,b\n1,2\n"), "needs columns .*; found a, b"),
        (lambda task: (task / "splits" / "test_0.csv").write_text(""), "needs columns .*; found no rows"),
        (lambda task: (task / "patches" / "TENX95.h5").unlink(), r"patches/TENX95\.h5 of sample TENX95 is not there"),
        (lambda task: (task / "adata" / "TENX95.h5ad").unlink(), r"adata/TENX95\.h5ad of sample TENX95 is not there"),
        (lambda task: write_split(task / "splits", "train_0.csv", ["TENX99", "TENX95"]), "split 0 both .* TENX95"),
        (lambda task: write_split(task / "splits", "train_0.csv", ["TENX99"] * 2), "TENX99 stands in it twice"),
        (lambda task: (task / "patches" / "TENX95.h5").write_text("x"), "no patches and barcodes can be read"),
        (declares("barcode", (2**26,), h5py.string_dtype()), "/barcode declares 536870912 bytes, of which .* holds 0"),
        (declares("img", (2, 2**20, 2**20, 3), np.uint8), r"/img declares \d+ bytes, of which the file holds 0"),
        (patches(np.zeros((0, 224, 224, 3), np.uint8), []), "holds no patches"),
        (patches(GREY, ["a", "b"]), r"img is uint8 \(2, 224, 224\) with 2 barcodes"),
        (patches(np.zeros((2, 224, 224, 3), np.uint8), ["a", "b"]), "lacks 2 of 2 barcodes asked for, the first is a"),
        (patches(np.zeros((2, 224, 224, 3), np.uint8), ["a"]), "with 1 barcodes"),
        (counts(lambda x: x.fill(np.nan)), "EPCAM of 000xTENX95-1 is nan; a count is needed"),
        (counts(lambda x: x.fill(-2)), "EPCAM of 000xTENX95-1 is -2.0; a count is needed"),
    ],
)
def test_what_is_not_the_layout_is_named(change: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    write_benchmark(tmp_path)
    change(tmp_path / "IDC")
    with pytest.raises(UsageError, match=said):
        open_tasks(tmp_path)


def test_folders_without_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        open_tasks(tmp_path / "none")
    with pytest.raises(UsageError, match="no folder in it has splits"):
        open_tasks(tmp_path)


def test_what_has_no_figure_is_refused_before_anything_is_embedded(tmp_path: Path) -> None:
    write_benchmark(tmp_path)
    (task,) = open_tasks(tmp_path / "SKCM")
    check_split(task, 0, TILES, 96)
    with pytest.raises(UsageError, match=f"256 principal components of {TILES} tiles to fit on, 96 numbers each; give"):
        check_split(task, 0, 256, 96)
    with pytest.raises(UsageError, match=f"give --components {TILES // 2} or fewer"):
        check_split(task, 0, TILES, TILES // 2)
    names = [f"{i:03d}xTENX115-1" for i in range(TILES)]
    values = np.ones((TILES, len(GENES)))
    values[:, 1:] = np.arange(TILES)[:, None]
    write_h5ad(tmp_path / "SKCM" / "adata" / "TENX115.h5ad", values, names, GENES)
    (task,) = open_tasks(tmp_path / "SKCM")
    with pytest.raises(UsageError, match="split 0: EPCAM is the same in all tiles to predict: no correlation"):
        check_split(task, 0, 8, 96)
    check_split(task, 1, 8, 96)  # to fit on it is no hindrance
    write_h5ad(tmp_path / "SKCM" / "adata" / "TENX115.h5ad", values * [0, 1, 1], names, GENES)
    (task,) = open_tasks(tmp_path / "SKCM")
    with pytest.raises(UsageError, match="split 1: EPCAM is nowhere expressed in what is fitted on"):
        check_split(task, 1, 8, 96)
    (tmp_path / "SKCM" / "var_50genes.json").write_text(json.dumps({"genes": GENES[1:]}))
    (task,) = open_tasks(tmp_path / "SKCM")
    check_split(task, 1, 8, 96)

"""A small HEST-Benchmark: two tasks in its layout, expression that the tissue tells something about, and its protocol.

`by_the_benchmark` is written from the definition (mahmoodlab/HEST, `src/hest/bench/benchmark.py`, predict_single_split,
and `trainer.py`, train_test_reg) with scikit-learn's estimators and NumPy, and shares nothing with edgepath.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from edgepath.tiles.synthetic import synthesize

GENES = ["EPCAM", "ERBB2", "KRT8"]
TILES = 18
TASKS = {"IDC": ["TENX95", "TENX99", "NCBI783"], "SKCM": ["TENX115", "TENX117"]}


def write_h5ad(path: Path, counts: np.ndarray, barcodes: Sequence[str], genes: Sequence[str]) -> None:
    """Write X, dense, and the names of its rows and columns, by AnnData's on-disk format."""
    with h5py.File(path, "w") as file:
        file["X"] = counts
        for table, names in (("obs", barcodes), ("var", genes)):
            file.create_group(table).attrs["_index"] = "_index"
            file[table].create_dataset("_index", data=np.array(names, object), dtype=h5py.string_dtype())


def write_patches(path: Path, pixels: np.ndarray, barcodes: Sequence[str]) -> None:
    with h5py.File(path, "w") as file:
        file["img"] = pixels
        file["coords"] = np.zeros((len(pixels), 2), int)
        # (N, 1), as the benchmark's own writer leaves it
        file.create_dataset("barcode", data=np.array(barcodes, object)[:, None], dtype=h5py.string_dtype())


def write_split(folder: Path, name: str, samples: Sequence[str]) -> None:
    with open(folder / name, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["sample_id", "patches_path", "expr_path"])
        table.writerows([sample, f"patches/{sample}.h5", f"adata/{sample}.h5ad"] for sample in samples)


def write_benchmark(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write `TASKS`, every split leaving one sample out; return each sample's tiles and counts of `GENES`."""
    made = {}
    for number, (task, samples) in enumerate(TASKS.items()):
        for part in ("splits", "patches", "adata"):
            (root / task / part).mkdir(parents=True)
        (root / task / "var_50genes.json").write_text(json.dumps({"genes": GENES}))
        for i, sample in enumerate(samples):
            pixels = synthesize(TILES, seed=100 * number + i)
            made[sample] = pixels, _write_sample(root / task, sample, pixels, np.random.default_rng((number, i)))
            write_split(root / task / "splits", f"test_{i}.csv", [sample])
            write_split(root / task / "splits", f"train_{i}.csv", [other for other in samples if other != sample])
    return made


def _write_sample(task: Path, sample: str, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Write a sample whose genes follow the tissue's colour; spots that have no patch, and genes not asked for, too."""
    stained = (255 - pixels.mean((1, 2))) / 16  # (N, 3)
    counts = rng.poisson(stained).astype(np.float32)
    barcodes = [f"{i:03d}x{sample}-1" for i in range(len(pixels))]
    write_patches(task / "patches" / f"{sample}.h5", pixels, barcodes)
    spots, genes = rng.permutation(len(pixels) + 2), rng.permutation(len(GENES) + 2)
    table = np.full((len(spots), len(genes)), 7, np.float32)
    table[:-2, :-2] = counts
    names, known = [*barcodes, "no-patch-1", "no-patch-2"], [*GENES, "ACTB", "MALAT1"]
    write_h5ad(
        task / "adata" / f"{sample}.h5ad", table[spots][:, genes], [names[i] for i in spots], [known[i] for i in genes]
    )
    return counts


def by_the_benchmark(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, components: int
) -> Any:
    """Return Pearson's correlation of every gene; counts in, logarithms taken here."""
    scaler, pca = StandardScaler(), PCA(n_components=components, random_state=1)
    # `fit_transform`, as there: it rounds otherwise than `transform`, and LSQR, which stops at 1e-4, shows that.
    train = torch.Tensor(pca.fit_transform(scaler.fit_transform(train_x)))
    test = torch.Tensor(pca.transform(scaler.transform(test_x)))  # float32, which Ridge takes and solves in float64
    ridge = Ridge(
        solver="lsqr", alpha=100 / (components * train_y.shape[1]), random_state=1, fit_intercept=False, max_iter=1000
    )
    predicted = ridge.fit(train, np.log(1 + train_y.astype(np.float64))).predict(test)
    measured = np.log(1 + test_y.astype(np.float64))
    return np.array([pearsonr(*pair).statistic for pair in zip(measured.T, predicted.T, strict=True)])


def by_hand(train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, components: int) -> Any:
    """Return the same in NumPy alone: eigenvectors of the covariance, and ridge's normal equations."""
    mean, std = train_x.mean(0, dtype=float), train_x.std(0, dtype=float)
    train, test = ((x - mean) / std for x in (train_x, test_x))
    axes = np.linalg.eigh(train.T @ train)[1][:, ::-1][:, :components]
    train, test = train @ axes, test @ axes
    penalty = 100 / (components * train_y.shape[1]) * np.eye(components)
    weights = np.linalg.solve(train.T @ train + penalty, train.T @ np.log(1 + train_y.astype(np.float64)))
    return pearson(np.log(1 + test_y.astype(np.float64)), test @ weights)


def pearson(one: np.ndarray, other: np.ndarray) -> Any:
    one, other = one - one.mean(0), other - other.mean(0)
    return (one * other).sum(0) / np.sqrt((one**2).sum(0) * (other**2).sum(0))

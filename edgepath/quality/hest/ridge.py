"""Expression from embeddings as the HEST-Benchmark predicts it, and how well: Pearson's correlation, gene by gene.

`src/hest/bench/benchmark.py` (predict_single_split) and `trainer.py` (train_test_reg) of mahmoodlab/HEST: scaler and
PCA fitted on the training samples, ridge regression by LSQR with alpha = 100 / (components x genes) and no intercept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...errors import UsageError
from .tasks import Split, Task

COMPONENTS = 256
_SEED = 1  # the benchmark's default


def check_split(task: Task, number: int, components: int, dim: int) -> None:
    """Raise UsageError where a split cannot be fitted, or has a gene without a correlation; before any embedding.

    The benchmark would stop at the first, and report NaN for the whole task at the second.
    """
    split = task.splits[number]
    of = f"HEST {task.name}, split {number}"
    train, test = (_expression(task, half) for half in (split.train, split.test))
    if components > min(dim, len(train)):
        raise UsageError(
            f"{of}: {components} principal components of {len(train)} tiles to fit on, {dim} numbers each; "
            f"give --components {min(dim, len(train))} or fewer"
        )
    if len(test) < 2:
        raise UsageError(f"{of}: {len(test)} tile to predict; a correlation needs two or more")
    for gene, name in enumerate(task.genes):
        if not train[:, gene].any():
            raise UsageError(f"{of}: {name} is nowhere expressed in what is fitted on: no correlation; leave it out")
        if np.ptp(test[:, gene]) == 0:
            raise UsageError(f"{of}: {name} is the same in all tiles to predict: no correlation; leave it out")


def correlate(task: Task, split: Split, embeddings: Mapping[str, np.ndarray], components: int) -> np.ndarray:
    """Return each gene's correlation of predicted and measured expression, float64 (genes).

    `embeddings` holds each sample's, float32 (N, D).
    """
    from scipy.stats import pearsonr
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = (np.concatenate([embeddings[name] for name in half]) for half in (split.train, split.test))
    reduce = make_pipeline(StandardScaler(), PCA(components, random_state=_SEED))
    # The benchmark makes float32 tensors of these, which scikit-learn then solves in float64: LSQR stops so early that
    # solving in float32 shows in the fifth digit.
    reduced = (reduce.fit_transform(train), reduce.transform(test))
    train, test = (part.astype(np.float32).astype(np.float64) for part in reduced)
    alpha = 100 / (components * len(task.genes))
    ridge = Ridge(alpha, solver="lsqr", fit_intercept=False, max_iter=1000, random_state=_SEED)
    ridge.fit(train, _expression(task, split.train))
    predicted = ridge.predict(test).reshape(len(test), -1)
    if constant := [name for name, column in zip(task.genes, predicted.T, strict=True) if np.ptp(column) == 0]:
        raise UsageError(f"HEST {task.name}: the same {constant[0]} is predicted for all tiles: no correlation")
    measured = _expression(task, split.test)
    return np.array([pearsonr(*pair).statistic for pair in zip(measured.T, predicted.T, strict=True)])


def _expression(task: Task, names: Sequence[str]) -> np.ndarray:
    return np.concatenate([task.samples[name].expression for name in names])

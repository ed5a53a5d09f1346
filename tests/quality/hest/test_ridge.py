"""Correlations are those of the benchmark's definition, at its full size as well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmark_folder import by_hand, by_the_benchmark

from edgepath.quality.hest.ridge import COMPONENTS, correlate
from edgepath.quality.hest.tasks import Sample, Split, Task


@pytest.mark.parametrize(
    ("rows", "dim", "components"),
    # scikit-learn's PCA takes another way each: all singular vectors, randomized ones, the covariance's eigenvectors
    [((60, 40), 32, 12), ((300, 250), 768, COMPONENTS), ((1300, 100), 64, 16)],
)
def test_correlations_are_those_of_the_definition(rows: tuple[int, int], dim: int, components: int) -> None:
    rng = np.random.default_rng(0)
    genes = tuple(f"G{i}" for i in range(50))
    mixing = rng.standard_normal((dim, len(genes))) / dim**0.5
    samples, embeddings, counts = {}, {}, {}
    for name, count in zip("ab", rows, strict=True):
        values = (rng.standard_normal((count, dim)) * rng.uniform(0.2, 3, dim)).astype(np.float32)
        counts[name] = rng.poisson(np.exp(0.4 * values @ mixing + 1))
        embeddings[name] = values
        barcodes = tuple(map(str, range(count)))
        samples[name] = Sample(name, Path(name), barcodes, np.log1p(counts[name].astype(np.float64)))
    task = Task("T", genes, samples, (Split(("a",), ("b",)),))
    found = correlate(task, task.splits[0], embeddings, components)
    parts = (embeddings["a"], counts["a"], embeddings["b"], counts["b"])
    # 1e-12 is what the threads of a BLAS may change; solving in float32 is off by 1e-7 or more.
    assert found == pytest.approx(by_the_benchmark(*parts, components), abs=1e-12)
    if components < COMPONENTS:  # randomized PCA differs from the exact one where singular values lie close
        assert found == pytest.approx(by_hand(*parts, components), abs=5e-3)  # LSQR stops at 1e-4
    assert 0.1 < found.mean() < 0.95

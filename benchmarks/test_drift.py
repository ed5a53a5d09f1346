"""INT8 of edgepath beside its peers' on the same model, calibration and tiles: whose embeddings lie nearer?

Three models: random weights, the same with outlier channels in every linear, and the trained demo student. The measure
is 1 - mean cosine to the full-precision model on 32 tiles of tissue that calibration never saw.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BUILD, MODEL, THREADS, Bundles, Record, built, peer
from outliers import inject

from edgepath.backends import onnxruntime, openvino, reference
from edgepath.drift import measure
from edgepath.latency import peers
from edgepath.latency.contenders import build_full_precision, full_model
from edgepath.models import find_model
from edgepath.recipe import find_recipe
from edgepath.tiles import TileSource
from edgepath.weights import load_model

TILES = 32
RUNNERS: dict[str, Any] = {"openvino": openvino.Runner, "onnxruntime": onnxruntime.Runner}


@pytest.fixture(scope="session")
def with_outliers() -> Path:
    """The model's random weights with outliers, as a file."""
    from safetensors.torch import save_file

    path = BUILD / f"{MODEL}-outliers.safetensors"
    vit, spec, _ = load_model(find_model(MODEL), "random")
    tiles = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    before = reference.Runner(copy.deepcopy(vit), spec.mean, spec.std)(tiles)
    after = reference.Runner(inject(vit), spec.mean, spec.std)(tiles)
    assert np.allclose(before, after, atol=2e-3 * np.abs(before).max()), "injected outliers changed the function"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in vit.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("kind", ["plain", "outliers", "demo, trained"])
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_drift_is_no_worse_than_the_peers(
    kind: str,
    backend: str,
    bundles: Bundles,
    calibration: TileSource,
    other_tiles: TileSource,
    record: Record,
    request: pytest.FixtureRequest,
) -> None:
    model = "demo" if kind.startswith("demo") else MODEL
    weights = {"plain": "random", "outliers": None, "demo, trained": None}[kind]
    if kind == "outliers":
        weights = str(request.getfixturevalue("with_outliers"))
    target = {"openvino": "openvino-int8", "onnxruntime": "onnx-int8"}[backend]
    bundle = bundles(target, model=model, weights=weights, kind=kind.replace(", ", "-"))
    full, recipe = full_model(bundle, weights), find_recipe(target)
    whole = built(f"{kind}/{backend}", lambda folder: build_full_precision(full.folded(), recipe, folder))
    tiles = other_tiles.read([i * len(other_tiles) // TILES for i in range(TILES)])
    exact = _embed(reference.Runner(full.vit, full.spec.mean, full.spec.std), tiles)
    found = {target: _drift(bundle.artifact, backend, tiles, exact)}
    for name in peers.OF[backend]:
        found[name] = _drift(peer(name, whole, calibration.read(), kind), backend, tiles, exact)
    record(f"drift, 1 - cosine mean on {TILES} other tiles, {kind}, {backend}", found)
    record(f"drift of {target}, {kind}, over the nearest peer's", round(found[target] / min(_peers(found)), 3))
    assert found[target] <= min(_peers(found))


def _peers(found: dict[str, float]) -> list[float]:
    return list(found.values())[1:]


def _drift(artifact: Path, backend: str, tiles: np.ndarray, exact: np.ndarray) -> float:
    with RUNNERS[backend](artifact, threads=THREADS) as runner:
        return 1 - measure(exact, _embed(runner, tiles)).cosine_mean


def _embed(run: Any, tiles: np.ndarray) -> np.ndarray:
    return np.concatenate([run(tiles[start : start + 8]) for start in range(0, len(tiles), 8)])

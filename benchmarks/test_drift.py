"""INT8 of edgepath beside its peers' on the same model, calibration and tiles: whose embeddings lie nearer?

Three models: random weights, the same with outlier channels in every linear, and the trained demo student. The measure
is 1 - mean cosine to the full-precision model on 32 tiles of tissue that calibration never saw.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MODEL, SECONDS, THREADS, Bundles, Record, built, peer

from edgepath.backends.runners import onnxruntime, openvino
from edgepath.checks.drift import measure
from edgepath.models import reference
from edgepath.program.forms import Program
from edgepath.program.rebuilding import rebuild
from edgepath.recipes.recipe import Recipe, find_recipe
from edgepath.speed import peers
from edgepath.speed.contenders import build_full_precision, full_model
from edgepath.speed.pinning import pinned
from edgepath.speed.timing import in_turn, ratio
from edgepath.tiles.source import TileSource

pytestmark = pytest.mark.long

TILES = 32
RUNNERS: dict[str, Any] = {"openvino": openvino.Runner, "onnxruntime": onnxruntime.Runner}


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


@pytest.mark.parametrize("kind", ["plain", "demo, trained"])
def test_class_token_in_floating_point(kind: str, bundles: Bundles, other_tiles: TileSource, record: Record) -> None:
    """What it takes from drift and adds to latency, of batches of one and four."""
    model, weights = ("demo", None) if kind.startswith("demo") else (MODEL, "random")
    targets = ("openvino-int8", "openvino-int8-cls")
    made = {name: bundles(name, model=model, weights=weights, kind=kind.replace(", ", "-")) for name in targets}
    full = full_model(made[targets[0]], weights)
    tiles = other_tiles.read([i * len(other_tiles) // TILES for i in range(TILES)])
    exact = _embed(reference.Runner(full.vit, full.spec.mean, full.spec.std), tiles)
    found: dict[str, Any] = {}
    with pinned(THREADS), ExitStack() as stack:
        runners = {
            name: stack.enter_context(openvino.Runner(one.artifact, threads=THREADS)) for name, one in made.items()
        }
        for name, one in made.items():
            again = full_model(one, weights)
            program = Program(rebuild(one, Recipe.from_json(one.manifest["recipe"]), again.vit, again.spec))
            found[name] = {
                "program": 1 - measure(exact, _embed(program, tiles)).cosine_mean,
                "artifact": 1 - measure(exact, _embed(runners[name], tiles)).cosine_mean,
            }
        for batch in (1, 4):
            runs = {name: partial(run, tiles[:batch]) for name, run in runners.items()}
            times = in_turn(runs, seconds=4 * SECONDS, warm_up=3)
            found[f"latency ratio, batch {batch}"] = round(ratio(times[targets[1]], times[targets[0]]), 3)
            found[f"n, batch {batch}"] = len(times[targets[0]])
    record(f"class token in floating point, {kind}", found)
    plain, spared = (found[name] for name in targets)
    assert spared["program"] < 0.5 * plain["program"]
    assert spared["artifact"] < plain["artifact"]


def _peers(found: dict[str, float]) -> list[float]:
    return list(found.values())[1:]


def _drift(artifact: Path, backend: str, tiles: np.ndarray, exact: np.ndarray) -> float:
    with RUNNERS[backend](artifact, threads=THREADS) as runner:
        return 1 - measure(exact, _embed(runner, tiles)).cosine_mean


def _embed(run: Any, tiles: np.ndarray) -> np.ndarray:
    return np.concatenate([run(tiles[start : start + 8]) for start in range(0, len(tiles), 8)])

"""What the checks of a bundle take beside the bare forward passes that they cannot do without.

The trained demo student, whose passes are short: what a check adds shows most. A pass is timed before and after each
check, on tiles that lie in memory, in the checks' batches. The check's time holds all of it, opening the bundle
included; but not the import of PyTorch, timm and scikit-learn, which a process does once. `debug` proves every layer
besides, which is work of its own: its figure is only kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REAL, THREADS, Bundles, Record
from PIL import Image

import edgepath
from edgepath.bundle.running import embed_all
from edgepath.checks.debugging import debug
from edgepath.program.forms import Program
from edgepath.program.rebuilding import rebuild, same_weights
from edgepath.quality.both_models import ARTIFACT, FULL, both_models, opened
from edgepath.quality.perturbations import PERTURBATIONS

pytestmark = pytest.mark.long

TILES = 240
PLACES = 32
OF_CURVES = 70
OF_DEBUG = 64
PROGRAM = "program"
BOTH = (FULL, ARTIFACT)
MOST = 1.3
"""Times the bare passes."""


@pytest.fixture(scope="module")
def bundle(bundles: Bundles) -> Any:
    pytest.importorskip("sklearn.linear_model")
    torch.set_num_threads(THREADS)
    return bundles("openvino-int8", model="demo", weights=None, kind="trained")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`TILES` PNG files of two classes: real ones where they are here."""
    folder = tmp_path_factory.mktemp("labelled")
    names = [REAL / "oral_oscc", REAL / "osteosarcoma"] if REAL.is_dir() else ["synthetic:120", "synthetic:120:1"]
    for name in names:
        source = edgepath.open_tiles(name)
        of_class = folder / Path(str(name)).name.replace(":", "-")
        of_class.mkdir()
        for i in range(TILES // 2):
            tile = source.read([i % len(source)])[0]
            Image.fromarray(tile if i < len(source) else np.rot90(tile)).save(of_class / f"{i}.png")
    return folder


@pytest.mark.parametrize("check", ["robustness", "curves", "probe", "verify", "debug"])
def test_a_check_takes_little_more_than_its_passes(
    check: str, bundle: Any, labelled: Path, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPATH_CACHE", str(tmp_path))  # nor are references of an earlier run taken
    steps = 1 + sum(len(p.degrees) - 1 for p in PERTURBATIONS)
    checks: dict[str, tuple[Callable[[], object], int, tuple[str, ...]]] = {
        "robustness": (partial(edgepath.robustness, bundle, tiles=PLACES, threads=THREADS), 91 * PLACES, BOTH),
        "curves": (
            partial(edgepath.curves, bundle, f"synthetic:{OF_CURVES}", threads=THREADS),
            OF_CURVES * steps,
            BOTH,
        ),
        "probe": (partial(edgepath.probe, bundle, labelled, threads=THREADS), TILES, BOTH),
        "verify": (partial(edgepath.verify, bundle, tiles=labelled, threads=THREADS), TILES, (*BOTH, PROGRAM)),
        "debug": (partial(debug, bundle, tiles=f"synthetic:{OF_DEBUG}"), OF_DEBUG, (FULL, PROGRAM)),
    }
    run, tiles, models = checks[check]
    before = bare(bundle)
    start, busy = time.perf_counter(), time.process_time()
    run()
    seconds, core_seconds = time.perf_counter() - start, time.process_time() - busy
    after = bare(bundle)
    passes = tiles * sum((before[name] + after[name]) / 2 for name in models)
    record(
        f"{check} beside its passes, demo, openvino-int8",
        {
            "tiles embedded": tiles,
            "models": list(models),
            "seconds": round(seconds, 1),
            "seconds of a core": round(core_seconds, 1),
            "seconds of the passes": round(passes, 1),
            "ms a pass, before and after": {
                name: [round(1e3 * of[name], 1) for of in (before, after)] for name in before
            },
        },
    )
    record(f"{check} over its passes, demo", round(seconds / passes, 2))
    assert seconds < MOST * passes or check == "debug"


def bare(bundle: Any) -> dict[str, float]:
    """Return the seconds that a pass takes for a tile, by the model's name: the median of three times 64 tiles."""
    bundle, recipe = opened(bundle)
    tiles = edgepath.open_tiles("synthetic:64").read()
    seconds = {}
    with both_models(bundle, recipe, threads=THREADS) as models:
        vit, spec, _ = same_weights(bundle, None)
        runs: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            **models.runners,
            PROGRAM: Program(rebuild(bundle, recipe, vit, spec), recipe),
        }
        for name, run in runs.items():
            embed_all(run, tiles, lambda _: None)  # warm-up
            taken = []
            for _ in range(3):
                start = time.perf_counter()
                embed_all(run, tiles, lambda _: None)
                taken.append((time.perf_counter() - start) / len(tiles))
            seconds[name] = float(np.median(taken))
    return seconds

"""How much of INT8's speed is left when a search has met a budget that full INT8 misses.

The model with outlier channels, for ONNX Runtime: there INT8 is the faster one with and without VNNI. The budget is the
artifact's, on the tiles that the search judges by. The milliseconds that full INT8 saves of FP32's, and those that the
mixed program saves, are timed in turn, in one run.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BUILD, MODEL, SECONDS, SOURCE, THREADS, Bundles, Record, built

import edgepath
from edgepath.backends.runners import onnxruntime
from edgepath.recipes.recipe import find_recipe
from edgepath.searching import search
from edgepath.speed.contenders import build_full_precision, full_model
from edgepath.speed.pinning import pinned
from edgepath.speed.timing import in_turn, ratio
from edgepath.tiles.source import TileSource

pytestmark = pytest.mark.long

TARGET = "onnx-int8"
SHARE = 0.75
"""Of full INT8's drift, what the budget allows."""


def test_a_budget_costs_at_most_a_tenth_of_the_speed_up(
    bundles: Bundles, with_outliers: Path, other_tiles: TileSource, record: Record
) -> None:
    full = bundles(TARGET, model=MODEL, weights=str(with_outliers), kind="outliers")
    drift = 1 - full.manifest["drift"]["total"]["cosine_mean"]
    budget = 1 - SHARE * drift
    given: dict[str, Any] = {
        "model": MODEL,
        "weights": str(with_outliers),
        "calibration": SOURCE,
        "calibration_tiles": 64,
        "device": "cpu",
    }
    recipe = BUILD / f"{MODEL}-mixed.toml"
    found = search(TARGET, {"cosine_mean": budget}, recipe, force=True, **given)
    mixed = edgepath.export(str(recipe), out=BUILD / "outliers", force=True, **given)
    whole = built(
        "outliers/onnxruntime",
        lambda folder: build_full_precision(full_model(full, str(with_outliers)).folded(), find_recipe(TARGET), folder),
    )
    tile = other_tiles.read([0])
    with pinned(THREADS), ExitStack() as stack:
        files = {"fp32": whole, "int8": full.artifact, "mixed": mixed.bundle.artifact}
        runners = {name: stack.enter_context(onnxruntime.Runner(file, threads=THREADS)) for name, file in files.items()}
        times = in_turn({name: partial(run, tile) for name, run in runners.items()}, seconds=4 * SECONDS, warm_up=3)
    gained = {name: times["fp32"] - times[name] for name in ("int8", "mixed")}
    kept = float(np.median(gained["mixed"] / gained["int8"]))
    program, artifact = (mixed.report["drift"][name] for name in ("quantization", "total"))
    assert program is not None
    assert artifact is not None
    record(
        f"search, {TARGET} with outliers, {SHARE} of INT8's drift allowed",
        {
            "drift of INT8": 1 - full.manifest["drift"]["quantization"]["cosine_mean"],
            "drift of the mixed program": 1 - program["cosine_mean"],
            "drift of INT8's artifact": drift,
            "drift of the mixed artifact": 1 - artifact["cosine_mean"],
            "products kept": len(found["kept"]),
            "of": len(found["layers"]),
            "int8 / fp32": round(ratio(times["int8"], times["fp32"]), 3),
            "mixed / fp32": round(ratio(times["mixed"], times["fp32"]), 3),
            "speed-up kept": round(kept, 3),
            "n": len(times["int8"]),
        },
    )
    record(f"share of INT8's saved milliseconds that a budget keeps, {TARGET}", round(kept, 3))
    assert 1 - artifact["cosine_mean"] <= SHARE * drift < drift
    assert kept >= 0.9

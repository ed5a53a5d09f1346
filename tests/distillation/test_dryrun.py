"""A dry run takes the very step of the configuration, and counts what it holds."""

from __future__ import annotations

import pytest
from small_models import RECIPE, SMALL, STUDENT, TEACHER

from edgepath.distillation import dryrun
from edgepath.distillation.dryrun import dry_run, to_rows
from edgepath.errors import UsageError
from edgepath.models.weights import build

# The batch of the recipe, not the tiny one.
WHOLE = SMALL | {"training.batch": 64, "training.steps": 1000}


def test_counts_and_estimates_follow_from_the_models() -> None:
    found = dry_run(TEACHER, STUDENT, recipe=RECIPE, options=WHOLE, device="cpu")
    parameters = {
        name: sum(p.numel() for p in build(spec).parameters()) for name, spec in (("t", TEACHER), ("s", STUDENT))
    }
    assert found["parameters"]["teacher"] == parameters["t"]
    assert found["parameters"]["student"] == parameters["s"]
    trained = parameters["s"] + found["parameters"]["student heads"]
    # Weights, average, gradients and Adam's two moments of what is trained; the teacher and its heads once.
    least = 4 * (parameters["t"] + 5 * trained)
    assert least < found["fixed_bytes"] < 1.5 * least
    assert found["peak_bytes"] > found["fixed_bytes"]
    assert found["estimate"]["batch"] == 64
    assert found["tile_bytes"] > 0  # measured, or where memory kept from before hides it, an upper bound
    assert found["estimate"]["days"] == pytest.approx(1000 * 64 * found["step_seconds"] / 86400, abs=0.1)
    assert found["loss"] > 0
    assert all(len(row) == 2 for row in to_rows(found))


@pytest.mark.parametrize("last", [260, 200], ids=["a difference", "none seen"])
def test_estimate_is_the_peak_and_what_more_tiles_take(monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    peaks = iter([1e9, 2e9, 2e9, last * 1e7])
    monkeypatch.setattr(dryrun, "most_memory", lambda device: next(peaks))
    found = dry_run(TEACHER, STUDENT, recipe=RECIPE, options=WHOLE, device="cpu")
    a_tile = 6e8 if last == 260 else (2e9 - found["fixed_bytes"]) / 2
    assert found["tile_bytes"] == round(a_tile)
    assert found["estimate"]["process_bytes"] == round(2e9 + 63 * a_tile)


def test_pairs_that_cannot_be_are_refused_as_in_a_real_run() -> None:
    with pytest.raises(UsageError, match=r"choose two of one patch size|patch tokens"):
        dry_run("timm:vit_tiny_patch16_224", STUDENT, recipe=RECIPE, options=SMALL, device="cpu")

"""From calibration tiles to the quantized program, and what a bundle keeps to make it again."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..machine.progress import Stages
from ..machine.sheets import as_text
from ..recipes.recipe import Recipe
from ..tiles.source import TileSource
from .calibrating import calibrated

if TYPE_CHECKING:
    from .calibrate import Plan, Ranges
    from .fold import EdgeModel
    from .qad import Repaired

PROGRAM = "program.safetensors"  # of a bundle whose program cannot be rebuilt from weights and ranges


def quantize_from_tiles(
    recipe: Recipe,
    net: EdgeModel,
    tiles: TileSource,
    qad: int,
    device: str,
    folder: Path,
    stages: Stages,
    *,
    of: Mapping[str, object] | None = None,
) -> tuple[EdgeModel, Repaired | None]:
    """Calibrate a folded model on `tiles` and quantize it, in place; return it and what `qad` steps of training did.

    What was calibrated on, and what was found, is kept in `folder`. `of` is as in `calibrated`.
    """
    from .calibrate import NO_PLAN, linears, save_ranges
    from .formats import FORMATS
    from .linear import save_program, to_quantize

    to_quantize(linears(net), recipe.quantize.keep)  # a name that is not there is said before the work
    ranges, plan = calibrated(recipe, net, tiles, device, stages, of=of)
    if not FORMATS[recipe.precision.linear].tuned:
        plan = NO_PLAN
    save_ranges(folder / "ranges.npz", ranges, plan)
    _write_tiles(tiles, folder / "calibration.csv")
    if not qad:
        with stages.stage("quantize"):
            return make_program(recipe, net, ranges, plan), None
    with stages.stage("qad", qad) as advance:
        net, trained = train_program(recipe, net, ranges, plan, tiles.read(), qad, device, advance)
    save_program(net, folder / PROGRAM)
    return net, trained


def make_program(recipe: Recipe, net: EdgeModel, ranges: Ranges, plan: Plan) -> EdgeModel:
    """Make a folded model the quantized program of a recipe, in place, from what calibration saw and decided."""
    from .formats import FORMATS
    from .linear import quantize, spare_class_token
    from .smooth import smooth

    how, number_format = recipe.quantize, FORMATS[recipe.precision.linear]
    ranges = smooth(net, ranges, plan, alpha=how.smooth_alpha)
    net = quantize(net, ranges, plan, weight_bits=how.weight_bits, keep=how.keep, number_format=number_format)
    return spare_class_token(net) if how.class_token == "float" else net


def train_program(
    recipe: Recipe,
    net: EdgeModel,
    ranges: Ranges,
    plan: Plan,
    tiles: np.ndarray,
    steps: int,
    device: str,
    advance: Callable[[int], None],
) -> tuple[EdgeModel, Repaired]:
    """Do what `make_program` does, and train the program for `steps` towards the model in full precision."""
    from .qad import Options, repair
    from .smooth import smooth

    teacher, how = copy.deepcopy(net), recipe.quantize
    ranges = smooth(net, ranges, plan, alpha=how.smooth_alpha)
    return repair(
        net,
        ranges,
        tiles,
        teacher,
        Options(steps=steps),
        plan=plan,
        weight_bits=how.weight_bits,
        keep=how.keep,
        class_token=how.class_token,
        device=device,
        progress=advance,
    )


def _write_tiles(tiles: TileSource, path: Path) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sha256_pixels", "tile"])
        rows.writerows((tiles.digests[key], as_text(key)) for key in tiles.keys if key in tiles.digests)

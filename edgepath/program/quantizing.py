"""From calibration tiles to the quantized program: ranges, tuning, rounding, and what a bundle keeps to do it again."""

from __future__ import annotations

import copy
import csv
import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle.running import BATCH
from ..errors import UsageError
from ..machine.cache import cached_file, store
from ..machine.hardware import device_name
from ..machine.packages import versions
from ..machine.progress import Stages
from ..recipes.recipe import Recipe
from ..tiles.opening import open_tiles
from ..tiles.source import TileSource
from ..tiles.splitting import FEWEST

if TYPE_CHECKING:
    from .calibrate import Ranges
    from .fold import EdgeModel
    from .tune import Seen

RANGES_FROM = tuple(f"program/{name}" for name in ("calibrate", "fold", "linear", "quantizing", "smooth", "tune"))
"""The modules that look at tokens and choose ranges; what makes the looks is added. A test holds it to the imports."""
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
    of: Mapping[str, Any] | None = None,
) -> tuple[EdgeModel, dict[str, Any] | None]:
    """Calibrate a folded model on `tiles` and quantize it, in place; return it and what `qad` steps of training did.

    What was calibrated on, and what was found, is kept in `folder`. `of` is as in `calibrated`.
    """
    from .calibrate import linears
    from .linear import save_program, to_quantize
    from .scores import check_kept

    to_quantize(linears(net), recipe.quantize.keep)  # a name that is not there is said before the work
    check_kept(net, recipe.quantize.keep, recipe.quantize.scores)
    ranges, seen = calibrated(recipe, net, tiles, device, stages, of=of)
    ranges.save(folder / "ranges.npz")
    with open(folder / "calibration.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sha256_pixels", "tile"])
        rows.writerows((tiles.digests[key], key) for key in tiles.keys if key in tiles.digests)
    trained = None
    if qad:
        with stages.stage("qad", qad) as advance:
            net, trained = repaired(recipe, net, ranges, tiles.read(), qad, device, advance)
    elif recipe.quantize.rounding == "gptq":
        with stages.stage("round weights", len(ranges.absmax)) as advance:
            net = rounded(recipe, net, ranges, seen, advance)
    else:
        with stages.stage("quantize"):
            net = quantized(recipe, net, ranges)
    if qad or recipe.quantize.rounding == "gptq":
        save_program(net, folder / PROGRAM)
    return finished(recipe, net, ranges), trained


def calibrated(
    recipe: Recipe,
    net: EdgeModel,
    tiles: TileSource,
    device: str,
    stages: Stages,
    *,
    of: Mapping[str, Any] | None = None,
) -> tuple[Ranges, list[Seen]]:
    """Take ranges on `tiles` and, where the recipe has looks, on them too, and tune every layer across both.

    `of` says, JSON-able, what `net` is: its weights, architecture and outputs. With it, ranges are kept for the next
    target, and those that were found before are returned; what was seen is then empty. Rounding in turn needs what was
    seen, and looks again. Raises UsageError when fewer than 16 of the tiles can be read.
    """
    if of is None or recipe.quantize.rounding == "gptq":
        return _calibrated(recipe, net, tiles, device, stages)
    file = cached_file("ranges", _depends_on(recipe, tiles, device, of))
    known = _recalled(file)
    if known is not None:
        with stages.stage("known ranges"):
            return known, []
    ranges, seen = _calibrated(recipe, net, tiles, device, stages)
    store(file, ranges.save)
    return ranges, seen


def _depends_on(recipe: Recipe, tiles: TileSource, device: str, of: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that ranges follow from, the code that finds them included."""
    how, using = recipe.quantize, versions()
    return {
        "of": dict(of),
        "tiles": tiles.provenance()["sha256"],
        "count": len(tiles),
        "looks": how.looks,
        "smoothed": bool(how.smooth_alpha),
        "weight_bits": how.weight_bits,
        "device": device_name(device),
        "code": _code(),
        "versions": {name: using[name] for name in ("torch", "timm", "numpy")},
    }


@lru_cache(maxsize=1)
def _code() -> str:
    """Return the hash of the modules that ranges follow from: they change between versions, and in work."""
    package = Path(__file__).parents[1]
    files = [package / f"{name}.py" for name in RANGES_FROM] + sorted((package / "tiles" / "synthetic").glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _recalled(file: Path) -> Ranges | None:
    """Return the ranges that were stored, or None where there are none, or none whole: they can be found again."""
    from .calibrate import Ranges

    try:
        return Ranges.load(file)
    except Exception:  # zip, zlib and NumPy each have errors of their own for damaged bytes
        return None


def _calibrated(
    recipe: Recipe, net: EdgeModel, tiles: TileSource, device: str, stages: Stages
) -> tuple[Ranges, list[Seen]]:
    from .tune import LOOKS, see, tune

    how = recipe.quantize

    def look(stage: str, source: TileSource) -> Seen:
        with stages.stage(stage, len(source)) as advance:
            batches = (batch.pixels for batch in source.batches(BATCH))
            return see(net, batches, len(source), device=device, progress=advance)

    own = look("calibrate", tiles)
    if own.ranges.tiles < FEWEST:
        raise UsageError(f"calibration: only {own.ranges.tiles} tiles of {tiles.name} can be read, {FEWEST} are needed")
    if not how.looks:
        return own.ranges, [own]
    other = look("looks", open_tiles(LOOKS.format(how.looks), size=net.size))
    with stages.stage("tune", len(own.ranges.absmax)) as advance:
        smoothing, bits = bool(how.smooth_alpha), how.weight_bits
        ranges = tune(net, own, other, smoothing=smoothing, weight_bits=bits, progress=advance)
    return ranges, [own, other]


def quantized(recipe: Recipe, net: EdgeModel, ranges: Ranges) -> EdgeModel:
    """Smooth and quantize a folded model, in place, from the ranges its calibration found."""
    from .linear import quantize
    from .smooth import smooth

    how = recipe.quantize
    ranges = smooth(net, ranges, alpha=how.smooth_alpha)
    return quantize(net, ranges, weight_bits=how.weight_bits, keep=how.keep)


def finished(recipe: Recipe, net: EdgeModel, ranges: Ranges) -> EdgeModel:
    """Do, in place, what comes last of all where the recipe wants it: round queries and keys, spare the class token."""
    from .linear import spare_class_token
    from .scores import round_scores

    how = recipe.quantize
    if how.scores:
        net = round_scores(net, ranges, keep=how.keep)
    return spare_class_token(net) if how.class_token == "float" else net


def repaired(
    recipe: Recipe,
    net: EdgeModel,
    ranges: Ranges,
    tiles: np.ndarray,
    steps: int,
    device: str,
    advance: Callable[[int], None],
) -> tuple[EdgeModel, dict[str, Any]]:
    """Smooth and quantize a folded model and train it for `steps` towards itself in full precision."""
    from .qad import Options, repair
    from .smooth import smooth

    teacher, how = copy.deepcopy(net), recipe.quantize
    ranges = smooth(net, ranges, alpha=how.smooth_alpha)
    net, facts = repair(
        net,
        ranges,
        tiles,
        teacher,
        Options(steps=steps),
        weight_bits=how.weight_bits,
        keep=how.keep,
        class_token=how.class_token,
        device=device,
        progress=advance,
    )
    return net, facts.to_json()


def rounded(
    recipe: Recipe, net: EdgeModel, ranges: Ranges, seen: list[Seen], advance: Callable[[int], None]
) -> EdgeModel:
    """Smooth and quantize a folded model, in place, with weights rounded by what `seen` showed of their inputs."""
    import torch

    from .gptq import quantize_in_turn
    from .smooth import smooth

    how = recipe.quantize
    smoothed = smooth(net, ranges, alpha=how.smooth_alpha)
    rows = {}
    for name, after in smoothed.absmax.items():
        before = ranges.absmax[name]
        share = np.divide(after, before, out=np.ones_like(after), where=before > 0)
        rows[name] = torch.cat([one.rows.of(name) for one in seen]) * torch.from_numpy(share)
    return quantize_in_turn(net, smoothed, rows, weight_bits=how.weight_bits, keep=how.keep, progress=advance)

"""From calibration tiles to ranges and a plan: looked at, tuned, and kept in the cache for the next target."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle.running import BATCH
from ..errors import UsageError
from ..machine.cache import cached_file, code_hash, store
from ..machine.hardware import device_name
from ..machine.packages import versions
from ..machine.progress import Stages
from ..recipes.recipe import Recipe
from ..tiles.opening import open_tiles
from ..tiles.source import TileSource
from ..tiles.splitting import FEWEST

if TYPE_CHECKING:
    from .calibrate import Plan, Ranges
    from .fold import EdgeModel
    from .tune import Seen

_FROM = ("calibrate", "calibrating", "fold", "formats", "linear", "operations", "smooth", "tune")
RANGES_FROM = tuple(f"program/{name}" for name in _FROM)
"""The modules that look at tokens and choose ranges. A test holds it to the imports."""
LOOKS_FROM = ("tiles/stains",)
"""What the looks are made from besides `tiles/synthetic`. A test holds it to the imports, too."""
GIVEN_BY = ("bundle/running", "machine/inference", "program/preparing", "tiles/opening")
"""What hands calibration its model, its tiles and its looks, how many at a time, and what computes with them."""


def calibrated(
    recipe: Recipe,
    net: EdgeModel,
    tiles: TileSource,
    device: str,
    stages: Stages,
    *,
    of: Mapping[str, object] | None = None,
) -> tuple[Ranges, Plan]:
    """Take ranges on `tiles` and, where the recipe has looks, on them too, and tune every layer across both.

    `of` says, JSON-able, what `net` is: its weights, architecture and outputs. With it, ranges are kept for the next
    target, and those that were found before are returned. Raises UsageError when fewer than 16 of the tiles can be
    read.
    """
    if of is None:
        return _calibrated(recipe, net, tiles, device, stages)
    file = cached_file("ranges", _depends_on(recipe, tiles, device, of))
    known = _recalled(file)
    if known is not None:
        with stages.stage("known ranges"):
            return known
    from .calibrate import save_ranges

    calibration = _calibrated(recipe, net, tiles, device, stages)
    store(file, lambda handle: save_ranges(handle, *calibration))
    return calibration


def _depends_on(recipe: Recipe, tiles: TileSource, device: str, of: Mapping[str, object]) -> dict[str, object]:
    """Return all that ranges follow from, the code that finds them included."""
    how, using = recipe.quantize, versions()
    return {
        "of": dict(of),
        "tiles": tiles.provenance()["sha256"],
        "count": len(tiles),
        "looks": how.looks,
        "smoothed": _smoothing(recipe),
        "weight_bits": how.weight_bits,
        "device": device_name(device),
        "code": _code(),
        "versions": {name: using[name] for name in ("torch", "timm", "numpy")},
    }


@lru_cache(maxsize=1)
def _code() -> str:
    """Return the hash of the modules that ranges follow from."""
    drawn = sorted((Path(__file__).parents[1] / "tiles" / "synthetic").glob("*.py"))
    return code_hash([*RANGES_FROM, *LOOKS_FROM, *GIVEN_BY, *(f"tiles/synthetic/{path.stem}" for path in drawn)])


def _recalled(file: Path) -> tuple[Ranges, Plan] | None:
    """Return what was stored, or None where there is nothing, or nothing whole: it can be found again."""
    from .calibrate import load_ranges

    try:
        return load_ranges(file)
    except Exception:  # zip, zlib and NumPy each have errors of their own for damaged bytes
        return None


def _calibrated(recipe: Recipe, net: EdgeModel, tiles: TileSource, device: str, stages: Stages) -> tuple[Ranges, Plan]:
    from .calibrate import NO_PLAN
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
        return own.ranges, NO_PLAN
    other = look("looks", open_tiles(LOOKS.format(how.looks), size=net.size))
    with stages.stage("tune", len(own.ranges.absmax)) as advance:
        return tune(net, own, other, smoothing=_smoothing(recipe), weight_bits=how.weight_bits, progress=advance)


def _smoothing(recipe: Recipe) -> bool:
    """Tell whether layers are tuned with smoothing; for a format that takes no plan, as for INT8: both share ranges."""
    from .formats import FORMATS

    return bool(recipe.quantize.smooth_alpha) or not FORMATS[recipe.precision.linear].tuned

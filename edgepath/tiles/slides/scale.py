"""How many micrometres a pixel spans, and from which level a tile of a wanted scale is read.

Scale is never binned to a magnification: what one scanner calls 20x is 0.31 um on another and 0.59 um on a third.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import SlideError, UsageError
from .reader import Metadata

SLACK = 0.02
"""A finest level that is coarser than asked by no more than this is taken as it is: 0.504 um counts as 0.5."""
ODD = 0.1
"""Where two statements about scale differ by more, a caution says so."""
LARGEST_READ = 4096
"""The longest side of what is read for one tile, in pixels of its level: some 500 MB a thread."""
_ROUNDED = 0.002  # a level of 4.0003 for 4: its sides are whole pixels, so its downsample is not
_LARGEST = 20.0  # um; a TIFF that says more was stamped with a printer's resolution (72 dpi are 353 um)
_UM_AT_1X = 10.0  # an objective of 20x means pixels of about 0.5 um


@dataclass(frozen=True)
class Scale:
    """How tiles of `size` pixels at `mpp` um are read: from `level`, whose pixels are `downsample` finest ones.

    `width` and `height` are a tile's sides in pixels of the finest level, not rounded. `slide_mpp` is that level's um
    per pixel in x and y, `source` says where it came from.
    """

    size: int
    mpp: float
    slide_mpp: tuple[float, float]
    source: str
    level: int
    downsample: float
    width: float
    height: float
    cautions: tuple[str, ...] = ()

    @property
    def resampling(self) -> str:
        """How pixels of the level become a tile's."""
        exact = all(abs(side / self.downsample - self.size) < 1e-9 for side in (self.width, self.height))
        return "none" if exact else "area"


def find_scale(
    metadata: Metadata,
    name: str,
    *,
    size: int = 224,
    mpp: float = 0.5,
    mpp_of_slide: float | None = None,
    mpp_key: str | None = None,
    allow_upsampling: bool = False,
) -> Scale:
    """Return how to read tiles of `size` x `size` pixels of `mpp` um each.

    `mpp_of_slide` takes the place of what the metadata say, `mpp_key` names the property that says it. Raises
    SlideError where nothing says it, or where the slide is coarser than asked and not to be upsampled.
    """
    for value in (mpp, mpp_of_slide):
        if value is not None and not (math.isfinite(value) and 0 < value <= _LARGEST):
            raise UsageError(f"mpp {value}: give micrometres per pixel, above 0 and at most {_LARGEST:g}")
    here, source = _slide_scale(metadata, name, mpp_of_slide, mpp_key)
    if not 1 <= size <= LARGEST_READ:
        raise UsageError(f"tiles of {size} pixels: give 1 to {LARGEST_READ}")
    coarsest = max(here)
    if coarsest > mpp * (1 + SLACK) and not allow_upsampling:
        raise SlideError(
            f"slide {name}: its pixels span {coarsest:.4g} um, tiles of {mpp:g} um were asked for; ask for --mpp "
            f"{math.ceil(coarsest * 100) / 100:g} or more, or give --allow-upsampling"
        )
    fine = [i for i, level in enumerate(metadata.levels) if coarsest * level.downsample <= mpp * (1 + _ROUNDED)]
    level = max(fine, key=lambda i: metadata.levels[i].downsample, default=0)
    downsample = metadata.levels[level].downsample
    width, height = (size * mpp / pixel for pixel in here)
    if (side := max(width, height) / downsample) > LARGEST_READ:
        raise SlideError(
            f"slide {name}: a tile of {size} pixels of {mpp:g} um is {side:.0f} pixels of its nearest finer level, at "
            f"most {LARGEST_READ} are read; ask for a finer --mpp, or give the slide more levels"
        )
    cautions = tuple(_cautions(metadata, here, source))
    return Scale(size, mpp, here, source, level, downsample, width, height, cautions)


def _slide_scale(
    metadata: Metadata, name: str, given: float | None, key: str | None
) -> tuple[tuple[float, float], str]:
    """Return um per pixel in x and y, and where that comes from."""
    if given is not None:
        return (given, given), "given"
    if key is not None:
        text = metadata.properties.get(key)
        try:
            value = float(text) if text is not None else math.nan
        except ValueError:
            value = math.nan
        if not 0 < value <= _LARGEST:
            problem = "is not there" if text is None else f"is {text!r}, no number of micrometres"
            raise SlideError(
                f"slide {name}: its property {key} {problem}; known: {', '.join(_likely(metadata)) or 'none'}"
            )
        return (value, value), f"property {key}"
    if metadata.mpp is None or not all(math.isfinite(side) and 0 < side <= _LARGEST for side in metadata.mpp):
        problem = (
            "have no um per pixel"
            if metadata.mpp is None
            else f"say {metadata.mpp[0]:g} x {metadata.mpp[1]:g} um per pixel"
        )
        raise SlideError(
            f"slide {name}: its metadata {problem}; give --mpp-of-slide UM, a column mpp in a manifest.csv, or "
            "--mpp-key with the property that has it"
        )
    return metadata.mpp, "metadata"


def _likely(metadata: Metadata) -> list[str]:
    """Return properties whose name speaks of scale."""
    return [
        name for name in metadata.properties if any(word in name.lower() for word in ("mpp", "pixelsize", "spacing"))
    ]


def _cautions(metadata: Metadata, here: tuple[float, float], source: str) -> list[str]:
    cautions, (x, y) = [], here
    if abs(x / y - 1) > ODD:
        cautions.append(f"pixels span {x:.4g} um in x and {y:.4g} um in y: each side of a tile is cut by its own")
    if metadata.power and abs(here[0] * metadata.power / _UM_AT_1X - 1) > ODD:
        usual = _UM_AT_1X / metadata.power
        cautions.append(
            f"{here[0]:.4g} um per pixel ({source}), but an objective of {metadata.power:g}x, usually {usual:.4g} um"
        )
    if source != "metadata" and metadata.mpp and abs(metadata.mpp[0] / x - 1) > ODD:
        cautions.append(f"{x:.4g} um per pixel ({source}), but its metadata say {metadata.mpp[0]:.4g} um")
    return cautions

"""How far bundles lie apart, as a picture: a square a pair, the darker the farther; drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..errors import UsageError
from ..machine.writing import replacing

CELL, MARGIN, TOP, LEGEND = 120, 20, 50, 60
_NEAR, _FAR = (255, 255, 255), (178, 60, 20)
_DECADES = (-6, -2)  # of 1 - cosine: white at a millionth, dark at a hundredth


def check_plot(path: Path, bundles: Sequence[Path], *, force: bool) -> None:
    """Refuse a picture that cannot be written, or that would lie in a bundle. Raises UsageError."""
    final = path.resolve()
    try:
        usable = path.suffix == ".png" and final.parent.is_dir() and not final.is_dir()
        exists = final.exists()
    except OSError as error:
        raise UsageError(f"plot {path}: cannot be written ({error.strerror})") from None
    if not usable:
        raise UsageError(f"plot {path}: give a file that ends in .png, in a folder that exists")
    for bundle in bundles:
        if final.is_relative_to(bundle.resolve()):
            raise UsageError(f"plot {path} lies in the bundle {bundle}, which holds nothing else; write it elsewhere")
    if exists and not force:
        raise UsageError(f"{path} exists; give --force to replace it, or another name")


def draw_pairs(result: Mapping[str, Any], path: Path) -> None:
    """Draw what `compare` returned as a PNG: 1 - mean cosine of every pair. Raises UsageError where it cannot."""
    names = list(result["bundles"])
    font = ImageFont.load_default(14)
    left = MARGIN + max(int(font.getlength(name)) for name in names) + 12
    width = left + CELL * len(names) + MARGIN
    image = Image.new("RGB", (max(width, 520), TOP + CELL * len(names) + LEGEND), "white")
    draw = ImageDraw.Draw(image)
    source, small = result["source"], ImageFont.load_default(11)
    title = f"1 - cosine, mean over {source['count']} tiles of {source['name']}"
    draw.text((MARGIN, 10), title, fill="black", font=font)
    scale = f"white: 1e{_DECADES[0]} and less; darkest: 1e{_DECADES[1]} and more"
    draw.text((MARGIN, 30), scale, fill="#555555", font=small)
    apart = {frozenset(pair["of"]): max(0.0, 1 - pair["cosine_mean"]) for pair in result["pairs"]}
    for down, one in enumerate(names):
        middle = TOP + CELL * down + CELL // 2
        draw.text((left - 8, middle), one, fill="black", font=font, anchor="rm")
        for across, other in enumerate(names):
            corner = (left + CELL * across, TOP + CELL * down)
            drift = apart.get(frozenset((one, other)))
            colour = (235, 235, 235) if drift is None else _colour(drift)
            draw.rectangle([corner, (corner[0] + CELL - 2, corner[1] + CELL - 2)], fill=colour, outline="#999999")
            if drift is not None:
                at = (corner[0] + CELL // 2, middle)
                draw.text(at, f"{drift:.1e}", fill="white" if sum(colour) < 450 else "black", font=font, anchor="mm")
    floor = f"noise floor of the programs themselves: {result['noise_floor']:.1e}"
    draw.text((MARGIN, TOP + CELL * len(names) + 14), floor, fill="black", font=font)
    columns = "columns, from the left: " + ", ".join(names)
    draw.text((MARGIN, TOP + CELL * len(names) + 34), columns, fill="#555555", font=small)
    with replacing(path, "plot") as partial:
        image.save(partial, "PNG")


def _colour(drift: float) -> tuple[int, int, int]:
    low, high = _DECADES
    share = min(1.0, max(0.0, (math.log10(max(drift, 1e-12)) - low) / (high - low)))
    red, green, blue = (round(near + (far - near) * share) for near, far in zip(_NEAR, _FAR, strict=True))
    return red, green, blue

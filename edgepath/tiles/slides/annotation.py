"""Polygons of a GeoJSON, as QuPath exports them, drawn as a mask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ...errors import SlideError, first_line
from ...machine.tables import read_json

_LARGEST = 64 << 20
Ring = list[tuple[float, float]]


def draw_annotation(path: Path, width: int, height: int, step: float) -> np.ndarray:
    """Return where any polygon is on a slide of `width` x `height`, bool, one pixel for `step` of the slide's.

    Holes are left out; points and lines are passed over. Raises SlideError for what holds no polygon of this slide.
    """
    try:
        # An empty one is a geometry that is not there (RFC 7946, section 3.1).
        polygons = [[_ring(ring) for ring in polygon] for polygon in _polygons(read_json(path, _LARGEST)) if polygon]
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise SlideError(f"tissue {path}: no GeoJSON of polygons ({first_line(error)})") from None
    if not polygons:
        raise SlideError(f"tissue {path}: it holds no polygon; annotate the tissue, or give --tissue otsu")
    mask = Image.new("1", (max(1, round(width / step)), max(1, round(height / step))))
    for polygon in polygons:
        # Pillow's pixels have their centres, not their corners, at whole numbers.
        _draw(mask, [[(x / step - 0.5, y / step - 0.5) for x, y in ring] for ring in polygon])
    drawn = np.asarray(mask)
    if not drawn.any():
        raise SlideError(f"tissue {path}: none of its polygons is on a slide of {width} x {height}; give this slide's")
    return drawn


def _draw(mask: Image.Image, rings: list[Ring]) -> None:
    """Draw a polygon of one outer ring and its holes, in its own box: annotations may be thousands."""
    xs, ys = [x for x, _ in rings[0]], [y for _, y in rings[0]]
    left, top = max(0, int(min(xs))), max(0, int(min(ys)))
    right, bottom = min(mask.width, int(max(xs)) + 1), min(mask.height, int(max(ys)) + 1)
    if left >= right or top >= bottom:
        return
    own = Image.new("1", (right - left, bottom - top))
    for number, ring in enumerate(rings):
        ImageDraw.Draw(own).polygon([(x - left, y - top) for x, y in ring], fill=int(number == 0))
    mask.paste(1, (left, top), own)


def _ring(points: Any) -> Ring:
    ring = [(float(x), float(y)) for x, y, *_ in points]
    if len(ring) < 3 or not np.isfinite(ring).all():
        raise ValueError("a ring of fewer than three points, or of none that are numbers")
    return ring


def _polygons(geojson: Any) -> Iterator[Any]:
    """Yield the rings of each polygon in a GeoJSON's features and geometries."""
    if isinstance(geojson, list):
        for item in geojson:
            yield from _polygons(item)
    elif geojson is None:  # a feature without a geometry
        return
    elif geojson["type"] == "FeatureCollection":
        yield from _polygons(geojson["features"])
    elif geojson["type"] == "Feature":
        yield from _polygons(geojson["geometry"])
    elif geojson["type"] == "GeometryCollection":
        yield from _polygons(geojson["geometries"])
    elif geojson["type"] == "Polygon":
        yield geojson["coordinates"]
    elif geojson["type"] == "MultiPolygon":
        yield from geojson["coordinates"]

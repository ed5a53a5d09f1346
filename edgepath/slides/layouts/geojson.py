"""Tissue and tiles as QuPath reads them: a GeoJSON of polygons in pixels of the finest level."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...tiles.slides.cutting import CutSlide


def write_geojson(path: Path, cut: CutSlide, coords: np.ndarray) -> None:
    """Write an annotation for each outline of tissue and a detection for each tile."""
    features = [_feature("annotation", "Tissue", rings) for rings in _polygons(cut.tissue.outlines())]
    width, height = cut.scale.width, cut.scale.height
    for x, y in coords.tolist():
        corners = [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]
        features.append(_feature("detection", "Tile", [corners]))
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")


def _polygons(outlines: Sequence[np.ndarray]) -> list[list[list[list[float]]]]:
    """Return polygons as GeoJSON has them: an outline, then those of the holes in it, which run the other way round."""
    from skimage.measure import points_in_poly

    outer = [ring for ring in outlines if _area(ring) > 0]
    holes = [ring for ring in outlines if _area(ring) < 0]
    polygons = [[ring] for ring in outer]
    for hole in holes:
        around = [polygon for polygon in polygons if points_in_poly(hole[:1], polygon[0])[0]]  # type: ignore[no-untyped-call]
        if around:
            min(around, key=lambda polygon: abs(_area(polygon[0]))).append(hole)
    return [[ring.round(1).tolist() for ring in rings] for rings in polygons]


def _area(ring: np.ndarray) -> float:
    """Return the area in a closed line, of which the sign says how it runs (Gauss)."""
    x, y = ring[:, 0], ring[:, 1]
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def _feature(kind: str, name: str, rings: list[list[list[float]]]) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {"objectType": kind, "classification": {"name": name}},
    }

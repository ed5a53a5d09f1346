"""How far embeddings lie apart, as a value: a bundle records it, `checks.drift` measures it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TypedDict, cast


class DriftFigures(TypedDict):
    """`Drift` as JSON."""

    tiles: int
    cosine_mean: float
    cosine_p01: float
    cosine_min: float
    relative_l2: float
    neighbour_overlap: float
    neighbours: int
    worst: list[str]


@dataclass(frozen=True)
class Drift:
    """Figures of `candidate` against `reference` over `tiles` tiles; all float, none rounded.

    `cosine_*` is the cosine of a tile's two embeddings (1 = same direction), `relative_l2` the mean of
    |candidate - reference| / |reference|, `neighbour_overlap` the mean share of a tile's `neighbours` nearest tiles (by
    cosine) that both agree on (1 with a single tile, `neighbours` = 0). Where the reference has ties for the last of
    them, as among blank tiles, each of the tied counts.
    `worst` names the tiles with the smallest cosine, worst first.
    """

    tiles: int
    cosine_mean: float
    cosine_p01: float
    cosine_min: float
    relative_l2: float
    neighbour_overlap: float
    neighbours: int
    worst: tuple[str, ...] = ()

    def to_json(self) -> DriftFigures:
        """Return the figures as JSON-able values."""
        return cast(DriftFigures, asdict(self) | {"worst": list(self.worst)})

"""Every pair of slides that hold the same places: what the two differ in, and PLISM's figures of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import cast

import numpy as np

from ..machine.progress import Progress, silent
from .feature_folder import load_features
from .plism import Slide, compare_places, prepare
from .plism_float16 import HalfSlide, compare_half, prepare_half
from .results import FIGURES, Pair
from .slides import SlideSet

_HELD = 1 << 30  # bytes of embeddings held at once


class ByPlace:
    """Every place's figures, averaged over the pairs of slides that are alike in something.

    The keys of `sums` (figures, places) and `pairs` are ("pairs", "scanner") and the other groups for what the two
    slides of a pair differ in, and ("scanner", name) and ("staining", name) for what one of them has.
    """

    def __init__(self) -> None:
        self.sums: dict[tuple[str, str], np.ndarray] = {}
        self.pairs: Counter[tuple[str, str]] = Counter()

    def add(self, group: str, looks: Sequence[tuple[str, str]], figures: np.ndarray) -> None:
        """Add a pair of slides, given as (staining, scanner) each, and `FIGURES` of every place (figures, places)."""
        keys = {("pairs", group), ("pairs", "all")} | {("staining", look[0]) for look in looks}
        for key in keys | {("scanner", look[1]) for look in looks}:
            self.sums[key] = self.sums.get(key, 0.0) + figures
            self.pairs[key] += 1

    def lost(self, other: ByPlace, figure: str, key: tuple[str, str]) -> np.ndarray:
        """Return how much less of a figure `other` has than this, by place (N)."""
        row = FIGURES.index(figure)
        lost: np.ndarray = (self.sums[key][row] - other.sums[key][row]) / self.pairs[key]
        return lost


@dataclass(frozen=True)
class Compared:
    """Every pair's figures, and every place's; `half` are the pairs' as plism-benchmark prints them, if asked for."""

    exact: list[Pair]
    places: ByPlace
    half: list[Pair]


def measure_slides(
    slides: SlideSet,
    files: Mapping[str, Path],
    dim: int,
    *,
    half: bool = False,
    device: str = "cpu",
    say: Progress = silent,
) -> Compared:
    """Return PLISM's figures of every pair of slides, from their files of features (see `feature_folder`).

    With `half`, those of plism-benchmark's float16 besides. Slides are compared block by block, so that no more than
    1 GiB of them is held.
    """
    of_slide = slides.places * dim * 4 * (1 + half)
    block = max(1, _HELD // (2 * of_slide))

    @lru_cache(maxsize=2 * block)
    def get(index: int) -> tuple[Slide, HalfSlide | None]:
        slide = slides.slides[index]
        embeddings = load_features(files[slide.name], slide, dim)
        exact = prepare(embeddings, slide.name, device=device)
        return exact, prepare_half(embeddings, slide.name, device=device) if half else None

    compared = Compared([], ByPlace(), [])
    looks = [(slide.staining, slide.scanner) for slide in slides.slides]
    everything = pairs(looks)
    ordered = sorted(everything, key=lambda pair: (pair[0] // block, pair[1] // block))
    for number, (i, j, group) in enumerate(ordered):
        of = {"of": [slides.slides[i].name, slides.slides[j].name], "group": group}
        (a, half_a), (b, half_b) = get(i), get(j)
        figures = compare_places(a, b)
        compared.exact.append(cast(Pair, of | dict(zip(FIGURES, figures.mean(1).tolist(), strict=True))))
        compared.places.add(group, (looks[i], looks[j]), figures)
        if half_a and half_b:
            compared.half.append(cast(Pair, of | compare_half(half_a, half_b)))
        say("compare", number + 1, len(ordered))
    return compared


def pairs(slides: Sequence[tuple[str, str]]) -> list[tuple[int, int, str]]:
    """Return every pair of slides, given as (staining, scanner), with the group it belongs to."""
    every = []
    for i, j in combinations(range(len(slides)), 2):
        same_staining, same_scanner = (slides[i][k] == slides[j][k] for k in (0, 1))
        # A second slide of one look is a pair of neither group; plism-benchmark has none.
        group = {(True, False): "scanner", (False, True): "staining", (False, False): "both"}.get(
            (same_staining, same_scanner), "neither"
        )
        every.append((i, j, group))
    return every

"""What `robustness`, `curves`, `probe` and `probe_hest` return: plain dicts, so that they are JSON as they are.

Figures are by model, `both_models.FULL` and `both_models.ARTIFACT`.
"""

from __future__ import annotations

from typing import Literal, TypedDict, get_args

from ..checks.results import GateRow
from ..tiles.source import Provenance, TilesOf

Figure = Literal["cosine", "top1", "top3", "top5", "top10"]
"""PLISM's (see `plism`)."""
FIGURES: tuple[Figure, ...] = get_args(Figure)


class Measured(TypedDict):
    """What every result says; each adds its `kind` and its figures."""

    name: str
    bundle: str
    ran_with: dict[str, str]
    cautions: list[str]
    notes: list[str]


class Verdict(TypedDict):
    """A result's gates, the verdict over all, and whether none was failed."""

    gates: list[GateRow]
    verdict: str
    passed: bool


class Slides(TypedDict):
    """A set of slides of the same places; `looks` has staining and scanner of each."""

    kind: str
    name: str
    slides: int
    places: int
    stainings: list[str]
    scanners: list[str]
    places_sha256: str
    looks: dict[str, list[str]]


class Pair(TypedDict):
    """Which two slides, in which group, and their figures."""

    of: list[str]
    group: str
    cosine: float
    top1: float
    top3: float
    top5: float
    top10: float


class Spread(TypedDict):
    """Of a figure over pairs: interquartile range and standard deviation (ddof 0) besides."""

    median: float
    iqr: float
    mean: float
    std: float


class Group(TypedDict):
    """A group of pairs: how many, and each figure's spread."""

    pairs: int
    cosine: Spread
    top1: Spread
    top3: Spread
    top5: Spread
    top10: Spread


class Robustness(Measured, Verdict):
    """What `robustness` returns: by model, each group's figures, PLISM's one number, and every pair's figures.

    With `float16` all of these are as plism-benchmark prints them; gates are of figures in float32.
    """

    kind: Literal["robustness"]
    slides: Slides
    float16: bool
    kept_slides: dict[str, int]
    figures: dict[str, dict[str, Group]]
    leaderboard: dict[str, float | None]
    pairs: dict[str, list[Pair]]


Degree = dict[str, float]
"""`cosine` and `own`, see `curves`."""


class Curve(TypedDict):
    """A perturbation's degrees, and what each model's embeddings do at each of them."""

    name: str
    unit: str
    degrees: list[float]
    figures: dict[str, list[Degree]]


class Curves(Measured):
    """What `curves` returns."""

    kind: Literal["curves"]
    source: Provenance
    skipped: list[tuple[str, str]]
    curves: list[Curve]


Scores = dict[str, dict[str, dict[str, float]]]
"""`classifiers.Score` as JSON by method and model."""


class Probed(Measured, Verdict):
    """What `probe` returns: scores, and the tiles whose prediction changed."""

    kind: Literal["probe"]
    source: Provenance
    skipped: list[tuple[str, str]]
    classes: dict[str, int]
    groups: int | None
    folds: int
    seed: int
    scores: Scores
    flips: list[dict[str, str]]


class Correlation(TypedDict):
    """Pearson's, mean over genes: mean and deviation over splits, and each split's."""

    pearson: float
    std: float
    splits: list[float]


Gene = TypedDict("Gene", {"gene": str, "full precision": float, "artifact": float, "lost": float})
"""A gene's correlation by model, mean over splits."""


class Scored(TypedDict):
    """A task's counts, its correlations by model, and each gene's."""

    task: str
    samples: int
    tiles: int
    splits: int
    scores: dict[str, Correlation]
    genes: list[Gene]


class Patches(TilesOf):
    """The benchmark's patches, as `TileSource.provenance` would say it."""

    sha256: str
    size: int
    resize: str


class Genes(Measured, Verdict):
    """What `probe_hest` returns: Pearson's correlation by model, and by task."""

    kind: Literal["genes"]
    source: Patches
    components: int
    pearson: dict[str, float]
    tasks: list[Scored]

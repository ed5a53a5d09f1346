"""What the checks return: plain dicts, so that they are JSON as they are, each with a `kind` that says what it is.

`bundle.json` is a `Report` with the hash of every file added.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

Facts = dict[str, Any]
"""What a model, a source of tiles, a recipe or a machine says of itself, as its `to_json` or `provenance` does."""


class DriftFigures(TypedDict):
    """`checks.drift.Drift` as JSON."""

    tiles: int
    cosine_mean: float
    cosine_p01: float
    cosine_min: float
    relative_l2: float
    neighbour_overlap: float
    neighbours: int
    worst: list[str]


class Drifts(TypedDict):
    """The four drifts; None where a side of one is not there."""

    quantization: DriftFigures | None
    lowering: DriftFigures | None
    noise_floor: DriftFigures | None
    total: DriftFigures | None


class GateRow(TypedDict):
    """`checks.gates.Gate` as JSON."""

    kind: str
    gate: str
    of: str
    measured: float
    required: float
    at_most: bool
    passed: bool


class Judged(TypedDict):
    """Drift, and the gates it was held against."""

    drift: Drifts
    gates: list[GateRow]


class JudgedElsewhere(Judged):
    """The same on tiles that were captured elsewhere, with their embeddings."""

    reference: str
    seen_in_calibration: int


class JudgedTiles(JudgedElsewhere):
    """The same on tiles the bundle had not seen, full precision run again; in what the artifact is not its program."""

    source: Facts
    skipped: list[tuple[str, str]]
    differences: list[str]


class Verification(TypedDict):
    """What `verify` returns."""

    kind: Literal["verification"]
    name: str
    bundle: str
    ran_with: str
    runtime: dict[str, str]
    cautions: list[str]
    notes: list[str]
    golden: Judged
    captured: JudgedElsewhere | None
    tiles: JudgedTiles | None
    passed: bool


class WorstTile(TypedDict):
    """A tile whose embedding lies far from the reference; `golden` is its place among the golden tiles."""

    tile: str
    golden: int
    cosine: float


class WorstTiles(TypedDict):
    """The tiles that lie farthest, farthest first; `of` says which drift."""

    of: Literal["total", "quantization"]
    tiles: list[WorstTile]


class Report(TypedDict):
    """What an export says of its bundle."""

    kind: Literal["export"]
    schema: int
    name: str
    passed: bool
    cautions: list[str]
    notes: list[str]
    drift: Drifts
    gates: list[GateRow]
    model: Facts
    weights: Facts
    recipe: Facts
    contract: Facts
    calibration: Facts | None
    qad: Facts | None
    program: dict[str, list[float]]
    held_out: Facts
    worst: WorstTiles
    skipped: list[list[str]]
    artifact: Facts
    ran_with: str | None
    runtime: dict[str, str] | None
    speed: Facts | None
    reference: str
    cost: Facts
    machine: Facts
    versions: dict[str, str]


class Pair(TypedDict):
    """Two bundles on the same tiles; `twins` is the share of tiles that find their own embedding by the other one."""

    of: list[str]
    tiles: int
    cosine_mean: float
    cosine_p01: float
    cosine_min: float
    relative_l2: float
    neighbour_overlap: float
    neighbours: int
    twins: float


class Comparison(TypedDict):
    """What `compare` returns."""

    kind: Literal["comparison"]
    bundles: dict[str, str]
    ran_with: dict[str, str]
    cautions: list[str]
    notes: list[str]
    source: Facts
    skipped: list[tuple[str, str]]
    noise_floor: float
    pairs: list[Pair]


class LayerFigures(TypedDict):
    """A layer beside its full-precision twin; `proof` is a `checks.layerwise.Proof`, None where nothing was proved."""

    layer: str
    input_max: float
    input_median_channel: float
    outlier_channels: int
    channels: int
    sqnr_db: float | None
    proof: Facts | None


class BlockFigures(TypedDict):
    """A transformer block's output beside full precision's."""

    block: int
    max: float
    fp16_headroom: float
    sqnr_db: float | None
    cls_cosine: float | None


class Counted(TypedDict):
    """How many parts a program has, and in what the artifact differs from it."""

    products: int
    norms: int
    differences: list[str]


class Debugging(TypedDict):
    """What `debug` returns."""

    kind: Literal["debugging"]
    name: str
    bundle: str
    tiles: Facts
    cautions: list[str]
    layers: list[LayerFigures]
    blocks: list[BlockFigures]
    parts: Counted
    unproved: list[str]

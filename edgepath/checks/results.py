"""What the checks return: plain dicts, so that they are JSON as they are, each with a `kind` that says what it is.

`bundle.json` is a `Report` with the hash of every file added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

from ..bundle.drift import DriftFigures
from ..tiles.origins import Dataset
from ..tiles.source import Provenance, TilesOf

if TYPE_CHECKING:
    from ..bundle.manifest import FileEntry
    from ..machine.hardware import Machine
    from ..machine.progress import Cost
    from ..models.weights import WeightsFacts
    from ..recipes.recipe import RecipeFacts


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
    verdict: str
    n: int | None
    unit: str
    interval: list[float | None] | None
    n_to_decide: int | None
    passed: bool


class PeakFigures(TypedDict):
    """The largest magnitude that an operation of a module made, and how many times it fits into FP16's largest."""

    place: str
    operation: str
    largest: float
    headroom: float


class HeadroomFigures(TypedDict):
    """What came nearest to FP16's largest number in the program, on so many tiles, nearest first.

    `rescaled` names the places that were brought down before, without another result (`program.rescaling`).
    """

    tiles: int
    nearest: list[PeakFigures]
    rescaled: list[str]


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

    source: Provenance
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
    verdict: str
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


class Calibration(Provenance, total=False):
    """The tiles that were calibrated on, and how many procedural ones besides."""

    looks: int
    datasets: list[Dataset]


class _HeldOut(Provenance):
    keys: list[str]


class HeldOut(_HeldOut, total=False):
    """The golden tiles, and the key of each."""

    datasets: list[Dataset]


class Artifact(TypedDict):
    """The file (or folder) that the runner loads, below the bundle."""

    file: str
    size_bytes: int


class Percentiles(TypedDict):
    """Of milliseconds."""

    p50: float
    p90: float
    p95: float | None
    p99: float | None


class Speed(TypedDict):
    """INT8 beside full precision in the same runtime at batch 1; `ratio` is the median of `ratios`, of `n` rounds."""

    ratio: float
    ratios: list[float]
    int8_ms: Percentiles
    full_precision_ms: Percentiles
    n: int
    threads: int
    pinned: str


class _Report(TypedDict):
    kind: Literal["export"]
    schema: int
    name: str
    verdict: str
    passed: bool
    cautions: list[str]
    notes: list[str]
    drift: Drifts
    gates: list[GateRow]
    headroom: HeadroomFigures | None
    model: dict[str, object]
    weights: WeightsFacts
    recipe: RecipeFacts
    contract: dict[str, object]
    calibration: Calibration | None
    qad: dict[str, float] | None
    program: dict[str, list[float]]
    held_out: HeldOut
    worst: WorstTiles
    skipped: list[list[str]]
    artifact: Artifact
    ran_with: str | None
    runtime: dict[str, str] | None
    speed: Speed | None
    reference: str
    cost: Cost
    machine: Machine
    versions: dict[str, str]


class Report(_Report, total=False):
    """What an export says of its bundle; `files` are there as soon as it is `bundle.json`."""

    files: dict[str, FileEntry]


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
    source: TilesOf
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
    proof: dict[str, float] | None


class BlockFigures(TypedDict):
    """A transformer block's output beside full precision's.

    `fp16_headroom` is the smallest in the block, of the operation that `nearest` names.
    """

    block: int
    max: float
    fp16_headroom: float
    nearest: str
    sqnr_db: float | None
    cls_cosine: float | None


class Counted(TypedDict):
    """How many parts a program has, and in what the artifact differs from it."""

    products: int
    norms: int
    differences: list[str]


class Counts(TypedDict):
    """What tiles are called, and how many there are."""

    name: str
    count: int


class NetworkFigures(TypedDict):
    """The TensorRT network of an artifact, computed in torch beside its program (`checks.networks`).

    Of its linears `int8` are INT8, `fp8` are FP8, `float` are neither; `differ` is how many 8-bit ones of the
    program are not in it to the bit. Cosines are to the program's embeddings; None where those of the network are not
    `finite`.
    """

    tiles: int
    layers: int
    int8: int
    fp8: int
    float: int
    differ: int
    finite: bool
    cosine_mean: float | None
    cosine_min: float | None


class Debugging(TypedDict):
    """What `debug` returns."""

    kind: Literal["debugging"]
    name: str
    bundle: str
    tiles: Counts
    cautions: list[str]
    layers: list[LayerFigures]
    blocks: list[BlockFigures]
    parts: Counted
    unproved: list[str]
    network: NetworkFigures | None

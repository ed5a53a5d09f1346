"""What `bench` returns and keeps: plain dicts, so that they are JSON as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict, cast

from ..checks.results import GateRow
from ..checks.results import Percentiles as Percentiles
from ..checks.verdicts import Verdict
from ..machine.hardware import Machine, machine, memory
from ..machine.packages import versions
from .pinning import Pinning

SCHEMA = 1


Kind = Literal["bundle", "full precision", "torch eager", "torch compiled", "peer", "reference", "earlier"]
"""What was timed: an artifact, its model in full precision in the same runtime or in PyTorch, what another tool made of
the model, a precision of the reference suite; or what an earlier result has."""


class Ratio(TypedDict):
    """`p50` is the median over rounds of ours / theirs; of another run, where the two were not timed in turn."""

    against: str
    kind: Kind
    p50: float
    same_run: bool


class _Timed(TypedDict):
    name: str
    kind: Kind
    batch: int
    threads: int
    n: int
    latency_ms: Percentiles
    samples_ms: list[float]
    tiles_per_s: float
    ratio: Ratio | None
    ratios: list[Ratio]


class Timed(_Timed, total=False):
    """A contender at one batch size; `peak_bytes` is a GPU's, of the reference suite."""

    peak_bytes: int | None


class Streamed(TypedDict):
    """Batches side by side, as many as the runtime has requests for."""

    name: str
    batch: int
    threads: int
    requests: int
    n: int
    tiles_per_s: float
    samples: list[float]


class ColdStart(TypedDict):
    """Seconds until the first embedding in fresh processes, medians; `cache`: with a model cache that was filled."""

    name: str
    cache: bool
    n: int
    import_s: float
    load_s: float
    first_s: float
    total_s: float
    samples_s: list[float]


class _Memory(TypedDict):
    name: str
    batch: int
    peak_bytes: int | None


class Memory(_Memory, total=False):
    """The largest resident set of a fresh process; `start_bytes` of it were there before the artifact was loaded."""

    start_bytes: int


class Operation(TypedDict):
    """Operations of one kind and precision: how many, and what they take."""

    type: str
    precision: str
    count: int
    ms: float
    share: float


class Operations(TypedDict):
    """Where an artifact's time goes, the longest first."""

    batch: int
    calls: int
    total_ms: float
    rows: list[Operation]


class Device(TypedDict):
    """What a device reported of a bundle."""

    name: str
    device: str
    ran_with: str
    measured_at: str
    batch: int
    n: int | None
    latency_ms: Percentiles
    ratio: Ratio | None


class Held(TypedDict):
    """A ratio, or a latency, beside what it was; the verdict on `times`, as a gate has it."""

    name: str
    batch: int
    of: str
    baseline: float
    now: float
    times: float
    verdict: str
    n: int | None
    interval: list[float | None] | None
    n_to_decide: int | None
    passed: bool


class Compared(TypedDict):
    """A result held against an earlier one."""

    baseline: str
    worse: float
    rows: list[Held]
    verdict: str
    passed: bool


class About(Machine, total=False):
    """The machine, how it was kept to some of its cores, and, of the reference suite, the device and its CUDA."""

    memory: str
    pinned: str
    device: str
    cuda: str | None


class _Bench(TypedDict):
    schema: int
    kind: Literal["bench", "reference"]
    bundles: list[dict[str, str]]
    cautions: list[str]
    notes: list[str]
    results: list[Timed]
    throughput: list[Streamed]
    cold_start: list[ColdStart]
    memory: list[Memory]
    operations: dict[str, Operations]
    size_bytes: dict[str, int]
    devices: list[Device]
    gates: list[GateRow]
    verdict: str
    passed: bool
    machine: About
    tiles: str
    warm_up: int
    rounds: int
    seconds: float
    versions: dict[str, str]


class Bench(_Bench, total=False):
    """What `bench` and `bench reference` return."""

    model: str
    weights: str
    runtimes: dict[str, str]
    compared: Compared


@dataclass(frozen=True)
class Effort:
    """How long is measured: rounds at most, seconds for each contender and batch at most, untimed calls before."""

    rounds: int
    seconds: float
    warm_up: int


def measured(
    kind: Literal["bench", "reference"],
    results: list[Timed],
    *,
    pinning: Pinning,
    effort: Effort,
    tiles: str,
    notes: Sequence[str],
    **more: Any,
) -> Bench:
    """Return a result: what was timed, on what and how; `more` are other keys of `Bench`, else they are empty."""
    result = {
        "schema": SCHEMA,
        "kind": kind,
        "bundles": [],
        "cautions": [],
        "throughput": [],
        "cold_start": [],
        "memory": [],
        "devices": [],
        "operations": {},
        "size_bytes": {},
        "gates": [],
        "verdict": Verdict.NON_INFERIOR.value,
        "passed": True,
        "machine": cast(About, machine() | {"memory": memory(), "pinned": pinning.how}),
        "tiles": tiles,
        "versions": versions(),
        **asdict(effort),
        "notes": list(notes),
        "results": results,
    }
    return cast(Bench, result | more)

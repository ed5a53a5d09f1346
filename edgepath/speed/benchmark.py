"""`bench`: bundles, their model in full precision, PyTorch, peers and other bundles, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..backends import find
from ..bundle.bundle import Bundle, open_bundle
from ..bundle.device_reports import device_reports
from ..checks.gates import Gate, all_passed, speed_gate, to_json, verdict_of
from ..errors import MissingRuntime, UsageError
from ..machine.progress import Progress, counter, silent
from ..machine.scratch import scratch
from .baseline import Elsewhere, read_result
from .contenders import Contender, bundle_contender
from .device import reported
from .fresh import cold_starts, peak_memory
from .operations import operations
from .pinning import Pinning, pinned
from .results import Bench, ColdStart, Effort, Memory, Ratio, Streamed, Timed, measured
from .rivals import KINDS, Rivals
from .timing import in_turn, percentiles, ratio, timed

BATCHES = (1, 4, 16)
STREAMED = 2  # batches for each request the runtime has


def bench(
    bundles: Sequence[str | Path | Bundle],
    *,
    against: Sequence[str | Path | Bundle] = (),
    batches: Sequence[int] = BATCHES,
    threads: int = 0,
    rounds: int = 40,
    seconds: float = 20.0,
    warm_up: int = 5,
    cold: int = 3,
    profile: bool = False,
    weights: str | Path | None = None,
    progress: Progress | None = None,
) -> Bench:
    """Time bundles on their golden tiles, in turn with what they are compared with.

    In each round everything is called once. Against `fp32`, an INT8 bundle is judged at batch 1 by its recipe's
    `accept.latency.of_full_precision`. Bundles of devices that are not here are not timed; what they reported is in
    `devices`.

    Args:
        bundles: The bundles to time.
        against: `fp32` (the model in full precision in the same runtime), `torch` (PyTorch, eager and compiled), `peer`
            (NNCF's default INT8 for OpenVINO, ONNX Runtime's own static and dynamic INT8), another bundle's folder, or
            a `.json` file of an earlier result.
        batches: Tiles in one call.
        threads: CPU threads and cores for all; 0: all cores.
        rounds: Rounds at most.
        seconds: Seconds at most for each candidate and batch size; there are three rounds at least.
        warm_up: Calls of each candidate that are not timed.
        cold: Fresh processes that measure cold start and memory; 0 leaves both out.
        profile: Also return how each bundle's time is divided among operations.
        weights: The weights that the bundle was exported from, where they were a file (`FILE::KEY`) or a folder.
        progress: Called as `progress(stage, done, total)` while it works.

    Returns:
        All figures, JSON-able. Times are in milliseconds, sizes in bytes.

    Raises:
        UsageError: Something cannot be compared.
        MissingRuntime: Nothing can be timed.
    """
    opened = [open_bundle(bundle) for bundle in bundles]
    named = dict(zip(_names(opened), opened, strict=True))
    _check_batches(batches)
    effort, say = Effort(rounds, seconds, warm_up), progress or silent
    files, kinds, others = _sorted(against, named)
    with pinned(threads) as pinning, ExitStack() as stack:
        field = _load(named, others, kinds, weights, pinning, stack, say)
        tiles = next(iter(named.values())).golden()[0]
        results, streamed = _time_all(field, files, tiles, batches, pinning, effort, say)
        inside = {
            name: operations(contender.backend, contender.artifact, tiles[:1], pinning.threads)
            for name, contender in (field.ours if profile else {}).items()
            if contender.artifact is not None
        }
        starts, memory = _fresh(field.every.values() if cold else (), tiles.shape[1], pinning, cold, batches, say)
    gates, models = _gates(named, results), {bundle.model for bundle in opened}
    return measured(
        "bench",
        results,
        pinning=pinning,
        effort=effort,
        tiles=f"{len(tiles)} golden tiles of {next(iter(named))}",
        notes=[*field.notes, *(note for file in files for note in file.notes(models, batches))],
        bundles=[{"name": name, "bundle": bundle.digest} for name, bundle in (named | others).items()],
        cautions=list(dict.fromkeys(text for bundle in opened for text in bundle.cautions)),
        throughput=streamed,
        operations=inside,
        size_bytes={
            name: contender.size_bytes for name, contender in field.every.items() if contender.size_bytes is not None
        },
        runtimes={name: contender.runtime for name, contender in field.every.items()},
        devices=[row for name, bundle in named.items() for row in reported(name, bundle, results, files)],
        gates=to_json(gates),
        verdict=verdict_of(to_json(gates)).value,
        passed=all_passed(gates),
        cold_start=starts,
        memory=memory,
    )


@dataclass(frozen=True)
class _Field:
    """Everything that is timed: bundles that run here, what each is held against, and what could not be measured."""

    ours: dict[str, Contender]
    held: dict[str, list[Contender]]
    notes: list[str]

    @property
    def every(self) -> dict[str, Contender]:
        return {
            contender.name: contender
            for contender in [*self.ours.values(), *(contender for few in self.held.values() for contender in few)]
        }


def _check_batches(batches: Sequence[int]) -> None:
    if not batches or min(batches) < 1 or len(set(batches)) < len(batches):
        raise UsageError(f"bench: --batch {', '.join(map(str, batches)) or 'none'}; give each once, from 1 on")


def _names(bundles: Sequence[Bundle]) -> list[str]:
    names = [bundle.name for bundle in bundles]
    if len({bundle.path.resolve() for bundle in bundles}) < len(bundles):
        raise UsageError("bench: a bundle was given twice; give every bundle once")
    return names if len(set(names)) == len(names) else [str(bundle.path) for bundle in bundles]


def _sorted(
    against: Sequence[str | Path | Bundle], named: Mapping[str, Bundle]
) -> tuple[list[Elsewhere], list[str], dict[str, Bundle]]:
    """Split what was given into files of results, kinds of rivals, and bundles by name."""
    files: list[Elsewhere] = []
    kinds: list[str] = []
    others: dict[str, Bundle] = {}
    for rival in against:
        if str(rival) in KINDS:
            kinds.append(str(rival))
        elif str(rival).endswith(".json"):
            files.append(read_result(Path(str(rival))))
        elif isinstance(rival, Bundle) or Path(rival).is_dir():
            bundle = open_bundle(rival)
            others[bundle.name if bundle.name not in named.keys() | others.keys() else str(bundle.path)] = bundle
        else:
            raise UsageError(
                f'bench: --against "{rival}"; give {", ".join(KINDS)}, the folder of a bundle, or a .json file of bench'
            )
    return files, list(dict.fromkeys(kinds)), others


def _load(
    named: Mapping[str, Bundle],
    others: Mapping[str, Bundle],
    kinds: Sequence[str],
    weights: str | Path | None,
    pinning: Pinning,
    stack: ExitStack,
    say: Progress,
) -> _Field:
    """Load what runs here; MissingRuntime for what does not, unless its devices have reported."""
    ours: dict[str, Contender] = {}
    untimed = []
    for name, bundle in named.items():
        try:
            ours[name] = bundle_contender(bundle, name, pinning.threads, stack)
        except MissingRuntime:
            if not any(report.get("latency") for report in device_reports(bundle)):
                raise
            untimed.append(f"{name}: its runtime is not here, so it was not timed; its devices' reports are shown.")
    folder = stack.enter_context(scratch("bench"))
    rivals = Rivals(pinning, weights, folder, stack, say)
    held = {name: rivals.of(named[name], kinds) for name in ours}
    for name, bundle in others.items():
        rival = bundle_contender(bundle, name, pinning.threads, stack)
        for few in held.values():
            few.append(rival)
    return _Field(ours, held, [*untimed, *rivals.notes])


def _time_all(
    field: _Field,
    files: Sequence[Elsewhere],
    tiles: np.ndarray,
    batches: Sequence[int],
    pinning: Pinning,
    effort: Effort,
    say: Progress,
) -> tuple[list[Timed], list[Streamed]]:
    results: list[Timed] = []
    streamed: list[Streamed] = []
    for batch in batches if field.every else ():
        times, streams = _time(field, tiles, batch, pinning.threads, effort, say)
        results += _results(times, field, files, batch, pinning.threads)
        streamed += streams
    return results, streamed


def _time(
    field: _Field, tiles: np.ndarray, batch: int, threads: int, effort: Effort, say: Progress
) -> tuple[dict[str, np.ndarray], list[Streamed]]:
    """Time everything at one batch size; return samples by name, and throughput where a runtime has streams."""
    given = np.resize(tiles, (batch, *tiles.shape[1:]))
    runs: dict[Any, Callable[[], object]] = {
        name: partial(contender.run, given) for name, contender in field.every.items()
    }
    with ExitStack() as stack:
        counts: dict[str, int] = {}
        for name, contender in field.ours.items():
            kind = find(contender.backend).load_runner()
            if contender.artifact is None or not hasattr(kind, "stream"):
                continue
            runner = stack.enter_context(kind(contender.artifact, threads=threads, hint="throughput"))
            counts[name] = runner.requests() * STREAMED
            runs["streams", name] = partial(runner.stream, [given] * counts[name])
        times = in_turn(runs, **asdict(effort), advance=counter(say, f"batch {batch}", effort.rounds))
    streamed = []
    for name, count in counts.items():
        rates = count * batch / times.pop(("streams", name)) * 1e3
        entry = {"name": name, "batch": batch, "threads": threads, "requests": count // STREAMED, "n": len(rates)}
        samples = [round(float(x), 3) for x in rates]
        entry |= {"tiles_per_s": round(float(np.median(rates)), 3), "samples": samples}
        streamed.append(cast(Streamed, entry))
    return times, streamed


def _results(
    times: Mapping[str, np.ndarray],
    field: _Field,
    files: Sequence[Elsewhere],
    batch: int,
    threads: int,
) -> list[Timed]:
    rows: list[Timed] = []
    every = field.every
    for name, samples in times.items():
        ratios: list[Ratio] = [
            {"against": rival.name, "kind": rival.kind, "p50": ratio(samples, times[rival.name]), "same_run": True}
            for rival in field.held.get(name, ())
        ]
        if name in field.held:
            ratios += [held for file in files for held in file.ratios(name, batch, percentiles(samples)["p50"])]
        rows.append(timed(name, every[name].kind, batch, threads, samples, ratios))
    return rows


def _fresh(
    every: Iterable[Contender], size: int, pinning: Pinning, cold: int, batches: Sequence[int], say: Progress
) -> tuple[list[ColdStart], list[Memory]]:
    files = [
        (contender, contender.artifact)
        for contender in every
        if contender.artifact and find(contender.backend).can_compare_full_precision
    ]
    starts: list[ColdStart] = []
    memory: list[Memory] = []
    for number, (contender, file) in enumerate(files):
        say("fresh processes", number, len(files))
        starts += cold_starts(contender.name, contender.backend, file, size=size, threads=pinning.threads, times=cold)
        memory += peak_memory(
            contender.name, contender.backend, file, size=size, threads=pinning.threads, batches=batches
        )
        say("fresh processes", number + 1, len(files))
    return starts, memory


def _gates(named: Mapping[str, Bundle], results: Sequence[Timed]) -> list[Gate]:
    """Judge INT8 bundles that were held against full precision at batch 1."""
    gates, samples = [], {(row["name"], row["batch"]): np.array(row["samples_ms"]) for row in results}
    for row in results:
        recipe = named[row["name"]].recipe if row["name"] in named else None
        if recipe is None or not recipe.int8 or row["batch"] != 1:
            continue
        full = [samples[rival["against"], 1] for rival in row["ratios"] if rival["kind"] == "full precision"]
        gates += [speed_gate(recipe, samples[row["name"], 1] / of, row["name"]) for of in full]
    return gates

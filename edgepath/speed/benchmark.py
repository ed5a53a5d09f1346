"""`bench`: bundles, their model in full precision, PyTorch, peers and other bundles, one after the other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import find
from ..bundle.bundle import Bundle, open_bundle
from ..checks.gates import Gate, all_passed, speed_gate, to_json
from ..errors import MissingRuntime, UsageError
from ..machine.hardware import machine, memory
from ..machine.packages import versions
from ..machine.progress import Progress
from ..recipes.recipe import Recipe
from .baseline import Elsewhere, read_result
from .contenders import Contender, bundle_contender
from .device import reported
from .fresh import cold_starts, peak_memory
from .operations import operations
from .pinning import Pinning, pinned
from .rivals import KINDS, Rivals, full_precision_name
from .timing import in_turn, percentiles, ratio

SCHEMA = 1
BATCHES = (1, 4, 16)
STREAMED = 2  # batches for each request the runtime has


def bench(
    bundles: Sequence[str | Path | Bundle],
    *,
    against: Sequence[str | Path] = (),
    batches: Sequence[int] = BATCHES,
    threads: int = 0,
    rounds: int = 40,
    seconds: float = 20.0,
    warm_up: int = 5,
    cold: int = 3,
    profile: bool = False,
    weights: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Time bundles on their golden tiles and return all figures, JSON-able.

    `against` names what each is held against, measured in the same rounds: `fp32` (the same model in full precision in
    the same runtime), `torch` (PyTorch, eager and compiled), `peer` (NNCF's default INT8 for OpenVINO, ONNX Runtime's
    own static and dynamic INT8) or the folder of another bundle; or a `.json` file of an earlier result, measured
    elsewhere. All but bundles and files load the full-precision model again, from `weights` where it was a file.

    For each of `batches` there are at most `rounds` rounds, fewer when `seconds` for each contender are used up (at
    least three), after `warm_up` calls of each. `threads` of 0 are all cores. `cold` is how many fresh processes each
    measure cold start; 0 leaves cold start and memory out. With `profile`, `operations` says where each bundle's time
    goes.

    Against `fp32`, an INT8 bundle is judged at batch 1 by its recipe's `accept.latency.of_full_precision`. Bundles of
    devices that are not here are not timed; what they reported is in `devices`.

    Raises UsageError for what cannot be compared, MissingRuntime where nothing can be timed.
    """
    opened = [bundle if isinstance(bundle, Bundle) else open_bundle(bundle) for bundle in bundles]
    named = dict(zip(_names(opened), opened, strict=True))
    if not batches or min(batches) < 1 or len(set(batches)) < len(batches):
        raise UsageError(f"bench: batches {', '.join(map(str, batches)) or 'none'}; give each once, from 1 on")
    say = progress or (lambda stage, done, total: None)
    files, kinds, others = _sorted(against, named)
    with pinned(threads) as pinning, ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgepath-bench-")))
        ours, untimed = _load(named, pinning, stack)
        rivals = Rivals(pinning, weights, scratch, stack, say)
        held: dict[str, list[Contender]] = {name: rivals.of(named[name], kinds) for name in ours}
        for name, bundle in others.items():
            rival = bundle_contender(bundle, name, pinning.threads, stack)
            for one in held.values():
                one.append(rival)
        every = {one.name: one for one in [*ours.values(), *(rival for few in held.values() for rival in few)]}
        tiles = next(iter(named.values())).golden()[0]
        results: list[dict[str, Any]] = []
        streamed: list[dict[str, Any]] = []
        for batch in batches if every else ():
            found = _time(every, ours, tiles, batch, pinning, rounds, seconds, warm_up, say)
            results += _results(found, held, files, batch, pinning.threads)
            streamed += found[1]
        inside = {
            name: operations(one.backend, one.artifact, tiles[:1], pinning.threads)
            for name, one in (ours if profile else {}).items()
            if one.artifact is not None
        }
        fresh = _fresh(every.values() if cold else (), tiles.shape[1], pinning, cold, batches, say)
    gates = _gates(named, results)
    return {
        "schema": SCHEMA,
        "kind": "bench",
        "bundles": [{"name": name, "bundle": bundle.digest} for name, bundle in (named | others).items()],
        "cautions": list(dict.fromkeys(text for bundle in opened for text in bundle.manifest["cautions"])),
        "notes": [*untimed, *rivals.notes, *(note for file in files for note in file.notes(_models(opened), batches))],
        "results": results,
        "throughput": streamed,
        **fresh,
        "operations": inside,
        "size_bytes": {name: one.size_bytes for name, one in every.items() if one.size_bytes is not None},
        "runtimes": {name: one.runtime for name, one in every.items()},
        "devices": [row for name, bundle in named.items() for row in reported(name, bundle, results, files)],
        "gates": to_json(gates),
        "passed": all_passed(gates),
        "machine": machine() | {"memory": memory(), "pinned": pinning.how},
        "tiles": f"{len(tiles)} golden tiles of {next(iter(named))}",
        "warm_up": warm_up,
        "rounds": rounds,
        "seconds": seconds,
        "versions": versions(),
    }


def _models(bundles: Sequence[Bundle]) -> set[str]:
    return {bundle.manifest["model"]["name"] for bundle in bundles}


def _names(bundles: Sequence[Bundle]) -> list[str]:
    names = [bundle.name for bundle in bundles]
    if len({bundle.path.resolve() for bundle in bundles}) < len(bundles):
        raise UsageError("bench: a bundle was given twice; give every bundle once")
    return names if len(set(names)) == len(names) else [str(bundle.path) for bundle in bundles]


def _sorted(
    against: Sequence[str | Path], named: Mapping[str, Bundle]
) -> tuple[list[Elsewhere], list[str], dict[str, Bundle]]:
    """Split what was given into files of results, kinds of rivals, and bundles by name."""
    files: list[Elsewhere] = []
    kinds: list[str] = []
    others: dict[str, Bundle] = {}
    for one in against:
        if str(one) in KINDS:
            kinds.append(str(one))
        elif str(one).endswith(".json"):
            files.append(read_result(Path(one)))
        elif Path(one).is_dir():
            bundle = open_bundle(one)
            others[bundle.name if bundle.name not in named.keys() | others.keys() else str(one)] = bundle
        else:
            raise UsageError(
                f'bench: against "{one}"; give {", ".join(KINDS)}, the folder of a bundle, or a .json file of bench'
            )
    return files, list(dict.fromkeys(kinds)), others


def _load(named: Mapping[str, Bundle], pinning: Pinning, stack: ExitStack) -> tuple[dict[str, Contender], list[str]]:
    """Load what runs here; MissingRuntime for what does not, unless its devices have reported."""
    from ..bundle.device_reports import device_reports

    loaded: dict[str, Contender] = {}
    untimed = []
    for name, bundle in named.items():
        try:
            loaded[name] = bundle_contender(bundle, name, pinning.threads, stack)
        except MissingRuntime:
            if not device_reports(bundle):
                raise
            untimed.append(f"{name}: its runtime is not here, so it was not timed; its devices' reports are shown.")
    return loaded, untimed


def _time(
    every: Mapping[str, Contender],
    ours: Mapping[str, Contender],
    tiles: np.ndarray,
    batch: int,
    pinning: Pinning,
    rounds: int,
    seconds: float,
    warm_up: int,
    say: Progress,
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Time everything at one batch size; return samples by name, and throughput where a runtime has streams."""
    given = np.resize(tiles, (batch, *tiles.shape[1:]))
    runs: dict[Any, Callable[[], object]] = {name: partial(one.run, given) for name, one in every.items()}
    with ExitStack() as stack:
        counts: dict[str, int] = {}
        for name, one in ours.items():
            kind = find(one.backend).load_runner()
            if one.artifact is None or not hasattr(kind, "stream"):
                continue
            runner = stack.enter_context(kind(one.artifact, threads=pinning.threads, hint="throughput"))
            counts[name] = runner.requests() * STREAMED
            runs["streams", name] = partial(runner.stream, [given] * counts[name])
        times = in_turn(
            runs,
            rounds=rounds,
            seconds=seconds,
            warm_up=warm_up,
            progress=lambda done, total: say(f"batch {batch}", done, total),
        )
    streamed = []
    for name, count in counts.items():
        rates = count * batch / times.pop(("streams", name)) * 1e3
        rate = round(float(np.median(rates)), 3)
        entry = {"name": name, "batch": batch, "threads": pinning.threads, "requests": count // STREAMED}
        streamed.append(entry | {"n": len(rates), "tiles_per_s": rate, "samples": [round(float(x), 3) for x in rates]})
    return times, streamed


def _results(
    found: tuple[dict[str, np.ndarray], Any],
    held: Mapping[str, Sequence[Contender]],
    files: Sequence[Elsewhere],
    batch: int,
    threads: int,
) -> list[dict[str, Any]]:
    rows = []
    for name, samples in found[0].items():
        latency = percentiles(samples)
        ratios = [
            {"against": rival.name, "p50": ratio(samples, found[0][rival.name]), "same_run": True}
            for rival in held.get(name, ())
        ]
        if name in held:
            ratios += [one for file in files for one in file.ratios(name, batch, latency["p50"])]
        rows.append(
            {
                "name": name,
                "batch": batch,
                "threads": threads,
                "n": len(samples),
                "latency_ms": latency,
                "samples_ms": [round(float(sample), 4) for sample in samples],
                "tiles_per_s": round(batch / latency["p50"] * 1e3, 3),
                "ratio": ratios[0] if ratios else None,
                "ratios": ratios,
            }
        )
    return rows


def _fresh(
    every: Any, size: int, pinning: Pinning, cold: int, batches: Sequence[int], say: Progress
) -> dict[str, list[dict[str, Any]]]:
    files = [one for one in every if one.artifact is not None and find(one.backend).can_compare_full_precision]
    starts: list[dict[str, Any]] = []
    memory: list[dict[str, Any]] = []
    for number, one in enumerate(files):
        say("fresh processes", number, len(files))
        starts += cold_starts(
            one.name, one.backend, one.artifact, size=size, threads=pinning.threads, times=cold, progress=lambda: None
        )
        memory += peak_memory(one.name, one.backend, one.artifact, size=size, threads=pinning.threads, batches=batches)
        say("fresh processes", number + 1, len(files))
    return {"cold_start": starts, "memory": memory}


def _gates(named: Mapping[str, Bundle], results: Sequence[Mapping[str, Any]]) -> list[Gate]:
    """Judge INT8 bundles that were held against full precision at batch 1."""
    gates = []
    for row in results:
        recipe = Recipe.from_json(named[row["name"]].manifest["recipe"]) if row["name"] in named else None
        if recipe is None or not recipe.int8 or row["batch"] != 1:
            continue
        whole = full_precision_name(named[row["name"]])
        gates += [
            speed_gate(recipe, one["p50"], row["name"]) for one in row["ratios"] if one["against"].startswith(whole)
        ]
    return gates

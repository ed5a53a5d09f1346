"""Does the artifact still see what the full-precision model sees? On its golden tiles, and on tiles it never met."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import backends
from .bundle import Bundle, Runner, load_artifact, open_bundle
from .doctor import require
from .drift import measure
from .errors import BundleError, MissingRuntime, TileError, UsageError
from .exporting import embed_all
from .golden import Golden, open_golden
from .images import tile_sha256
from .parts import require_reader
from .quantizing import BATCH, PROGRAM, quantized, with_scores
from .recipe import Recipe
from .report import drifts, gates, notes, parts_gate
from .stages import Progress
from .tiles import TileSource, open_tiles

_LINES = 5  # of what differs
_EVALUATOR_NEEDS = ("torch", "coremltools")


def verify(
    bundle: str | Path | Bundle,
    *,
    tiles: str | Path | Sequence[str | Path] | None = None,
    weights: str | Path | None = None,
    golden: str | Path | None = None,
    resize: str = "refuse",
    skip_bad: bool = False,
    threads: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a bundle's artifact, measure its drift and apply its recipe's gates; return the figures, JSON-able.

    Always on the golden tiles in the bundle (torch is not needed for that, but where Core ML is evaluated it is). With
    `tiles`, also on those: the full-precision model is loaded again (from `weights` where the bundle was made from a
    file) and must have the hash the bundle names. `golden` is a set that `reference capture` wrote, on a GPU perhaps:
    drift is measured on its tiles too, against its embeddings. `result["passed"]` is the verdict.

    An artifact whose device is not here runs with what the recipe checks it with (a Jetson's graph with ONNX Runtime, a
    Core ML package with an evaluator of its operations), and `result["ran_with"]` says so.

    Raises BundleError for a bundle that is altered or incomplete, MissingRuntime where nothing here can run it.
    """
    if weights is not None and tiles is None:
        raise UsageError("verify: weights are only needed for tiles; give --tiles too, or leave out --weights")
    bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    recipe = Recipe.from_json(bundle.manifest["recipe"])
    say = progress or (lambda stage, done, total: None)
    captured = None if golden is None else open_golden(golden, bundle)
    source = None
    if tiles is not None:
        require("torch", "export")
        require_reader(bundle.artifact)
        source = open_tiles(tiles, size=bundle.manifest["contract"]["size"], resize=resize, skip_bad=skip_bad)
    with open_runner(bundle, recipe, threads) as runner:
        own = _golden(bundle, recipe, runner, say)
        other = None if captured is None else _captured(bundle, recipe, captured, runner, say)
        fresh = None if source is None else _fresh(bundle, recipe, runner, source, weights, device, say)
        ran_with = runner.runtime
    parts = [part for part in (own, other, fresh) if part is not None]
    return {
        "name": bundle.name,
        "bundle": bundle.digest,
        "ran_with": ran_with,
        "cautions": bundle.manifest["cautions"],
        "notes": notes(recipe, ran_with) + _of_tiles(fresh) + _of_captured(other),
        "golden": own,
        "captured": other,
        "tiles": fresh,
        "passed": all(gate["passed"] for part in parts for gate in part["gates"]),
    }


def _of_tiles(fresh: dict[str, Any] | None) -> list[str]:
    """What a reader must know of the given tiles."""
    if not fresh:
        return []
    said = [f"The artifact is not its program: {line}." for line in fresh["differences"][:_LINES]]
    if seen := fresh["seen_in_calibration"]:
        of = f"{seen} of the {fresh['source']['count']} given tiles were calibrated on"
        said.append(f"{of}: they say nothing about tiles the device will see.")
    return said


def _of_captured(captured: dict[str, Any] | None) -> list[str]:
    seen = captured["seen_in_calibration"] if captured else 0
    return [f"{seen} of the captured tiles were calibrated on: they say little about others."] if seen else []


def open_runner(bundle: Bundle, recipe: Recipe, threads: int = 0) -> Runner:
    """Load the artifact with its own runtime or, where that cannot run here, with the one its recipe checks it with.

    `threads` is for runtimes of CPUs; those of devices have no such option.
    """
    options = {"threads": threads} if threads else {}
    try:
        return bundle.runner(**(options if recipe.backend in backends.WITH_THREADS else {}))
    except MissingRuntime:
        if recipe.checked_with in ("none", recipe.backend):
            raise
    if recipe.checked_with == "mil":
        for package in _EVALUATOR_NEEDS:
            require(package, "coreml")
    return load_artifact(bundle, recipe.checked_with, **options)


def _golden(bundle: Bundle, recipe: Recipe, runner: Runner, say: Progress) -> dict[str, Any]:
    tiles, reference = bundle.golden()
    embeddings = {
        "reference": reference,
        "program": bundle.golden_embeddings("program"),
        "artifact": embed_all(runner, tiles, counter(say, "golden tiles", len(tiles))),
    }
    drift = drifts(embeddings, bundle.manifest["held_out"]["keys"])
    drift["noise_floor"] = bundle.manifest["drift"]["noise_floor"]  # the program's own, wherever the artifact runs
    return {"drift": drift, "gates": gates(recipe, drift)}


def _captured(bundle: Bundle, recipe: Recipe, captured: Golden, runner: Runner, say: Progress) -> dict[str, Any]:
    """Measure drift against embeddings that were captured elsewhere."""
    advance = counter(say, "captured tiles", len(captured.tiles))
    embeddings = {"reference": captured.embeddings, "artifact": embed_all(runner, captured.tiles, advance)}
    drift = drifts(embeddings, captured.keys)
    return {
        "reference": captured.facts["runtime"],
        "seen_in_calibration": sum(tile_sha256(tile) in calibrated_on(bundle) for tile in captured.tiles),
        "drift": drift,
        "gates": gates(recipe, drift),
    }


def _fresh(
    bundle: Bundle,
    recipe: Recipe,
    runner: Runner,
    source: TileSource,
    weights_from: str | Path | None,
    device: str,
    say: Progress,
) -> dict[str, Any]:
    """Measure drift on tiles the bundle has not seen; the program is rebuilt from the weights and `ranges.npz`."""
    from .lowering import Program
    from .parts import differences
    from .reference import pick_device, reference_embeddings

    device = pick_device(device)
    vit, spec, weights = same_weights(bundle, weights_from)
    contract = bundle.manifest["contract"]
    reference = reference_embeddings(
        vit,
        spec,
        weights,
        source,
        embedding=contract["embedding"],
        device=device,
        progress=counter(say, "reference", len(source)),
    )
    net = rebuild(bundle, recipe, vit, spec)
    program = Program(net, recipe)
    _check_same_program(bundle, program)
    differing = differences(program.lowered, bundle.artifact)
    runs: dict[str, Callable[[np.ndarray], np.ndarray]] = {"program": program, "artifact": runner}
    rows: dict[str, list[np.ndarray]] = {name: [] for name in (*runs, "nudged")}
    keys: list[str] = []
    advance = counter(say, "program and artifact", len(source))
    for batch in source.batches(BATCH):
        for name, run in runs.items():
            rows[name].append(run(batch.pixels))
        if not keys:
            rows["nudged"].append(program.nudged(batch.pixels))
        keys += batch.keys
        advance(len(batch.keys))
    if tuple(keys) != reference.keys:
        raise TileError(f"tiles {source.name}: changed while they were read; run again")
    drift = drifts(
        {"reference": reference.embeddings} | {name: np.concatenate(part) for name, part in rows.items()}, keys
    )
    return {
        "source": source.provenance(),
        "seen_in_calibration": seen_in_calibration(bundle, source),
        "skipped": source.skipped,
        "reference": reference.runtime,
        "drift": drift,
        "gates": [*gates(recipe, drift), parts_gate(differing)],
        "differences": differing,
    }


def rebuild(bundle: Bundle, recipe: Recipe, vit: Any, spec: Any, *, smoothed_only: bool = False) -> Any:
    """Return a bundle's program from its model, or with `smoothed_only` its full-precision twin, layer for layer.

    Raises BundleError where ranges or scales are not those that the bundle names.
    """
    from .passes.fold import fold
    from .passes.smooth import smooth

    contract = bundle.manifest["contract"]
    net = fold(vit, spec, embedding=contract["embedding"], tokens=contract["tokens"])
    if not recipe.int8:
        _check_same_scales(bundle, net)  # it has none
        return net
    try:
        if smoothed_only:
            smooth(net, _ranges(bundle), alpha=recipe.quantize.smooth_alpha)
            return net
        net = _quantized(bundle, recipe, net)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:  # ranges of other layers, shapes or types
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise BundleError(f"bundle {bundle.path}: its program cannot be rebuilt ({why}); export it again") from None
    _check_same_scales(bundle, net)
    return net


def same_weights(bundle: Bundle, weights_from: str | Path | None) -> tuple[Any, Any, Any]:
    """Load the full-precision model, and make sure it is the one the bundle was made from."""
    from .models import ModelSpec
    from .weights import load_model

    recorded = bundle.manifest["weights"]
    if weights_from is None and recorded["random"]:
        weights_from = "random"
    try:
        known = ModelSpec.from_json(bundle.manifest["model"])
    except (TypeError, KeyError, ValueError) as error:
        raise BundleError(f"bundle {bundle.path}: its manifest describes no model ({error}); export it again") from None
    vit, spec, weights = load_model(known, weights_from)
    if weights.sha256 != recorded["sha256"]:
        raise UsageError(
            f"verify {bundle.name}: its weights are {recorded['source']} (sha256 {recorded['sha256'][:12]}), "
            f"{weights.source} has sha256 {weights.sha256[:12]}; give the same weights with --weights"
        )
    return vit, spec, weights


def seen_in_calibration(bundle: Bundle, source: TileSource) -> int:
    """Count the tiles of `source` whose pixels the bundle was calibrated on."""
    calibrated = calibrated_on(bundle)
    return sum(source.digests.get(key) in calibrated for key in source.keys)


def calibrated_on(bundle: Bundle) -> set[str]:
    """Return the sha256 of the pixels of every tile a bundle was calibrated on."""
    listed = bundle.path / "calibration.csv"
    if not listed.exists():  # nothing was calibrated
        return set()
    try:
        with open(listed, encoding="utf-8", newline="") as file:
            return {row["sha256_pixels"] for row in csv.DictReader(file)}
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise BundleError(f"bundle {bundle.path}: calibration.csv cannot be read ({error}); export it again") from None


def _quantized(bundle: Bundle, recipe: Recipe, net: Any) -> Any:
    """Rebuild the program: from the ranges, or where training changed it, from its own numbers."""
    from .passes.quantize import load_program

    ranges = _ranges(bundle)
    if not (bundle.path / PROGRAM).exists():
        return with_scores(recipe, quantized(recipe, net, ranges), ranges)
    try:
        return with_scores(recipe, load_program(net, bundle.path / PROGRAM), ranges)
    except ValueError as error:
        raise BundleError(f"bundle {bundle.path}: {PROGRAM} is not of its model ({error}); export it again") from None


def _ranges(bundle: Bundle) -> Any:
    from .passes.calibrate import Ranges

    try:
        ranges = Ranges.load(bundle.path / "ranges.npz")
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise BundleError(f"bundle {bundle.path}: ranges.npz cannot be read ({error}); export it again") from None
    numbers = [
        *ranges.absmax.values(),
        *map(np.array, (*ranges.limits.values(), *ranges.strengths.values(), *ranges.scores.values())),
    ]
    if not all(np.isfinite(values).all() and (values >= 0).all() for values in numbers):
        raise BundleError(f"bundle {bundle.path}: ranges.npz holds numbers that are no magnitudes; export it again")
    return ranges


def _check_same_scales(bundle: Bundle, net: Any) -> None:
    """Raise BundleError unless the rebuilt program has the scales that the bundle names, layer by layer."""
    from .passes.quantize import scales

    recorded, found = bundle.manifest["program"], scales(net)
    for name in sorted(recorded.keys() | found.keys()):
        named, rebuilt = recorded.get(name), found.get(name)
        known = isinstance(named, list) and rebuilt is not None and len(named) == len(rebuilt)
        if not known or not np.allclose(named or [], rebuilt or [], rtol=5e-3, atol=0):  # FP16 itself steps by 1e-3
            raise BundleError(
                f"bundle {bundle.path}: its program cannot be rebuilt (scales of {name}: {rebuilt}, its manifest says "
                f"{named}); export it again"
            )


def _check_same_program(bundle: Bundle, program: Callable[[np.ndarray], np.ndarray]) -> None:
    """Raise BundleError unless the rebuilt program is the bundle's own, as near as rounding allows."""
    tiles, _ = bundle.golden()
    found = measure(bundle.golden_embeddings("program")[:BATCH], program(tiles[:BATCH]))
    floor = bundle.manifest["drift"]["noise_floor"]["cosine_mean"]
    if 1 - found.cosine_mean > 10 * (1 - floor) + 1e-6:  # another machine sums in another order
        raise BundleError(
            f"bundle {bundle.path}: its program cannot be rebuilt (cosine {found.cosine_mean:.6f} on golden tiles): "
            "ranges.npz was altered, or this edgepath quantizes in another way: export it again"
        )


def counter(say: Progress, stage: str, total: int) -> Callable[[int], None]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        say(stage, done, total)

    return advance

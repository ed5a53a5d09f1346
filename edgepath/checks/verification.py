"""Does the artifact still see what the full-precision model sees? On its golden tiles, and on tiles it never met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import backends
from ..backends.reading import require_reader
from ..bundle.bundle import Bundle, Runner, calibrated_on, open_bundle, seen_in_calibration
from ..bundle.running import BATCH, embed_all, open_runner
from ..errors import BundleError, TileError, UsageError
from ..machine.packages import require
from ..machine.progress import Progress, counter, silent
from ..program.rebuilding import rebuild, same_weights
from ..recipes.recipe import Recipe
from ..tiles.images import tile_sha256
from ..tiles.opening import open_tiles
from ..tiles.source import TileSource
from .drift import measure
from .gates import headroom_gate, parts_gate, to_json, verdict_of
from .golden import Golden, open_golden
from .results import Judged, JudgedElsewhere, JudgedTiles, Verification
from .summary import drifts, headroom_figures, judge_drift, notes

if TYPE_CHECKING:
    from ..machine.progress import Advance
    from ..models.reference import Reference
    from ..program.forms import Program

_LINES = 5  # of what differs


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
    trust: str | Path | None = None,
    signature: str | Path | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Run a bundle's artifact, measure its drift and apply its recipe's gates.

    The golden tiles in the bundle are always measured. PyTorch is not needed for that, except where Core ML is
    evaluated. An artifact whose device is not here runs with what its recipe checks it with, and `result["ran_with"]`
    says so.

    Args:
        bundle: A bundle folder, or a bundle that `open_bundle` returned.
        tiles: Measure on these too. The full-precision model is loaded again, and must have the hash that the bundle
            names.
        weights: The weights that the bundle was exported from, where they were a file (`FILE::KEY`) or a folder.
        golden: A file of `reference capture`: drift is measured on its tiles too, against its embeddings.
        resize: What to do with tiles of another size: "refuse", "squash", or "crop" the centre.
        skip_bad: Leave out tiles that cannot be read, and list them in `skipped`.
        threads: CPU threads of the artifact's runtime; 0 lets it choose.
        device: Where the full-precision model runs: `auto`, `cpu`, `cuda` or `cuda:INDEX`.
        trust: A public key or certificate: a bundle that its owner did not sign is refused, as by `open_bundle`.
        signature: Where the signature lies, if not beside the bundle.
        progress: Called as `progress(stage, done, total)` while it works.

    Returns:
        The figures and gates of each set of tiles, JSON-able; `result["passed"]` is the verdict.

    Raises:
        BundleError: The bundle is altered or incomplete.
        MissingRuntime: Nothing here can run it.
        UsageError: Options contradict each other, or the weights are not the bundle's.
    """
    if weights is not None and tiles is None:
        raise UsageError("verify: --weights is only needed with --tiles; give --tiles too, or leave out --weights")
    bundle, say = open_bundle(bundle, trust=trust, signature=signature), progress or silent
    recipe = bundle.recipe
    captured = None if golden is None else open_golden(golden, bundle)
    source = None if tiles is None else _open_tiles(bundle, tiles, resize, skip_bad)
    with open_runner(bundle, recipe, threads) as runner:
        own = _golden(bundle, recipe, runner, say)
        other = None if captured is None else _captured(bundle, recipe, captured, runner, say)
        fresh = None if source is None else _fresh(bundle, recipe, runner, source, weights, device, say)
        runtime = backends.ran_by(runner)
    gates = [gate for part in (own, other, fresh) if part is not None for gate in part["gates"]]
    return {
        "kind": "verification",
        "name": bundle.name,
        "bundle": bundle.digest,
        "ran_with": runtime.text,
        "runtime": runtime.to_json(),
        "cautions": list(bundle.cautions),
        "notes": notes(recipe, runtime) + _of_tiles(fresh) + _of_captured(other),
        "golden": own,
        "captured": other,
        "tiles": fresh,
        "verdict": verdict_of(gates).value,
        "passed": all(gate["passed"] for gate in gates),
    }


def _open_tiles(bundle: Bundle, tiles: str | Path | Sequence[str | Path], resize: str, skip_bad: bool) -> TileSource:
    """Open tiles that the bundle has not seen; MissingRuntime where its program cannot be rebuilt here."""
    require("torch", "export")
    require_reader(bundle.artifact, bundle.backend)
    return open_tiles(tiles, size=bundle.size, resize=resize, skip_bad=skip_bad).kept()


def _of_tiles(fresh: JudgedTiles | None) -> list[str]:
    """What a reader must know of the given tiles."""
    if not fresh:
        return []
    lines = [f"The artifact is not its program: {line}." for line in fresh["differences"][:_LINES]]
    if seen := fresh["seen_in_calibration"]:
        of = f"{seen} of the {fresh['source']['count']} given tiles were calibrated on"
        lines.append(f"{of}: they say nothing about tiles the device will see.")
    return lines


def _of_captured(captured: JudgedElsewhere | None) -> list[str]:
    seen = captured["seen_in_calibration"] if captured else 0
    return [f"{seen} of the captured tiles were calibrated on: they say little about others."] if seen else []


def _golden(bundle: Bundle, recipe: Recipe, runner: Runner, say: Progress) -> Judged:
    tiles, reference = bundle.golden()
    embeddings = {
        "reference": reference,
        "program": bundle.golden_embeddings("program"),
        "artifact": embed_all(runner, tiles, counter(say, "golden tiles", len(tiles))),
    }
    drift = drifts(embeddings, bundle.held_out)
    drift["noise_floor"] = bundle.noise_floor.to_json()  # the program's own, wherever the artifact runs
    return {"drift": drift, "gates": to_json(judge_drift(recipe, embeddings))}


def _captured(bundle: Bundle, recipe: Recipe, captured: Golden, runner: Runner, say: Progress) -> JudgedElsewhere:
    """Measure drift against embeddings that were captured elsewhere."""
    advance = counter(say, "captured tiles", len(captured.tiles))
    embeddings = {"reference": captured.embeddings, "artifact": embed_all(runner, captured.tiles, advance)}
    drift = drifts(embeddings, captured.keys)
    return {
        "reference": captured.facts["runtime"],
        "seen_in_calibration": sum(tile_sha256(tile) in calibrated_on(bundle) for tile in captured.tiles),
        "drift": drift,
        "gates": to_json(judge_drift(recipe, embeddings)),
    }


def _fresh(
    bundle: Bundle,
    recipe: Recipe,
    runner: Runner,
    source: TileSource,
    weights_from: str | Path | None,
    device: str,
    say: Progress,
) -> JudgedTiles:
    """Measure drift on tiles the bundle has not seen; the program is rebuilt from the weights and `ranges.npz`."""
    from ..machine.hardware import pick_device
    from ..models.reference import reference_embeddings
    from ..program.forms import Program
    from .parts import differences

    device = pick_device(device)
    vit, spec, weights = same_weights(bundle, weights_from)
    reference = reference_embeddings(
        vit,
        spec,
        weights,
        source,
        embedding=bundle.contract.embedding,
        device=device,
        progress=counter(say, "reference", len(source)),
    )
    net = rebuild(bundle, recipe, vit, spec)
    program = Program(net, recipe)
    check_same_program(bundle, Program(net))
    differing = differences(program.lowered, bundle.artifact, bundle.backend)
    embeddings = _embed(program, runner, source, reference, counter(say, "program and artifact", len(source)))
    near = [headroom_gate(recipe, headroom_figures(program.peaks, len(source)))] if program.peaks else []
    drift = drifts(embeddings, reference.keys)
    return {
        "source": source.provenance(),
        "seen_in_calibration": seen_in_calibration(bundle, source),
        "skipped": source.skipped,
        "reference": reference.runtime,
        "drift": drift,
        "gates": to_json([*judge_drift(recipe, embeddings), parts_gate(differing), *near]),
        "differences": [str(difference) for difference in differing],
    }


def _embed(
    program: Program, runner: Runner, source: TileSource, reference: Reference, advance: Advance
) -> dict[str, np.ndarray]:
    """Embed tiles with program and artifact, and the first few with the program nudged."""
    rows: dict[str, list[np.ndarray]] = {"program": [], "artifact": [], "nudged": []}
    keys: list[str] = []
    for batch in source.batches(BATCH):
        rows["program"].append(program(batch.pixels))
        rows["artifact"].append(runner(batch.pixels))
        if not keys:
            rows["nudged"].append(program.nudged(batch.pixels))
        keys += batch.keys
        advance(len(batch.keys))
    if tuple(keys) != reference.keys:
        raise TileError(f"tiles {source.name}: changed while they were read; run again")
    return {"reference": reference.embeddings} | {name: np.concatenate(part) for name, part in rows.items()}


def check_same_program(bundle: Bundle, program: Callable[[np.ndarray], np.ndarray]) -> None:
    """Raise BundleError unless the rebuilt program is the bundle's own, as near as rounding allows."""
    tiles, _ = bundle.golden()
    drift = measure(bundle.golden_embeddings("program")[:BATCH], program(tiles[:BATCH]))
    floor = bundle.noise_floor.cosine_mean
    if 1 - drift.cosine_mean > 10 * (1 - floor) + 1e-6:  # another machine sums in another order
        raise BundleError(
            f"bundle {bundle.path}: its program cannot be rebuilt (cosine {drift.cosine_mean:.6f} on golden tiles): "
            "ranges.npz was altered, or this edgepath quantizes in another way: export it again"
        )

"""Does the artifact still see what the full-precision model sees? On its golden tiles, and on tiles it never met."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .bundle import Bundle, open_bundle
from .doctor import require
from .errors import BundleError, UsageError
from .exporting import Progress
from .recipe import Recipe
from .report import drifts, gates
from .tiles import TileSource, open_tiles

BATCH = 8


def verify(
    bundle: str | Path | Bundle,
    *,
    tiles: str | Path | None = None,
    weights: str | Path | None = None,
    resize: str = "refuse",
    skip_bad: bool = False,
    threads: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a bundle's artifact, measure its drift and apply its recipe's gates; return the figures, JSON-able.

    Always on the golden tiles in the bundle (torch is not needed for that). With `tiles`, also on those: the
    full-precision model is loaded again (from `weights` where the bundle was made from a file) and must have the hash
    the bundle names. `result["passed"]` is the verdict. Raises BundleError for a bundle that is altered or incomplete,
    MissingRuntime where the artifact cannot run on this machine.
    """
    bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    recipe = Recipe.from_json(bundle.manifest["recipe"])
    say = progress or (lambda stage, done, total: None)
    with bundle.runner(threads=threads) as runner:
        golden = _golden(bundle, recipe, runner, say)
        fresh = None
        if tiles is not None:
            source = open_tiles(tiles, size=bundle.manifest["contract"]["size"], resize=resize, skip_bad=skip_bad)
            fresh = _fresh(bundle, recipe, runner, source, weights, device, say)
        ran_with = runner.runtime
    parts = [part for part in (golden, fresh) if part is not None]
    return {
        "name": bundle.name,
        "bundle": bundle.digest,
        "ran_with": ran_with,
        "cautions": bundle.manifest["cautions"],
        "golden": golden,
        "tiles": fresh,
        "passed": all(gate["passed"] for part in parts for gate in part["gates"]),
    }


def _golden(bundle: Bundle, recipe: Recipe, runner: Callable[[np.ndarray], np.ndarray], say: Progress) -> dict[str, Any]:
    tiles, reference = bundle.golden()
    with np.load(bundle.path / "golden" / "program.npz", allow_pickle=False) as file:
        program = file["embeddings"]
    rows = []
    for start in range(0, len(tiles), BATCH):
        rows.append(runner(tiles[start : start + BATCH]))
        say("golden tiles", start + len(rows[-1]), len(tiles))
    drift = drifts(
        {"reference": reference, "program": program, "artifact": np.concatenate(rows)},
        bundle.manifest["held_out"]["keys"],
    )
    return {"drift": drift, "gates": gates(recipe, drift)}


def _fresh(
    bundle: Bundle,
    recipe: Recipe,
    runner: Callable[[np.ndarray], np.ndarray],
    source: TileSource,
    weights_from: str | Path | None,
    device: str,
    say: Progress,
) -> dict[str, Any]:
    """Measure drift on tiles the bundle has not seen; the program is rebuilt from the weights and `ranges.npz`."""
    require("torch", "export")
    from .backends.reference import pick_device
    from .exporting import quantized
    from .lowering import Program
    from .models import ModelSpec, load_model
    from .passes.calibrate import Ranges
    from .passes.fold import fold
    from .reference import reference_embeddings

    spec, contract = ModelSpec.from_json(bundle.manifest["model"]), bundle.manifest["contract"]
    recorded = bundle.manifest["weights"]
    if weights_from is None and recorded["random"]:
        weights_from = "random"
    vit, weights = load_model(spec, weights_from)
    if weights.sha256 != recorded["sha256"]:
        raise UsageError(
            f"verify {bundle.name}: its weights are {recorded['source']} (sha256 {recorded['sha256'][:12]}), "
            f"{weights.source} has sha256 {weights.sha256[:12]}; give the same weights with --weights"
        )
    with_reference = reference_embeddings(
        vit,
        spec,
        weights,
        source,
        embedding=contract["embedding"],
        device=pick_device(device),
        progress=_counter(say, "reference", len(source)),
    )
    net = fold(vit, spec, embedding=contract["embedding"], tokens=contract["tokens"])
    if recipe.int8:
        net = quantized(recipe, net, Ranges.load(bundle.path / "ranges.npz"))
    program = Program(net)
    advance = _counter(say, "program and artifact", len(source))
    rows: dict[str, list[np.ndarray]] = {"program": [], "artifact": []}
    for batch in source.batches(BATCH):
        rows["program"].append(program(batch.pixels))
        rows["artifact"].append(runner(batch.pixels))
        advance(len(batch.keys))
    embeddings = {"reference": with_reference.embeddings} | {name: np.concatenate(part) for name, part in rows.items()}
    if len(embeddings["artifact"]) != len(embeddings["reference"]):
        raise BundleError(f"verify: {source.name} changed while it was read; run again")
    drift = drifts(embeddings, with_reference.keys)
    return {
        "source": source.provenance(),
        "skipped": source.skipped,
        "reference": with_reference.runtime,
        "drift": drift,
        "gates": gates(recipe, drift),
    }


def _counter(say: Progress, stage: str, total: int) -> Callable[[int], None]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        say(stage, done, total)

    return advance

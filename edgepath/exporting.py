"""From weights to a checked bundle: the whole flow, stage by stage."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ._version import __version__
from .backends import find
from .bundle.bom import write_bom
from .bundle.bundle import Bundle, open_bundle
from .bundle.kit import write_golden, write_kit
from .bundle.running import artifact_bytes
from .bundle.writer import BundleWriter
from .checks.lowering import lower
from .checks.results import Artifact, HeadroomFigures, Report
from .checks.summary import Made, Origins, build_report, headroom_figures
from .errors import UsageError
from .machine.progress import Progress, Stages, silent
from .models.catalogue import find_model
from .program.preparing import Inputs, Prepared, fitted, prepare
from .program.quantizing import quantize_from_tiles
from .recipes.recipe import Recipe, find_recipe
from .reports.markdown import to_markdown
from .reports.page.document import to_html
from .reports.page.tilestrip import pictures
from .speed.gate import check_measurable, measure_speed
from .tiles.origins import datasets
from .tiles.splitting import DEFAULT_TILES

if TYPE_CHECKING:
    from .program.fold import EdgeModel


@dataclass(frozen=True)
class Exported:
    """A finished export: the bundle on disk, and its report (also in it: `bundle.json`, `report.md`, `report.html`)."""

    bundle: Bundle
    report: Report

    @property
    def passed(self) -> bool:
        """Whether every gate of the recipe was passed."""
        return self.report["passed"]


def export(
    target: str,
    *,
    model: str = "demo",
    weights: str | Path | None = None,
    calibration: str | Path | None = None,
    calibration_tiles: int = DEFAULT_TILES,
    embedding: Literal["cls", "cls+mean"] | None = None,
    tokens: bool = False,
    qad: int = 0,
    speed: bool = False,
    resize: str = "refuse",
    skip_bad: bool = False,
    anonymous: bool = False,
    out: str | Path = "build",
    force: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> Exported:
    """Turn weights into a checked bundle `<out>/<model>-<target>/`, and return it with its report.

    Up to 32 tiles of the calibration source are held out. Drift is measured on them, and they travel in the bundle as
    its golden tiles. A failed gate is a result: `passed` is False, and the bundle is kept and marked so.

    Args:
        target: A name of `edgepath targets`, or a recipe file (`*.toml`).
        model: A name of `edgepath models`, `timm:NAME`, or a `.toml` file that describes a model.
        weights: A file (`FILE::KEY` names one model of several), a hub snapshot folder, or `random`. None: the model's
            own.
        calibration: Tiles that set the INT8 scales: a folder of tiles or slides, a calibration pack, or `synthetic`.
            None: `synthetic`, and the report says so.
        calibration_tiles: Tiles to calibrate on, at most.
        embedding: `cls` (the class token) or `cls+mean` (followed by the mean of the patch tokens). None: the model's
            own.
        tokens: Keep the patch tokens, float32 (N, P, width), as a second output.
        qad: Steps of quantization-aware distillation on the calibration tiles, for INT8 targets.
        speed: Time an INT8 artifact beside full precision in the same runtime, here, and apply `accept.latency`.
        resize: What to do with tiles of another size: "refuse", "squash", or "crop" the centre.
        skip_bad: Leave out tiles that cannot be read, and list them in `skipped`.
        anonymous: Name tiles by the hash of their pixels in all that the bundle holds.
        out: The folder for bundles.
        force: Replace an existing output.
        device: Where reference, calibration and training run: `auto`, `cpu`, `cuda` or `cuda:INDEX`.
        progress: Called as `progress(stage, done, total)` while it works.

    Returns:
        The bundle on disk, and its report as a table that is JSON-able.

    Raises:
        EdgepathError: The export cannot be done: unknown names, unusable weights or tiles, an output in the way, a
            missing package.
    """
    recipe, spec = find_recipe(target), find_model(model)
    _check(recipe, qad, speed)
    stages = Stages(progress or silent)
    inputs = Inputs(weights, calibration, calibration_tiles, embedding, tokens, resize, skip_bad, device, anonymous)
    with BundleWriter(Path(out) / f"{spec.name.replace(':', '-')}-{recipe.target}", force=force) as writer:
        ready = fitted(recipe, prepare(spec, inputs, stages), stages)
        made, golden = _make(recipe, ready, writer.path, qad, speed, stages)
        write_kit(writer.path / "kit", recipe, writer.final.name, ready.spec.size, ready.net.dim)
        report = build_report(writer.final.name, recipe, _origins(recipe, ready), made, stages.cost())
        _write(writer.path / "report.md", to_markdown(report))
        write_bom(writer.path, report)
        _write(writer.path / "report.html", to_html(report, pictures(report, golden)))
        writer.commit(report)
    return Exported(open_bundle(writer.final), report)


def _check(recipe: Recipe, qad: int, speed: bool) -> None:
    """Refuse what cannot be done before any work."""
    who = f"export {recipe.target}"
    if qad < 0 or (qad and not recipe.int8):
        raise UsageError(f"{who}: qad of {qad} steps; give 0 or more, and for an INT8 target only")
    if speed:
        check_measurable(recipe)
    find(recipe.backend).require_to_build()


def _make(
    recipe: Recipe, ready: Prepared, folder: Path, qad: int, speed: bool, stages: Stages
) -> tuple[Made, np.ndarray]:
    """Quantize the model where the recipe says so, build the artifact, run both; return it all and the golden tiles."""
    net, trained, full_precision = ready.net, None, copy.deepcopy(ready.net) if speed else None
    if recipe.quantized:
        net, trained = quantize_from_tiles(
            recipe, net, ready.chosen, qad, ready.device, folder, stages, of=ready.identity
        )
    golden = ready.held_out.read()
    made = _lower(recipe, net, golden, ready, folder, stages)
    if full_precision is not None:
        with stages.stage("speed"):
            measured = measure_speed(recipe, folder / made.artifact["file"], full_precision, golden)
        made = replace(made, speed=measured)
    return replace(made, qad=trained), golden


def _origins(recipe: Recipe, ready: Prepared) -> Origins:
    looks = recipe.quantize.looks
    return Origins(
        model=ready.spec.to_json(),
        weights=ready.weights.to_json(),
        contract={
            "size": ready.spec.size,
            "embedding": ready.embedding,
            "dim": ready.net.dim,
            "tokens": ready.net.tokens,
        },
        calibration={
            **ready.chosen.provenance(),
            "looks": looks,
            "datasets": datasets(ready.chosen),
        }
        if recipe.quantized
        else None,
        held_out={
            **ready.held_out.provenance(),
            "keys": list(ready.reference.keys),
            "datasets": datasets(ready.held_out),
        },
        skipped=[*ready.chosen.skipped, *ready.held_out.skipped],
        reference=ready.reference.runtime,
    )


def _facts(ready: Prepared) -> dict[str, str]:
    """What an artifact says of itself to tools that read it without its bundle."""
    spec, size = ready.spec, ready.spec.size
    inside = f"mean {list(spec.mean)} and std {list(spec.std)} of RGB in 0..1 are applied inside"
    return {
        "model": spec.name,
        "licence": spec.licence,
        "weights_sha256": ready.weights.sha256,
        "embedding": ready.embedding,
        "preprocessing": f"none: takes raw RGB tiles of {size} x {size}, levels 0..255; {inside}",
        "edgepath": __version__,
    }


def _lower(recipe: Recipe, net: EdgeModel, golden: np.ndarray, ready: Prepared, folder: Path, stages: Stages) -> Made:
    """Make the artifact, run program and artifact on the golden tiles, and put golden set and kit beside it."""
    from .program.forms import Program
    from .program.linear import scales
    from .program.own_embeddings import own_embeddings
    from .program.rescaling import RESCALED, save_exponents

    if ready.exponents:
        save_exponents(folder / RESCALED, ready.exponents)
    program = Program(net, recipe, _facts(ready))
    with stages.stage("program", len(golden)) as advance:
        embeddings = {"reference": ready.reference.embeddings, **own_embeddings(program, golden, advance)}
    headroom = headroom_figures(program.peaks, len(golden), ready.exponents) if program.peaks else None
    lowered = lower(program, recipe, golden, folder, stages)
    if lowered.embeddings is not None:
        _check_finite(recipe, lowered.embeddings, headroom)
        embeddings["artifact"] = lowered.embeddings
    write_golden(folder / "golden", golden, embeddings)
    name = lowered.artifact.relative_to(folder).as_posix()
    file: Artifact = {"file": name, "size_bytes": artifact_bytes(lowered.artifact)}
    return Made(file, embeddings, lowered.differences, lowered.runtime, scales(net), headroom=headroom)


def _check_finite(recipe: Recipe, embeddings: np.ndarray, headroom: HeadroomFigures | None) -> None:
    """Refuse an artifact that embeds nothing: with FP16 it overflows, and where is known."""
    if headroom is None or np.isfinite(embeddings).all():
        return
    odd = [f"{row['place']} ({row['operation']}) reaches {row['largest']:.6g}" for row in headroom["nearest"][:3]]
    raise UsageError(
        f"export {recipe.target}: embeddings are not finite, FP16 holds no more than 65,504: {', '.join(odd)}; "
        "choose a target that computes in FP32 (edgepath targets)"
    )


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

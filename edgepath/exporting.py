"""From weights to a checked bundle: the whole flow, stage by stage."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from .backends import builds_of, find, ran_by
from .bundle.bundle import Bundle, open_bundle
from .bundle.kit import write_golden, write_kit
from .bundle.running import BATCH, artifact_bytes, embed_all
from .bundle.writer import BundleWriter
from .checks.results import Report
from .checks.summary import Made, Origins, build_report
from .errors import UsageError
from .machine.progress import Progress, Stages, silent
from .models.catalogue import find_model
from .program.preparing import Inputs, Prepared, prepare
from .program.quantizing import quantize_from_tiles
from .recipes.recipe import Recipe, find_recipe
from .reports.markdown import to_markdown
from .reports.page.document import to_html
from .reports.page.tilestrip import pictures
from .speed.gate import check_measurable, measure_speed
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
    out: str | Path = "build",
    force: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> Exported:
    """Turn weights into a checked bundle `<out>/<model>-<target>/` and return it with its report.

    `target` is a recipe's name or a recipe file; `model` a name of `edgepath models` or `timm:NAME`; `weights` a file,
    a hub snapshot folder or `random`; `calibration` a folder of tiles, a calibration pack or `synthetic` (the default
    when nothing is given, said so in the report). Up to 32 further tiles of the same source are held out: drift is
    measured on them and they travel in the bundle as its golden set. `embedding` defaults to the model's own; `tokens`
    keeps the patch tokens as a second output. `qad` is how many steps of quantization-aware distillation
    (`program.qad`) on the calibration tiles follow, for INT8 targets. `speed` times an INT8 artifact beside full
    precision in the same runtime, here, and holds it to the recipe's `accept.latency`. `device` is where reference,
    calibration and training run (`auto`, `cpu`, `cuda`). `progress(stage, done, total)` is called as work proceeds.

    A failed gate is a result (`passed` is False and the bundle is kept, marked so). Raises EdgepathError for what
    cannot be done: unknown names, unusable weights or tiles, an output in the way, a missing package.
    """
    recipe, spec = find_recipe(target), find_model(model)
    _check(recipe, qad, speed)
    stages = Stages(progress or silent)
    inputs = Inputs(weights, calibration, calibration_tiles, embedding, tokens, resize, skip_bad, device)
    with BundleWriter(Path(out) / f"{spec.name.replace(':', '-')}-{recipe.target}", force=force) as writer:
        ready = prepare(spec, inputs, stages)
        made, golden = _make(recipe, ready, writer.path, qad, speed, stages)
        report = build_report(writer.final.name, recipe, _origins(recipe, ready), made, stages.cost())
        _write(writer.path / "report.md", to_markdown(report))
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
    if recipe.int8:
        net, trained = quantize_from_tiles(
            recipe, net, ready.chosen, qad, ready.device, folder, stages, of=ready.identity
        )
    golden = ready.held_out.read()
    made = _lower(recipe, net, golden, ready.reference.embeddings, folder, stages)
    if full_precision is not None:
        with stages.stage("speed"):
            measured = measure_speed(recipe, folder / made.artifact["file"], full_precision, golden)
        made = replace(made, speed=measured)
    return replace(made, qad=trained), golden


def _origins(recipe: Recipe, ready: Prepared) -> Origins:
    contract = {"size": ready.spec.size, "embedding": ready.embedding}
    return Origins(
        model=ready.spec.to_json(),
        weights=ready.weights.to_json(),
        contract=contract | {"dim": ready.net.dim, "tokens": ready.net.tokens},
        calibration=ready.chosen.provenance() | {"looks": recipe.quantize.looks} if recipe.int8 else None,
        held_out=ready.held_out.provenance() | {"keys": list(ready.reference.keys)},
        skipped=[*ready.chosen.skipped, *ready.held_out.skipped],
        reference=ready.reference.runtime,
    )


def _lower(
    recipe: Recipe, net: EdgeModel, golden: np.ndarray, reference: np.ndarray, folder: Path, stages: Stages
) -> Made:
    """Make the artifact, run program and artifact on the golden tiles, and put golden set and kit beside it."""
    from .checks.parts import differences
    from .program.forms import Program
    from .program.linear import scales

    program = Program(net, recipe)
    with stages.stage("program", len(golden)) as advance:
        embeddings = {"reference": reference, "program": embed_all(program, golden, advance)}
        embeddings["nudged"] = program.nudged(golden[:BATCH])
    with stages.stage("lower"):
        artifact = builds_of(recipe.backend).build(program, folder, recipe)
    runtime = None
    if recipe.checked_with != "none":
        checker = find(recipe.checked_with).load_runner()
        with stages.stage("run artifact", len(golden)) as advance, checker(artifact) as runner:
            embeddings["artifact"], runtime = embed_all(runner, golden, advance), ran_by(runner)
    with stages.stage("parts"):
        differing = differences(program.lowered, artifact)
    write_golden(folder / "golden", golden, embeddings)
    write_kit(folder / "kit", recipe)
    file = {"file": artifact.relative_to(folder).as_posix(), "size_bytes": artifact_bytes(artifact)}
    return Made(file, embeddings, differing, runtime, scales(net))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

"""From weights to a checked bundle: the whole flow, stage by stage."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .backends import builds_of, find, ran_by
from .bundle.bundle import Bundle, open_bundle
from .bundle.kit import write_golden, write_kit
from .bundle.running import BATCH, artifact_bytes, embed_all
from .bundle.writer import BundleWriter
from .checks.summary import build_report
from .errors import UsageError
from .machine.packages import versions
from .machine.progress import Progress, Stages
from .models.catalogue import find_model
from .program.quantizing import quantize_from_tiles
from .recipes.recipe import Recipe, find_recipe
from .reports.markdown import to_markdown
from .reports.page.document import to_html
from .reports.page.tilestrip import pictures
from .tiles.opening import open_tiles
from .tiles.splitting import DEFAULT_TILES, apart, split

if TYPE_CHECKING:
    from .program.fold import EdgeModel


@dataclass(frozen=True)
class Exported:
    """A finished export: the bundle on disk, and its report (also in it: `bundle.json`, `report.md`, `report.html`)."""

    bundle: Bundle
    report: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether every gate of the recipe was passed."""
        return bool(self.report["passed"])


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
    if qad < 0 or (qad and not recipe.int8):
        raise UsageError(f"export {recipe.target}: qad of {qad} steps; give 0 or more, and for an INT8 target only")
    from .speed.gate import check_measurable, measure_speed

    if speed:
        check_measurable(recipe)
    find(recipe.backend).require_to_build()
    from .machine.hardware import pick_device
    from .models.reference import reference_embeddings
    from .models.weights import load_model
    from .program.fold import check_known, fold
    from .program.linear import scales

    device = pick_device(device)
    stages = Stages(progress or (lambda stage, done, total: None))
    with BundleWriter(Path(out) / f"{spec.name.replace(':', '-')}-{recipe.target}", force=force) as writer:
        source = "synthetic" if calibration is None else calibration
        tiles = open_tiles(source, size=spec.size, resize=resize, skip_bad=skip_bad).kept()
        chosen, held_out = apart(*split(tiles, calibration_tiles))
        with stages.stage("load weights"):
            vit, spec, loaded = load_model(spec, weights)
            check_known(vit, spec)  # before the model is run on any tile
        embedding = embedding or spec.embedding  # type: ignore[assignment]
        assert embedding is not None
        with stages.stage("reference", len(held_out)) as advance:
            reference = reference_embeddings(
                vit, spec, loaded, held_out, embedding=embedding, device=device, progress=advance
            )
        net = fold(vit, spec, embedding=embedding, tokens=tokens)
        trained = None
        whole = copy.deepcopy(net) if speed else None
        if recipe.int8:
            of = {"weights": loaded.sha256, "model": spec.to_json(), "embedding": embedding, "tokens": tokens}
            net, trained = quantize_from_tiles(recipe, net, chosen, qad, device, writer.path, stages, of=of)
        golden = held_out.read()
        figures = _lower(recipe, net, golden, reference.embeddings, writer.path, stages)
        if whole is not None:
            with stages.stage("speed"):
                figures["speed"] = measure_speed(recipe, writer.path / figures["artifact"]["file"], whole, golden)
        report = build_report(
            name=writer.final.name,
            recipe=recipe,
            model=spec.to_json(),
            weights=loaded.to_json(),
            contract={"size": spec.size, "embedding": embedding, "dim": net.dim, "tokens": tokens},
            calibration=chosen.provenance() | {"looks": recipe.quantize.looks} if recipe.int8 else None,
            qad=trained,
            program=scales(net),
            held_out=held_out.provenance() | {"keys": list(reference.keys)},
            skipped=[*chosen.skipped, *held_out.skipped],
            reference=reference.runtime,
            cost=stages.cost(),
            versions=versions(),
            **figures,
        )
        _write(writer.path / "report.md", to_markdown(report))
        _write(writer.path / "report.html", to_html(report, pictures(report, golden)))
        writer.commit(report)
    return Exported(open_bundle(writer.final), report)


def _lower(
    recipe: Recipe, net: EdgeModel, golden: np.ndarray, reference: np.ndarray, folder: Path, stages: Stages
) -> dict[str, Any]:
    """Make the artifact, run program and artifact on the golden tiles, and put golden set and kit beside it."""
    from .checks.parts import differences
    from .program.forms import Program

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
    return {
        "artifact": {"file": artifact.relative_to(folder).as_posix(), "size_bytes": artifact_bytes(artifact)},
        "runtime": runtime,
        "embeddings": embeddings,
        "differences": differing,
    }


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

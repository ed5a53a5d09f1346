"""Make a trained `demo` student: tiles, a teacher, the student, figures, weights; in one command.

    python -m edgepath.distillation.demo TILES OUT --stem efficientnet-lite2-9656183e.pth

TILES holds the folders that `split` names; the file of weights is what `imagenet` says. Each stage is kept in OUT; run
again, the command goes on where it stopped.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from ..errors import EdgepathError, UsageError
from ..machine.hardware import machine
from ..machine.writing import beside
from ..models.catalogue import ModelSpec, find_model
from ..recipes.toml import read_toml
from ..reports.console import print_table, progress_bars
from ..tiles.opening import open_tiles
from ..tiles.source import TileSource

SYNTHETIC = 600
"""Synthetic tiles among those to train on."""
TEST_SLIDE = "574162"
"""Of the two cytology slides on four scanners, the one that is kept for the test."""
_DEMO = find_model("demo")
TEACHER = ModelSpec(
    name="demo-teacher",
    summary="ViT-Ti/14 built like H0-mini, 18 blocks, 8.2 M parameters: the teacher of demo",
    timm_name=_DEMO.timm_name,
    timm_args={**_DEMO.timm_args, "depth": 18},
    mean=_DEMO.mean,
    std=_DEMO.std,
    licence="Apache-2.0",
)


def split(source: TileSource) -> tuple[TileSource, TileSource]:
    """Return the tiles to train on and those to test on.

    To test: all of `osteosarcoma`; of `scanners4_registered_cyto` one of its two slides; of `oral_oscc`, whose slides
    are not known, the photographs with an even number. No label is ever trained on. The tiles of osteosarcoma are of
    four cases, too few for folds of their own: neighbours may be of one case.
    """
    tested = [_is_test(key) for key in source.keys]
    train, test = ([i for i, is_test in enumerate(tested) if is_test is wanted] for wanted in (False, True))
    if not train or not test:
        raise UsageError(f"tiles {source.name}: {len(train)} to train on, {len(test)} to test on; see `split`")
    return source.select(train), source.select(test)


def _is_test(key: str) -> bool:
    folder, name = key.split("/")[0], Path(key).stem
    if folder == "scanners4_registered_cyto":
        return name.startswith(TEST_SLIDE)
    if folder == "oral_oscc":
        number = re.search(r"(\d+)$", name)
        return number is not None and int(number[1]) % 2 == 0
    return folder == "osteosarcoma"


def write_training_tiles(train: TileSource, folder: Path) -> None:
    """Write the real tiles to train on and the synthetic ones as PNG files below the new `folder`."""
    partial = beside(folder, "partial")
    shutil.rmtree(partial, ignore_errors=True)
    for source in (train, open_tiles(f"synthetic:{SYNTHETIC}")):
        for batch in source.batches():
            for key, pixels in zip(batch.keys, batch.pixels, strict=True):
                path = partial / (key if key.endswith(".png") else f"{key}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    partial.rename(folder)


def figures(test: TileSource, teacher: Path, student: Path) -> dict[str, Any]:
    """Return the figures of teacher, student, random weights and a colour histogram on the test tiles."""
    from ..models.reference import Runner
    from ..models.weights import load_model
    from .scoring import colour_histogram, evaluate

    def embedder(spec: ModelSpec, weights: Path | str) -> Runner:
        vit, loaded, _ = load_model(spec, weights)
        return Runner(vit, loaded.mean, loaded.std)

    return evaluate(
        {
            "teacher": embedder(TEACHER, teacher),
            "student": embedder(_DEMO, student),
            "random weights": embedder(_DEMO, "random"),
            "colour histogram": colour_histogram,
        },
        test,
    )


def write_start(teacher: Path, out: Path) -> None:
    """Write what the student starts from to `out`: the teacher without its last blocks, which learned last."""
    from ..models.weights import load_model
    from .networks import build_student
    from .runfolder import write_student

    theirs = load_model(TEACHER, teacher)[0].state_dict()
    student = build_student(_DEMO)
    student.load_state_dict({name: theirs[name] for name in student.state_dict()})
    out.mkdir(exist_ok=True)
    write_student(out, student, _DEMO)


def write_half(student: Path, out: Path) -> None:
    """Write the student's weights in FP16, with their `config.json`, to `out`."""
    from safetensors.torch import load_file, save

    out.mkdir(parents=True, exist_ok=True)
    state = {name: value.half() for name, value in load_file(student / "model.safetensors").items()}
    (out / "model.safetensors").write_bytes(save(state, metadata={"format": "pt"}))
    shutil.copyfile(student / "config.json", out / "config.json")


def main(
    tiles: Annotated[Path, typer.Argument(help="Folder of the real tiles.")],
    out: Annotated[Path, typer.Argument(help="Folder of the work and its results.")],
    stem: Annotated[Path, typer.Option(help="EfficientNet-Lite2's weights, which the teacher learns from.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    teacher_steps: Annotated[int, typer.Option(help="Steps of the teacher; 0 = as teacher.toml says.")] = 0,
    student_steps: Annotated[int, typer.Option(help="Steps of the student; 0 = as demo.toml says.")] = 0,
) -> None:
    """Make the demo student from real and synthetic tiles."""
    from .card import to_card
    from .imagenet import load_stem
    from .pretraining import pretrain
    from .scoring import HEADER, table
    from .training import distill

    train, test = split(open_tiles(tiles))
    teacher, start, student, folder = (out / name for name in ("teacher", "start", "student", "tiles"))
    out.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        write_training_tiles(train, folder)
    with progress_bars() as progress:
        if not (teacher / "model.safetensors").exists():
            steps = {"training.steps": teacher_steps} if teacher_steps else {}
            resume = _has_checkpoint(teacher)
            pretrain(
                TEACHER,
                folder,
                teacher,
                stem=load_stem(stem),
                options=steps,
                device=device,
                resume=resume,
                force=not resume,
                progress=progress,
            )
        taught = _training(teacher)
        if not (student / "model.safetensors").exists():
            write_start(teacher, start)
            steps = {"training.steps": student_steps} if student_steps else {}
            resume = _has_checkpoint(student)
            distill(
                TEACHER,
                _DEMO,
                folder,
                student,
                recipe="demo",
                options=steps,
                teacher_weights=teacher,
                student_weights=start,
                device=device,
                resume=resume,
                force=not resume,
                progress=progress,
            )
    write_half(student, out / "demo")
    found = figures(test, teacher, out / "demo")
    facts = {
        "schema": 1,
        "tested_on": test.provenance(),
        "trained_on": open_tiles(folder).provenance() | {"synthetic": SYNTHETIC},
        "teacher": taught,
        "student": _training(student),
        "machine": machine(),
        "figures": found,
    }
    (out / "demo" / "figures.json").write_text(json.dumps(facts, indent=2) + "\n")
    (out / "demo" / "README.md").write_text(to_card(facts))
    print_table(HEADER, table(found))


def _has_checkpoint(folder: Path) -> bool:
    """Tell whether a run can go on; one that was cut off before its first checkpoint begins anew."""
    return (folder / "checkpoint.pt").exists()


def _training(folder: Path) -> dict[str, Any]:
    """Return on what a run ran, for how long, and where it ended."""
    from .runfolder import RUN, read_log

    run, rows = read_toml(folder / RUN), read_log(folder)
    if "processes" not in run:
        raise UsageError(f"{folder}: an earlier edgepath trained it, and did not write down on what; give another OUT")
    batch, device = run["options"]["training"]["batch"], run["processes"]["device"]
    return {"device": device, "batch": batch, "seconds": round(rows[-1]["seconds"]), "last": rows[-1]}


if __name__ == "__main__":
    try:
        typer.run(main)
    except EdgepathError as error:
        typer.echo(f"edgepath: {error}", err=True)
        sys.exit(2)

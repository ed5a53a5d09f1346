"""Make a trained `demo` student: tiles, a teacher, the student, figures, weights.

Each stage is kept in the folder of the work; made again, it goes on where it stopped.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from edgepath.distillation.networks import build_student
from edgepath.distillation.runfolder import RUN, read_log, write_student
from edgepath.distillation.training import distill
from edgepath.errors import UsageError
from edgepath.machine.hardware import machine
from edgepath.machine.progress import Progress
from edgepath.machine.workspace import workspace
from edgepath.models.catalogue import ModelSpec, find_model
from edgepath.models.reference import Runner
from edgepath.models.weights import load_model
from edgepath.recipes.toml import read_toml
from edgepath.tiles.opening import open_tiles
from edgepath.tiles.source import TileSource

from .card import to_card
from .imagenet import load_stem
from .pretraining import pretrain
from .scoring import colour_histogram, evaluate

RECIPE = Path(__file__).with_name("demo.toml")
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


def make(
    tiles: Path, out: Path, stem: Path, *, device: str, teacher_steps: int, student_steps: int, progress: Progress
) -> dict[str, Any]:
    """Make the student in `out/demo`, with figures and card, from real and synthetic tiles; return its figures.

    `stem` is a file of weights (`imagenet`). Steps of 0 are as many as teacher.toml and demo.toml say.
    """
    train, test = split(open_tiles(tiles))
    teacher, start, student, folder = (out / name for name in ("teacher", "start", "student", "tiles"))
    out.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        write_training_tiles(train, folder)

    def teach(**how: Any) -> None:
        pretrain(TEACHER, folder, teacher, stem=load_stem(stem), device=device, progress=progress, **how)

    def learn(**how: Any) -> None:
        write_start(teacher, start)
        how |= {"teacher_weights": teacher, "student_weights": start, "recipe": str(RECIPE)}
        distill(TEACHER, _DEMO, folder, student, device=device, progress=progress, **how)

    runs = {"teacher": _trained(teacher, teacher_steps, teach), "student": _trained(student, student_steps, learn)}
    write_half(student, out / "demo")
    found = figures(test, teacher, out / "demo")
    trained_on = open_tiles(folder).provenance() | {"synthetic": SYNTHETIC}
    facts = {"schema": 1, "tested_on": test.provenance(), "trained_on": trained_on, **runs}
    facts |= {"machine": machine(), "figures": found}
    (out / "demo" / "figures.json").write_text(json.dumps(facts, indent=2) + "\n")
    (out / "demo" / "README.md").write_text(to_card(facts))
    return found


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
    with workspace(folder) as aside:
        for source in (train, open_tiles(f"synthetic:{SYNTHETIC}")):
            for batch in source.batches():
                for key, pixels in zip(batch.keys, batch.pixels, strict=True):
                    path = aside.new / (key if key.endswith(".png") else f"{key}.png")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(path)
        aside.new.rename(folder)


def write_start(teacher: Path, out: Path) -> None:
    """Write what the student starts from to `out`: the teacher without its last blocks, which learned last."""
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


def figures(test: TileSource, teacher: Path, student: Path) -> dict[str, Any]:
    """Return the figures of teacher, student, random weights and a colour histogram on the test tiles."""

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


def _trained(folder: Path, steps: int, train: Callable[..., None]) -> dict[str, Any]:
    """Train, unless it was done; a run that was cut off before its first checkpoint begins anew. Return `training`."""
    if not (folder / "model.safetensors").exists():
        resume = (folder / "checkpoint.pt").exists()
        train(options={"training.steps": steps} if steps else {}, resume=resume, force=not resume)
    return training(folder)


def training(folder: Path) -> dict[str, Any]:
    """Return on what a run ran, for how long, and where it ended."""
    run, rows = read_toml(folder / RUN), read_log(folder)
    if "processes" not in run:
        raise UsageError(f"{folder}: an earlier edgepath trained it, and did not write down on what; give another OUT")
    batch, device = run["options"]["training"]["batch"], run["processes"]["device"]
    return {"device": device, "batch": batch, "seconds": round(rows[-1]["seconds"]), "last": rows[-1]}

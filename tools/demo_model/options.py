"""The numbers of `pretrain`: teacher.toml as frozen values, and what they have to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepath.distillation.networks import build_student
from edgepath.distillation.options import LARGEST_BLUR, AtLeast2, Colours, Run, Steps, check_rising
from edgepath.errors import RecipeError
from edgepath.models.catalogue import ModelSpec
from edgepath.recipes.toml import build_table, read_toml

from .imitator import patch_size


@dataclass(frozen=True)
class Views(Colours):
    """What is cut out of a tile and what is done to it; see teacher.toml."""

    zoom: tuple[float, ...]


@dataclass(frozen=True)
class Stage:
    """A share of the steps, in which the first `blocks` of the model learn from views of `crop` pixels."""

    share: float
    blocks: int
    crop: int


@dataclass(frozen=True)
class Loss:
    """Weights of the two losses."""

    tile: float
    patch: float


@dataclass(frozen=True)
class Training(Steps):
    """The optimizer and its schedule, and how many tiles the features' means are taken from."""

    batch: AtLeast2
    fit_tiles: AtLeast2


@dataclass(frozen=True)
class Options:
    """A whole recipe."""

    stages: tuple[Stage, ...]
    views: Views
    loss: Loss
    training: Training
    run: Run
    schema: int = 1


def load_options(overrides: Mapping[str, Any] | None = None) -> Options:
    """Return the numbers of teacher.toml, changed by `overrides`. Raises RecipeError.

    They name numbers ({"training.steps": 100}) or all stages ({"stages": [...]}).
    """
    values = read_toml(Path(__file__).with_name("teacher.toml"))
    for key, value in (overrides or {}).items():
        if key == "stages":
            values[key] = value
            continue
        table, _, name = key.partition(".")
        if not isinstance(values.get(table), dict) or name not in values[table]:
            raise RecipeError(f"teacher recipe: {key} is not a key")
        values[table][name] = value
    return build_table(Options, values, "teacher recipe")


def check_options(options: Options, spec: ModelSpec) -> None:
    """Refuse numbers that would end in a traceback, or in a loss that means nothing."""
    vit: Any = build_student(spec)
    patch, most = patch_size(vit), len(vit.blocks)
    for number, stage in enumerate(options.stages, 1):
        where = f"teacher recipe: stage {number}:"
        if stage.crop % patch or not 2 * patch <= stage.crop <= spec.size:
            raise RecipeError(
                f"{where} crop = {stage.crop}; a multiple of {patch} from {2 * patch} to {spec.size} is needed"
            )
        if not 1 <= stage.blocks <= most:
            raise RecipeError(f"{where} blocks = {stage.blocks}; {spec.name} has {most}")
        if not stage.share > 0:
            raise RecipeError(f"{where} share = {stage.share}; a share above 0 is needed")
    if not options.stages or options.stages[-1].blocks != most:
        raise RecipeError(f"teacher recipe: the last stage has to train all {most} blocks of {spec.name}")
    check_rising(options.views.zoom, 4.0, "views.zoom", "teacher recipe")
    check_rising(options.views.blur_pixels, LARGEST_BLUR, "views.blur_pixels", "teacher recipe")

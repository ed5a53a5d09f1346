"""Every number of a distillation, read from TOML and checked once; what a file leaves out is the default recipe's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import RecipeError, UsageError, did_you_mean
from ..recipes.toml import build_table, parse_toml, read_toml

_HERE = Path(__file__).resolve().parent
DEFAULT = "recipe"
_INSTEAD = {"run.threads": "processes make views now: set run.workers"}


@dataclass(frozen=True)
class Colours:
    """How much of staining, scanner and focus is drawn anew (see `views`)."""

    stain_strength: float
    stain_hue: float
    scanner: float
    blur_probability: float
    blur_pixels: tuple[float, ...]


@dataclass(frozen=True)
class Views(Colours):
    """Crops and augmentations (see `views`). Global crops have the model's size; scales are shares of a tile's area."""

    global_count: int
    local_count: int
    local_size: int
    global_scale: tuple[float, ...]
    local_scale: tuple[float, ...]


@dataclass(frozen=True)
class Heads:
    """Prototype heads.

    `student`: `trained` is DINO's, `teacher` compares the student's tokens through the teacher's own head.
    `teacher_prototypes`: `tokens` takes the teacher's own tokens, `random` draws directions.
    """

    cls_prototypes: int
    patch_prototypes: int
    hidden: int
    bottleneck: int
    student: Literal["trained", "teacher"]
    teacher_prototypes: Literal["random", "tokens"]
    fit_tiles: int


@dataclass(frozen=True)
class Loss:
    """The two losses. `same_view` also compares a crop's class token with the teacher's of that very crop."""

    dino: float
    ibot: float
    same_view: bool
    student_temperature: float
    teacher_temperature_start: float
    teacher_temperature: float
    teacher_temperature_warmup: int
    centering: Literal["sinkhorn", "mean", "none"]
    sinkhorn_iterations: int
    center_momentum: float


@dataclass(frozen=True)
class Steps:
    """The optimizer and its schedule, in steps. `batch` is global: all processes together."""

    steps: int
    batch: int
    seed: int
    learning_rate: float
    learning_rate_end: float
    warmup: int
    weight_decay: float
    clip: float


@dataclass(frozen=True)
class Training(Steps):
    """And what changes besides the learning rate."""

    weight_decay_end: float
    ema: float
    ema_end: float
    freeze_prototypes: int
    precision: Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Run:
    """What changes no weight: how often to write, and how the data is fed. These may differ when a run is resumed."""

    checkpoint_every: int
    log_every: int
    workers: int
    prefetch: int
    cache_mb: int
    tile_hash: Literal["pixels", "names"]


@dataclass(frozen=True)
class Options:
    """A whole distillation recipe."""

    views: Views
    heads: Heads
    loss: Loss
    training: Training
    run: Run
    schema: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON reads them back."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values


def load_options(recipe: str = DEFAULT, overrides: Mapping[str, Any] | None = None) -> Options:
    """Return the options of the recipe that ships with edgepath, or of a file of one's own (`*.toml`).

    A file holds what differs from the default recipe; `overrides` come last ({"training.steps": 100}). Raises
    RecipeError naming the key that is unknown or out of range, UsageError for an unknown recipe.
    """
    values = read_toml(_HERE / f"{DEFAULT}.toml")
    named = f"recipe {Path(recipe).stem}"
    _merge(values, read_toml(_path(recipe)), named)
    for key, value in (overrides or {}).items():
        table, _, name = key.partition(".")
        _merge(values, {table: {name: value}}, "option")
    if values.get("schema") != 1:
        raise RecipeError(f"{named}: schema = {values.get('schema')}; this edgepath reads schema 1")
    options = build_table(Options, values, named)
    _check(options, named)
    return options


def parse_changes(words: Sequence[str]) -> dict[str, Any]:
    """Return `training.steps=200` and its like as overrides; the value is TOML, or a plain word. Raises UsageError."""
    changes: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key.count(".") != 1:
            raise UsageError(f'--set {word}: give TABLE.KEY=VALUE, as in "training.steps=200"')
        try:
            changes[key] = parse_toml(f"value = {value}")["value"]
        except ValueError:
            changes[key] = value
    return changes


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """Return which options differ and change weights, as `training.steps is 200, was 100`: all but those of [run]."""
    found = []
    for table in (name for name, values in here.items() if isinstance(values, Mapping) and name != "run"):
        for key in sorted({**here[table], **there[table]}):
            now, then = here[table].get(key), there[table].get(key)
            if now != then:
                found.append(f"{table}.{key} is {json.dumps(now)}, was {json.dumps(then)}")
    return found


def _path(recipe: str) -> Path:
    if recipe.endswith(".toml"):
        return Path(recipe)
    if recipe != DEFAULT:
        raise UsageError(f'distillation recipe "{recipe}" is not known; give "{DEFAULT}", or a .toml file')
    return _HERE / f"{DEFAULT}.toml"


def _merge(values: dict[str, Any], changes: Mapping[str, Any], named: str) -> None:
    for key, value in changes.items():
        if key not in values:
            raise RecipeError(f"{named}: {key} is not a key; {did_you_mean(key, values)}")
        if isinstance(values[key], dict) and isinstance(value, dict):
            for name in value:
                if name not in values[key]:
                    instead = _INSTEAD.get(f"{key}.{name}") or did_you_mean(name, values[key])
                    raise RecipeError(f"{named}: {key}.{name} is not a key; {instead}")
            values[key] = values[key] | value
        else:
            values[key] = value


def _check(options: Options, named: str) -> None:
    """Refuse numbers that would end in a traceback, or in weights that mean nothing."""
    views, heads, loss, training, run = options.views, options.heads, options.loss, options.training, options.run
    least = {
        "views.global_count": (views.global_count, 1 if loss.same_view or views.local_count else 2),
        "views.local_count": (views.local_count, 0),
        "heads.cls_prototypes": (heads.cls_prototypes, 2),
        "heads.patch_prototypes": (heads.patch_prototypes, 2),
        "heads.hidden": (heads.hidden, 1),
        "heads.bottleneck": (heads.bottleneck, 1),
        "heads.fit_tiles": (heads.fit_tiles, 2),
        "loss.sinkhorn_iterations": (loss.sinkhorn_iterations, 1),
        "loss.teacher_temperature_warmup": (loss.teacher_temperature_warmup, 0),
        "training.steps": (training.steps, 1),
        "training.batch": (training.batch, 1),
        "training.seed": (training.seed, 0),
        "training.warmup": (training.warmup, 0),
        "training.freeze_prototypes": (training.freeze_prototypes, 0),
        "run.checkpoint_every": (run.checkpoint_every, 1),
        "run.log_every": (run.log_every, 1),
        "run.workers": (run.workers, 0),
        "run.prefetch": (run.prefetch, 0),
        "run.cache_mb": (run.cache_mb, 0),
    }
    for key, (value, lowest) in least.items():
        if value < lowest:
            raise RecipeError(f"{named}: {key} = {value}; at least {lowest} is needed")
    for key in ("student_temperature", "teacher_temperature", "teacher_temperature_start"):
        if not getattr(loss, key) > 0:
            raise RecipeError(f"{named}: loss.{key} = {getattr(loss, key)}; a number above 0 is needed")
    for key in ("dino", "ibot"):
        if not getattr(loss, key) >= 0:
            raise RecipeError(f"{named}: loss.{key} = {getattr(loss, key)}; a weight of 0 or more is needed")
    shares = {"views.stain_strength": views.stain_strength, "views.scanner": views.scanner}
    shares |= {"views.stain_hue": views.stain_hue, "views.blur_probability": views.blur_probability}
    shares |= {"loss.center_momentum": loss.center_momentum}
    shares |= {"training.ema": training.ema, "training.ema_end": training.ema_end}
    for key, share in shares.items():
        if not 0 <= share <= 1:
            raise RecipeError(f"{named}: {key} = {share}; a number from 0 to 1 is needed")
    for key, pair, top in (
        ("global_scale", views.global_scale, 1.0),
        ("local_scale", views.local_scale, 1.0),
        ("blur_pixels", views.blur_pixels, 20.0),
    ):
        if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= top:
            raise RecipeError(f"{named}: views.{key} = {list(pair)}; two numbers above 0 are needed, up to {top:g}")
    for key in ("learning_rate", "learning_rate_end", "weight_decay", "weight_decay_end"):
        if not 0 <= getattr(training, key) < float("inf"):
            raise RecipeError(f"{named}: training.{key} = {getattr(training, key)}; 0 or more is needed")
    if not training.clip > 0:
        raise RecipeError(f"{named}: training.clip = {training.clip}; a gradient norm above 0 is needed")

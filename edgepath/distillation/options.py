"""Every number of a distillation, read from TOML and checked once; what a file leaves out is the default recipe's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

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
    fewest = 1 if options.loss.same_view or options.views.local_count else 2
    check(options.to_json(), (*_RULES, at_least(fewest, "views.global_count")), named)
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


Rule: TypeAlias = tuple[Callable[[Any], bool], str, tuple[str, ...]]
"""What a number has to be, in words too, and which numbers (TABLE.KEY)."""


def check(values: Mapping[str, Any], rules: Sequence[Rule], named: str) -> None:
    """Refuse numbers that would end in a traceback, or in weights that mean nothing. Raises RecipeError."""
    for fits, needed, keys in rules:
        for key in keys:
            table, _, name = key.partition(".")
            if not fits(value := values[table][name]):
                shown = list(value) if isinstance(value, tuple) else value
                raise RecipeError(f"{named}: {key} = {shown}; {needed}")


def at_least(lowest: int, *keys: str) -> Rule:
    """Return the rule of counts."""
    return lambda value: value >= lowest, f"at least {lowest} is needed", keys


def above_0(*keys: str) -> Rule:
    """Return the rule of temperatures and norms."""
    return lambda value: value > 0, "a number above 0 is needed", keys


def not_negative(*keys: str) -> Rule:
    """Return the rule of weights and rates, which are finite too."""
    return lambda value: 0 <= value < float("inf"), "0 or more is needed", keys


def share(*keys: str) -> Rule:
    """Return the rule of parts of a whole."""
    return lambda value: 0 <= value <= 1, "a number from 0 to 1 is needed", keys


def rising(top: float, *keys: str) -> Rule:
    """Return the rule of pairs of a lowest and a highest number."""
    needed = f"two numbers above 0 are needed, up to {top:g}"
    return lambda pair: len(pair) == 2 and 0 < pair[0] <= pair[1] <= top, needed, keys


COLOURS = (
    share("views.stain_strength", "views.stain_hue", "views.scanner", "views.blur_probability"),
    rising(20.0, "views.blur_pixels"),
)
_RULES = (
    at_least(0, "views.local_count", "loss.teacher_temperature_warmup", "training.seed", "training.warmup"),
    at_least(0, "training.freeze_prototypes", "run.workers", "run.prefetch", "run.cache_mb"),
    at_least(1, "heads.hidden", "heads.bottleneck", "loss.sinkhorn_iterations", "training.steps", "training.batch"),
    at_least(1, "run.checkpoint_every", "run.log_every"),
    at_least(2, "heads.cls_prototypes", "heads.patch_prototypes", "heads.fit_tiles"),
    above_0("loss.student_temperature", "loss.teacher_temperature", "loss.teacher_temperature_start", "training.clip"),
    not_negative("loss.dino", "loss.ibot", "training.learning_rate", "training.learning_rate_end"),
    not_negative("training.weight_decay", "training.weight_decay_end"),
    share("loss.center_momentum", "training.ema", "training.ema_end"),
    rising(1.0, "views.global_scale", "views.local_scale"),
    *COLOURS,
)

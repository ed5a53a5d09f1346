"""Every number of a distillation, read from TOML and checked once; what a file leaves out is the default recipe's."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from ..errors import RecipeError, UsageError, did_you_mean
from ..machine.tables import parse_toml
from ..recipes.toml import build_table, read_toml

Count = Annotated[int, Meta(ge=0, description="at least 0 is needed")]
AtLeast1 = Annotated[int, Meta(ge=1, description="at least 1 is needed")]
AtLeast2 = Annotated[int, Meta(ge=2, description="at least 2 is needed")]
Above0 = Annotated[float, Meta(gt=0, description="a number above 0 is needed")]
Weight = Annotated[float, Meta(ge=0, le=sys.float_info.max, description="0 or more is needed")]
Share = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1 is needed")]
_HERE = Path(__file__).resolve().parent
DEFAULT = "recipe"
LARGEST_BLUR = 20.0  # pixels
_INSTEAD = {"run.threads": "processes make views now: set run.workers"}


@dataclass(frozen=True)
class Colours:
    """How much of staining, scanner and focus is drawn anew (see `views`)."""

    stain_strength: Share
    stain_hue: Share
    scanner: Share
    blur_probability: Share
    blur_pixels: tuple[float, ...]


@dataclass(frozen=True)
class Views(Colours):
    """Crops and augmentations (see `views`). Global crops have the model's size; scales are shares of a tile's area."""

    global_count: int
    local_count: Count
    local_size: int
    global_scale: tuple[float, ...]
    local_scale: tuple[float, ...]


@dataclass(frozen=True)
class Heads:
    """Prototype heads.

    `student`: `trained` is DINO's, `teacher` compares the student's tokens through the teacher's own head.
    `teacher_prototypes`: `tokens` takes the teacher's own tokens, `random` draws directions.
    """

    cls_prototypes: AtLeast2
    patch_prototypes: AtLeast2
    hidden: AtLeast1
    bottleneck: AtLeast1
    student: Literal["trained", "teacher"]
    teacher_prototypes: Literal["random", "tokens"]
    fit_tiles: AtLeast2


@dataclass(frozen=True)
class Loss:
    """The two losses. `same_view` also compares a crop's class token with the teacher's of that very crop."""

    dino: Weight
    ibot: Weight
    same_view: bool
    student_temperature: Above0
    teacher_temperature_start: Above0
    teacher_temperature: Above0
    teacher_temperature_warmup: Count
    centering: Literal["sinkhorn", "mean", "none"]
    sinkhorn_iterations: AtLeast1
    center_momentum: Share


@dataclass(frozen=True)
class Steps:
    """The optimizer and its schedule, in steps. `batch` is global: all processes together."""

    steps: AtLeast1
    batch: AtLeast1
    seed: Count
    learning_rate: Weight
    learning_rate_end: Weight
    warmup: Count
    weight_decay: Weight
    clip: Above0


@dataclass(frozen=True)
class Training(Steps):
    """And what changes besides the learning rate."""

    weight_decay_end: Weight
    ema: Share
    ema_end: Share
    freeze_prototypes: Count
    precision: Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Run:
    """What changes no weight: how often to write, and how the data is fed. These may differ when a run is resumed."""

    checkpoint_every: AtLeast1
    log_every: AtLeast1
    workers: Count
    prefetch: Count
    cache_mb: Count
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

    def to_json(self) -> dict[str, object]:
        """Return the options as JSON reads them back."""
        values: dict[str, object] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values


def load_options(recipe: str = DEFAULT, overrides: Mapping[str, object] | None = None) -> Options:
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
    views, fewest = options.views, 1 if options.loss.same_view or options.views.local_count else 2
    if views.global_count < fewest:
        raise RecipeError(f"{named}: views.global_count = {views.global_count}; at least {fewest} is needed")
    for key, top in (("global_scale", 1.0), ("local_scale", 1.0), ("blur_pixels", LARGEST_BLUR)):
        check_rising(getattr(views, key), top, f"views.{key}", named)
    return options


def parse_changes(words: Sequence[str]) -> dict[str, object]:
    """Return `training.steps=200` and its like as overrides; the value is TOML, or a plain word. Raises UsageError."""
    changes: dict[str, object] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key.count(".") != 1:
            raise UsageError(f'--set {word}: give TABLE.KEY=VALUE, as in "training.steps=200"')
        try:
            changes[key] = parse_toml(f"value = {value}")["value"]
        except ValueError:
            changes[key] = value
    return changes


def differences(here: Mapping[str, object], there: Mapping[str, object]) -> list[str]:
    """Return which options differ and change weights, as `training.steps is 200, was 100`: all but those of [run]."""
    changed = []
    for table, ours in here.items():
        if not isinstance(ours, Mapping) or table == "run":
            continue
        theirs = there[table]
        assert isinstance(theirs, Mapping)
        for key in sorted({**ours, **theirs}):
            now, then = ours.get(key), theirs.get(key)
            if now != then:
                changed.append(f"{table}.{key} is {json.dumps(now)}, was {json.dumps(then)}")
    return changed


def _path(recipe: str) -> Path:
    if recipe.endswith(".toml"):
        return Path(recipe)
    if recipe != DEFAULT:
        moved = "; `demo` is now `python -m tools.demo_model`, in a checkout" if recipe == "demo" else ""
        raise UsageError(f'--recipe "{recipe}" is not known; give "{DEFAULT}", or a .toml file{moved}')
    return _HERE / f"{DEFAULT}.toml"


def _merge(values: dict[str, Any], changes: Mapping[str, object], named: str) -> None:
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


def check_rising(pair: Sequence[float], top: float, key: str, named: str) -> None:
    """Refuse what is not a lowest and a highest number above 0. Raises RecipeError."""
    if not (len(pair) == 2 and 0 < pair[0] <= pair[1] <= top):
        raise RecipeError(f"{named}: {key} = {list(pair)}; two numbers above 0 are needed, up to {top:g}")

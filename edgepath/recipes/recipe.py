"""Recipes: one TOML file a target, read into frozen values and validated once."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from .. import backends
from ..errors import RecipeError, UsageError, did_you_mean
from ..machine import tables
from ..machine.shipped import data_folder
from .toml import build_table, read_toml

SCHEMA = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
Share = Annotated[float, Meta(ge=0, le=1, description="expected a number from 0 to 1")]
Bits = Annotated[int, Meta(ge=2, le=8, description="expected 2 to 8")]
Looks = Annotated[int, Meta(ge=0, le=1024, description="expected 0 to 1024")]
Ratio = Annotated[float, Meta(gt=0, le=sys.float_info.max, description="expected a ratio above 0")]
_REMOVED: dict[str, tuple[Any, Any]] = {"rounding": ("nearest", "gptq"), "scores": (False, True)}
"""Keys of `[quantize]` that are no more: what they were left at, and what nothing here does any more."""


@dataclass(frozen=True)
class Precision:
    """Number format per kind of layer: the linears of the transformer blocks, and everything else."""

    linear: typing.Literal["fp32", "fp16", "int8"]
    other: typing.Literal["fp32", "fp16"]


@dataclass(frozen=True)
class Quantize:
    """How the INT8 linears are made. `smooth_alpha` is SmoothQuant's migration strength; 0 turns smoothing off.

    With `looks`, so many procedural tiles, a staining and a scanner each, are calibrated on besides the given ones, and
    each layer gets a strength of its own, judged across both (`program.tune`); `smooth_alpha` only turns smoothing on
    then. With 0, the given tiles alone set the ranges, and `smooth_alpha` holds for all layers.
    `weight_bits` below 8 limits the weights to the middle values of `int8`; what is stored and how it runs stay.
    With `class_token = "float"` the class token's activations are not rounded (`program.linear`). `keep` names linears
    that stay in the precision of everything else (`edgepath search` finds which).
    """

    smooth_alpha: Share = 0.5
    looks: Looks = 91
    weight_bits: Bits = 8
    class_token: typing.Literal["int8", "float"] = "int8"
    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """How one software release of a device builds the artifact: for Jetson, a JetPack and its TensorRT.

    A plan holds for runtimes from version `since` on ("10.12"), up to where the next plan begins.
    """

    release: str
    runtime: str
    since: Annotated[str, Meta(pattern=r"^\d+\.\d+\Z", description="expected MAJOR.MINOR")]
    strongly_typed: bool
    flags: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Deploy:
    """Where the artifact is meant to run.

    `minimum_os` is Core ML's, `plan` TensorRT's, `compute_capabilities` TensorRT-RTX's.
    """

    devices: tuple[str, ...]
    minimum_os: str = ""
    plan: tuple[Plan, ...] = ()
    compute_capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class RobustnessLoss:
    """How much less robust than the full-precision model an artifact may be: in cosine, and in shares of tiles."""

    cosine: Share = 0.01
    top1: Share = 0.01
    top10: Share = 0.01


@dataclass(frozen=True)
class ProbeLoss:
    """How much worse than on the full-precision model's embeddings a probe on the artifact's may be.

    Labels are judged by balanced accuracy and AUROC, gene expression by Pearson's correlation.
    """

    balanced_accuracy: Share = 0.01
    auroc: Share = 0.01
    pearson: Share = 0.01


@dataclass(frozen=True)
class Latency:
    """How much of full precision's latency INT8 may take: p50 at batch 1, in the same runtime and the same run."""

    of_full_precision: Ratio = 1.0


@dataclass(frozen=True)
class Accept:
    """The gates: smallest cosine to the full-precision reference, as mean and as 1st percentile over tiles."""

    cosine_mean: Share
    cosine_p01: Share
    robustness: RobustnessLoss = RobustnessLoss()
    probe: ProbeLoss = ProbeLoss()
    latency: Latency = Latency()


@dataclass(frozen=True)
class Recipe:
    """A target: what is built, for which device, in which precision, and what is good enough."""

    target: str
    summary: str
    backend: str
    checked_with: str
    precision: Precision
    deploy: Deploy
    accept: Accept
    quantize: Quantize = Quantize()
    schema: int = SCHEMA

    @property
    def int8(self) -> bool:
        """Whether the linears are quantized."""
        return self.precision.linear == "int8"

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON reads it back: tables as dict, lists as list."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values

    def to_toml(self) -> str:
        """Return the recipe file that reads back as this recipe; what stands at its default is written, too."""
        return tables.to_toml(self.to_json())

    @classmethod
    def from_json(cls, values: dict[str, Any], name: str = "recipe") -> Recipe:
        """Build a recipe from parsed TOML or JSON; RecipeError names the first key that is unknown, missing or off."""
        values = _without_removed(values)
        table = values if isinstance(values, dict) else {}
        target, schema = str(table.get("target", name)), table.get("schema", SCHEMA)
        called = f"recipe {target if NAME.fullmatch(target) else name}"
        if isinstance(schema, int) and schema != SCHEMA:  # first of all: another schema may have other keys
            raise RecipeError(f"{called}: schema = {tables.shown(schema)}; this edgepath reads schema {SCHEMA}")
        recipe = build_table(cls, values, called)
        if not NAME.fullmatch(recipe.target):
            raise RecipeError(
                f"{called}: target = {tables.shown(recipe.target)}; it names a folder: use letters, digits, . _ -"
            )
        _check_buildable(recipe)
        return recipe


def load_recipe(path: Path) -> Recipe:
    """Read one recipe file. Raises RecipeError with the file's name and what is wrong with it."""
    values = read_toml(path)
    if asked := removed(values):
        raise RecipeError(f"recipe {path.stem}: {asked}; leave it out")
    return Recipe.from_json(values, path.stem)


def removed(values: Any) -> str:
    """Say which key that no version knows any more parsed values of a recipe set, "" where there is none."""
    how = values.get("quantize") if isinstance(values, dict) else None
    asked = [key for key, (_, used) in _REMOVED.items() if isinstance(how, dict) and how.get(key) == used]
    return f"quantize.{asked[0]} = {json.dumps(_REMOVED[asked[0]][1])} was removed" if asked else ""


def _without_removed(values: Any) -> Any:
    """Leave out keys of older versions: bundles that were made with them still run."""
    how = values.get("quantize") if isinstance(values, dict) else None
    if not isinstance(how, dict):
        return values
    return values | {"quantize": {key: one for key, one in how.items() if one not in _REMOVED.get(key, ())}}


def recipes() -> dict[str, Recipe]:
    """Return every recipe that ships with edgepath, by target name."""
    loaded = (load_recipe(path) for path in sorted(data_folder("export").rglob("*.toml")))
    return {recipe.target: recipe for recipe in loaded}


def find_recipe(target: str) -> Recipe:
    """Return the recipe of a target by name, or from a recipe file of one's own (`*.toml`)."""
    if target.endswith(".toml"):
        return load_recipe(Path(target))
    known = recipes()
    if target not in known:
        raise UsageError(f'target "{target}" is not known; {did_you_mean(target, known)}')
    return known[target]


def _check_buildable(recipe: Recipe) -> None:
    """Refuse what would be built as something else than the recipe says, or fail after the work is done."""
    who, known = f"recipe {recipe.target}", backends.targets()
    if recipe.backend not in known:
        raise RecipeError(f"{who}: backend = {tables.quoted(recipe.backend)}; {did_you_mean(recipe.backend, known)}")
    builds = backends.builds_of(recipe.backend)
    pair = (recipe.precision.linear, recipe.precision.other)
    if pair not in builds.precisions:
        ways = " or ".join("/".join(way) for way in builds.precisions)
        raise RecipeError(f"{who}: precision {'/'.join(pair)}; {recipe.backend} builds {ways}")
    if recipe.checked_with not in ("none", builds.checked_with):
        raise RecipeError(
            f"{who}: checked_with = {tables.quoted(recipe.checked_with)}; what {recipe.backend} builds is checked with "
            f'"{builds.checked_with}" or "none"'
        )
    if recipe.quantize.class_token == "float" and not (recipe.int8 and builds.float_class_token):
        able = [name for name in known if backends.builds_of(name).float_class_token]
        raise RecipeError(
            f'{who}: quantize.class_token = "float"; it can be so in INT8 targets of {", ".join(able)} only'
        )
    if problem := builds.check(recipe):
        raise RecipeError(f"{who}: {problem}")

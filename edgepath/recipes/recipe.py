"""Recipes: one TOML file a target, read into frozen values and validated once."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

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
    """Number format per kind of layer: the linear layers of the transformer blocks, and everything else."""

    linear: typing.Literal["fp32", "fp16", "int8", "fp8"]
    """Format of the linear layers of the transformer blocks."""
    other: typing.Literal["fp32", "fp16", "bf16"]
    """Format of everything else: attention, norms, activation functions, residuals.

    "bf16" (OpenVINO): FP32 in the artifact, computed in BF16 on a CPU that has it (AVX-512 BF16 or AMX), else in FP32.
    """


@dataclass(frozen=True)
class Quantize:
    """How the 8-bit linears are made. `smooth_alpha` is SmoothQuant's migration strength; 0 turns smoothing off.

    With `looks`, so many procedural tiles, a staining and a scanner each, are calibrated on besides the given ones, and
    each layer gets a strength of its own, judged across both (`program.tune`); `smooth_alpha` only turns smoothing on
    then. With 0, the given tiles alone set the ranges, and `smooth_alpha` holds for all layers.
    `weight_bits` below 8 limits the weights to the middle values of `int8`; what is stored and how it runs stay.
    With `class_token = "float"` the class token's activations are not rounded (`program.linear`). `keep` names linears
    that stay in the precision of everything else (`edgepath search` finds which).
    """

    smooth_alpha: Share = 0.5
    """SmoothQuant's migration strength; 0 turns smoothing off. With `looks` above 0 each layer gets its own."""
    looks: Looks = 91
    """Synthetic tiles to calibrate on besides yours, each in a stain-scanner combination; 0: yours alone."""
    weight_bits: Bits = 8
    """Bits of the weights; fewer than 8 use the middle values of INT8."""
    class_token: typing.Literal["int8", "float"] = "int8"
    """Whether the class token's activations are rounded to INT8 or stay in floating point (OpenVINO)."""
    keep: tuple[str, ...] = ()
    """Linear layers that stay in floating point, by name; `edgepath search` finds which."""


@dataclass(frozen=True)
class Plan:
    """How one software release of a device builds the artifact: for Jetson, a JetPack and its TensorRT.

    A plan holds for runtimes from version `since` on ("10.12"), up to where the next plan begins.
    """

    release: str
    """Software release of the device, such as a JetPack."""
    runtime: str
    """Runtime that the release brings."""
    since: Annotated[str, Meta(pattern=r"^\d+\.\d+\Z", description="expected MAJOR.MINOR")]
    """First version of the runtime that this plan is for, as MAJOR.MINOR."""
    strongly_typed: bool
    """Whether the graph alone decides on number formats."""
    flags: tuple[str, ...] = ()
    """Flags for the runtime's builder."""
    source: str = ""
    """Where a statement comes from that the maker's documentation does not have."""


@dataclass(frozen=True)
class Deploy:
    """Where the artifact is meant to run.

    `minimum_os` is Core ML's, `plan` TensorRT's, `compute_capabilities` TensorRT-RTX's.
    """

    devices: tuple[str, ...]
    """Devices that it is meant for."""
    minimum_os: str = ""
    """Oldest system that runs it (Core ML)."""
    plan: tuple[Plan, ...] = ()
    compute_capabilities: tuple[str, ...] = ()
    """GPU architectures that engines are built for (TensorRT-RTX)."""


@dataclass(frozen=True)
class RobustnessLoss:
    """How much less robust than the full-precision model an artifact may be: in cosine, and in fractions of tiles."""

    cosine: Share = 0.01
    """Most that the mean cosine of a location's two embeddings may fall."""
    top1: Share = 0.01
    """Most that the fraction of tiles may fall whose nearest tile is their matching tile."""
    top10: Share = 0.01
    """Most that the fraction of tiles may fall whose ten nearest hold their matching tile."""


@dataclass(frozen=True)
class ProbeLoss:
    """How much worse than on the full-precision model's embeddings a probe on the artifact's may be.

    Labels are judged by balanced accuracy and AUROC, gene expression by Pearson's correlation.
    """

    balanced_accuracy: Share = 0.01
    """Most that balanced accuracy of `probe labels` may fall."""
    auroc: Share = 0.01
    """Most that AUROC of `probe labels` may fall."""
    pearson: Share = 0.01
    """Most that Pearson's correlation of `probe hest` may fall."""


@dataclass(frozen=True)
class Latency:
    """How much of full precision's latency INT8 may take: p50 at batch 1, in the same runtime and the same run."""

    of_full_precision: Ratio = 1.0
    """Most that INT8 may take of full precision's median latency, at batch 1 in the same runtime."""


@dataclass(frozen=True)
class Headroom:
    """How far below FP16's largest number, 65,504, all values have to stay: `at_least` 2 allows half of it."""

    at_least: Ratio = 2.0
    """How many times the largest value has to fit into FP16's largest number."""


@dataclass(frozen=True)
class Accept:
    """The gates: smallest cosine to the full-precision reference, as mean and as 1st percentile over tiles."""

    cosine_mean: Share
    """Smallest mean cosine to the full-precision model."""
    cosine_p01: Share
    """Smallest 1st percentile of cosines to the full-precision model."""
    headroom: Headroom = Headroom()
    robustness: RobustnessLoss = RobustnessLoss()
    probe: ProbeLoss = ProbeLoss()
    latency: Latency = Latency()


class QuantizeFacts(TypedDict, total=False):
    """`Quantize` as JSON; older recipes lack what came later."""

    smooth_alpha: float
    looks: int
    weight_bits: int
    class_token: str
    keep: list[str]


class RecipeFacts(TypedDict):
    """`Recipe` as JSON."""

    target: str
    summary: str
    backend: str
    checked_with: str
    precision: dict[str, str]
    deploy: dict[str, object]
    accept: dict[str, object]
    quantize: QuantizeFacts
    schema: int


@dataclass(frozen=True)
class Recipe:
    """A target: what is built, for which device, in which precision, and what is good enough."""

    target: str
    """The target's name, and the end of its bundles' names."""
    summary: str
    """What is built, in a line."""
    backend: str
    """The runtime that it is built for: a module of `edgepath.backends`."""
    checked_with: str
    """What runs the artifact where its device is not here, or "none"."""
    precision: Precision
    deploy: Deploy
    accept: Accept
    quantize: Quantize = Quantize()
    schema: int = SCHEMA
    """Version of the file's schema."""

    @property
    def quantized(self) -> bool:
        """Whether the linear layers have 8 bits, of integers or of FP8 (E4M3)."""
        return self.precision.linear in ("int8", "fp8")

    @property
    def int8(self) -> bool:
        """Whether the linear layers have 8-bit integers."""
        return self.precision.linear == "int8"

    @property
    def fp16(self) -> bool:
        """Whether values outside the 8-bit linears are FP16."""
        return self.precision.other == "fp16"

    def to_json(self) -> RecipeFacts:
        """Return the recipe as JSON reads it back: tables as dict, lists as list."""
        values: RecipeFacts = json.loads(json.dumps(dataclasses.asdict(self)))
        return values

    def to_toml(self) -> str:
        """Return the recipe file that reads back as this recipe; what stands at its default is written, too."""
        return tables.to_toml(self.to_json())

    @classmethod
    def from_json(cls, values: Mapping[str, object], name: str = "recipe") -> Recipe:
        """Build a recipe from parsed TOML or JSON; RecipeError names the first key that is unknown, missing or off."""
        values = _renamed(_without_removed(values))
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
    return values | {"quantize": {key: setting for key, setting in how.items() if setting not in _REMOVED.get(key, ())}}


def _renamed(values: Any) -> Any:
    """Read what older recipes are checked with as what took its place."""
    backend = values.get("backend") if isinstance(values, dict) else None
    if backend not in backends.targets():
        return values
    builds = backends.builds_of(str(backend))
    old = builds.was_checked_with and values.get("checked_with") == builds.was_checked_with
    return values | {"checked_with": builds.checked_with} if old else values


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
    if recipe.quantize.weight_bits < 8 and recipe.precision.linear == "fp8":
        raise RecipeError(f"{who}: quantize.weight_bits = {recipe.quantize.weight_bits}; FP8 weights have 8")
    if problem := builds.check(recipe):
        raise RecipeError(f"{who}: {problem}")

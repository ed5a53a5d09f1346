"""What a model is, said by a file: a hub folder's `config.json`, or the TOML of `--model-config`.

Both name timm's architecture, the arguments it is built with, and what it wants to see. All of that is honoured, or
refused in one line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from ..errors import EdgepathError, UsageError, WeightsError
from ..machine.tables import Line, parse_json, parse_toml, plain, read_facts, read_table, shown
from .arguments import Value, check_arguments, first_contradiction, that_matter
from .spec import FIXED, SIZE, ModelSpec

CONFIG = "config.json"
_LARGEST = 1 << 20
_BRIGHTEST = 16  # of mean and std in 0..1; those of 0..255 are beyond
_Refuse = Callable[[str], EdgepathError]
_Colours = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class ModelConfig:
    """A `--model-config` file: a timm architecture, `model_args` it is built with, and what tiles look like to it."""

    architecture: Line
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: Annotated[str, Meta(pattern=r"^[\w.+-]{1,80}\Z", description="it names folders: letters, digits, . _ + -")]
    licence: Line = "not stated"
    embedding: Literal["cls", "cls+mean"] = "cls"
    model_args: dict[str, Value] = field(default_factory=dict)
    schema: Annotated[int, Meta(ge=1, le=1, description="this edgepath reads schema 1")] = 1


def read_model_config(path: Path) -> ModelSpec:
    """Return the model that a TOML file describes; its name is the file's unless it says another.

    Raises UsageError for a file that is missing or no TOML, an unknown key, or a value out of range.
    """

    def refuse(problem: str) -> UsageError:
        return UsageError(f"model config {path}: {problem}")

    if not path.is_file():
        raise refuse("no such file; give a .toml that names a timm architecture, mean, std and model_args")
    if path.stat().st_size > _LARGEST:
        raise refuse(f"has more than {_LARGEST} bytes; that is no description of a model")
    try:
        values = parse_toml(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise refuse(f"cannot be read as TOML ({error})") from None
    config = read_table(ModelConfig, {"name": path.stem} | values, refuse)
    given = check_arguments(values.get("model_args", {}), lambda problem: refuse(f"model_args.{problem}"))
    mean, std = _colours(config.mean, config.std, refuse)
    return ModelSpec(
        name=config.name,
        summary=f"timm's {config.architecture} as {path.name} describes it",
        timm_name=config.architecture,
        timm_args={"img_size": SIZE} | that_matter(given) | FIXED,
        mean=mean,
        std=std,
        licence=config.licence,
        size=int(given.get("img_size", SIZE)),
        embedding=config.embedding,
    )


@dataclass(frozen=True)
class _Hub:
    """What is needed of a hub folder's `config.json`; what else that holds is about training and classifiers."""

    architecture: Line
    mean: tuple[float, ...]
    std: tuple[float, ...]


def with_hub_config(spec: ModelSpec, folder: Path) -> tuple[ModelSpec, list[str]]:
    """Return `spec` as a folder's `config.json` has it, and in words what a reader should know of the difference.

    A model of a name of its own is what that name says: the file may add to it, not contradict it. `timm:NAME` is an
    architecture: the file's arguments, mean, std and licence hold. Raises WeightsError.
    """

    def refuse(problem: str) -> WeightsError:
        return WeightsError(f"weights {folder}: {CONFIG}: {problem}")

    config, preprocessing = _read_hub_config(folder)
    where = {} if preprocessing is config else {"mean": "pretrained_cfg.mean", "std": "pretrained_cfg.std"}
    hub = read_facts(_Hub, config, refuse, where)
    ours, theirs = spec.timm_name.partition(".")[0], hub.architecture.partition(".")[0]
    if theirs != ours:
        raise refuse(f"architecture is {plain(theirs)}, {spec.name} is {ours}; choose another --model")
    mean, std = _colours(hub.mean, hub.std, refuse)
    arguments_given = {} if config.get("model_args") is None else config["model_args"]
    given = check_arguments(arguments_given, lambda problem: refuse(f"model_args.{problem}"))
    check_arguments(  # once more where timm's own push puts them, beside the arguments
        {name: config[name] for name in ("num_classes", "global_pool") if name in config}, refuse
    )
    arguments, free = that_matter(given), spec.name.startswith("timm:")
    if not free and (name := first_contradiction(arguments, spec.timm_args)):
        raise refuse(
            f"model_args.{name} = {shown(arguments[name])}, {spec.name} has {shown(spec.timm_args[name])}; "
            f"choose --model timm:{ours}, which takes the folder's"
        )
    size = int(arguments.get("img_size", spec.size))
    licence = preprocessing.get("license")
    described = replace(
        spec,
        timm_args={**spec.timm_args, **arguments},
        mean=mean,
        std=std,
        size=size,
        licence=spec.licence if not free else plain(licence) if isinstance(licence, str) else "not stated",
    )
    notes = _differences(preprocessing, described, free, refuse)
    if not free and (mean, std) != (spec.mean, spec.std):
        notes.append(f"mean and std from its {CONFIG}")
    return described, notes


def _differences(preprocessing: Mapping[str, Any], spec: ModelSpec, free: bool, refuse: _Refuse) -> list[str]:
    """Return in words what of the folder's preprocessing is not done: another size of tile, another way to resize."""
    notes = []
    seen = preprocessing.get("input_size", [3, spec.size, spec.size])
    if not isinstance(seen, list) or len(seen) != 3 or seen[0] != 3 or seen[1] != seen[2] or type(seen[1]) is not int:
        raise refuse(f"input_size = {shown(seen)}; expected 3 x S x S, square RGB tiles")
    if seen[1] != spec.size:
        if not free:
            raise refuse(f"input_size is {seen[1]} px, {spec.name} takes {spec.size} px; choose another --model")
        notes.append(f"made for {seen[1]} px, used at {spec.size} px")
    interpolation = preprocessing.get("interpolation", "bicubic")
    if interpolation != "bicubic":
        notes.append(f"meant for {shown(interpolation)} resizing (--resize is bicubic)")
    return notes


def _read_hub_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a `config.json`, and the part of it with mean and std."""
    path = folder / CONFIG
    if path.stat().st_size > _LARGEST:
        raise WeightsError(f"weights {folder}: {CONFIG} has more than {_LARGEST} bytes; that is no timm configuration")
    try:
        config = parse_json(path.read_bytes())
    except (ValueError, OSError) as error:
        raise WeightsError(f"weights {folder}: {CONFIG} is not timm's ({error})") from None
    preprocessing = config.get("pretrained_cfg", config) if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(preprocessing, dict):
        raise WeightsError(f"weights {folder}: {CONFIG} is not timm's ({shown(config)})")
    if "architecture" not in config and (kind := config.get("architectures") or config.get("model_type")):
        kind = kind[0] if isinstance(kind, list) else kind
        raise WeightsError(
            f"weights {folder}: {CONFIG} is of transformers' {plain(str(kind))}, whose weights have other names; "
            "convert them to timm's, or give a file by timm's or Meta's names"
        )
    return config, preprocessing


def _colours(mean: tuple[float, ...], std: tuple[float, ...], refuse: _Refuse) -> _Colours:
    """Return mean and std as three numbers each, of images in 0..1; raise what `refuse` makes of others."""
    finite = all(map(math.isfinite, (*mean, *std)))
    if len(mean) == len(std) == 3 and finite and min(std) > 0 and max(map(abs, (*mean, *std))) <= _BRIGHTEST:
        return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
    raise refuse(f"mean {shown(mean)} and std {shown(std)} are not those of an RGB image in 0..1")

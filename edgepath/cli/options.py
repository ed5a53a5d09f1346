"""Options that several commands have."""

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out tiles that cannot be read, and list them.")]
Threads = Annotated[int, typer.Option(min=0, max=1024, help="CPU threads of the runtime; 0 = its own choice.")]

BundleFolder = Annotated[Path, typer.Argument(help="A bundle folder.")]
Model = Annotated[str, typer.Option(help="A name of `edgepath models`, or timm:NAME.")]
Weights = Annotated[str | None, typer.Option(help="A weights file, a hub snapshot folder, or `random`.")]
SameWeights = Annotated[str | None, typer.Option(help="The full-precision weights, where they were a file.")]
Device = Annotated[str, typer.Option(help="Where the full-precision model runs: auto, cpu, cuda.")]
Plot = Annotated[Path | None, typer.Option(help="Draw the result to this PNG.")]


class Resize(str, Enum):
    """What to do with tiles of another size."""

    refuse = "refuse"
    squash = "squash"
    crop = "crop"


class Embedding(str, Enum):
    """What stands for a tile."""

    cls = "cls"
    cls_mean = "cls+mean"


class Outputs(str, Enum):
    """What the artifact returns."""

    embedding = "embedding"
    tokens = "tokens"


EmbeddingOption = Annotated[Embedding | None, typer.Option(help="Default: the model's own.")]
ResizeOption = Annotated[Resize, typer.Option(help="Tiles of another size: refuse, squash, or crop the centre.")]


def choose_one(context: typer.Context, ways: Mapping[str, Sequence[str]]) -> None:
    """Raise UsageError unless one of `ways`, options by parameter name, was given, without the others' own options."""
    given = {name for name, value in context.params.items() if _said(context, name) and value is not None}
    chosen = [way for way in ways if way in given]
    command = context.info_name
    if len(chosen) != 1:
        found = "both" if chosen else "neither"
        raise UsageError(f"{command}: give {' or '.join(map(_flag, ways))}, one of them; {found} was given")
    for way, own in ways.items():
        if way != chosen[0] and (odd := [name for name in own if name in given]):
            raise UsageError(f"{command}: {_flag(odd[0])} is for {_flag(way)}; leave it out with {_flag(chosen[0])}")


def _said(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"

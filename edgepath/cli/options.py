"""Options that several commands have."""

import os
import re
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError, WeightsError
from .app import MODEL, RESULT, RUN, TILES

if TYPE_CHECKING:
    from ..bundle.bundle import Bundle


def there(given: str | list[str] | None) -> str | list[str] | None:
    """Refuse tiles that are not there, while nothing slow is imported yet."""
    if given:
        from ..tiles.opening import check_there

        for source in [given] if isinstance(given, str) else given:
            check_there(source)
    return given


def weights_there(given: str | None) -> str | None:
    """Refuse weights that are not there, while nothing slow is imported yet."""
    if given and given != "random":
        files = [given, *(given[: match.start()] for match in re.finditer("(?=::)", given))]  # a name may hold colons
        if not any(os.path.lexists(file or ".") for file in files):
            wanted = "give a file, a hub snapshot folder, or random"
            raise WeightsError(f"weights {files[-1]}: no such file or folder; {wanted}")
    return given


AsJson = Annotated[bool, typer.Option("--json", rich_help_panel=RESULT, help="Print the result as JSON.")]
Force = Annotated[bool, typer.Option("--force", rich_help_panel=RESULT, help="Replace an existing output.")]
Strict = Annotated[
    bool,
    typer.Option("--strict", rich_help_panel=RESULT, help="Exit with 1 also where too few samples leave a gate open."),
]
SkipBad = Annotated[
    bool,
    typer.Option("--skip-bad", rich_help_panel=TILES, help="Leave out tiles that cannot be read, and list them."),
]
Anonymous = Annotated[
    bool,
    typer.Option(
        "--anonymous", rich_help_panel=TILES, help="Write the hash of a tile's pixels instead of its file name."
    ),
]
Threads = Annotated[
    int,
    typer.Option(min=0, max=1024, rich_help_panel=RUN, help="CPU threads for the artifact; 0 lets its runtime choose."),
]
Trust = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=RUN, help="A public key or certificate (PEM): refuse a bundle that its owner did not sign."
    ),
]

BundleFolder = Annotated[Path, typer.Argument(help="A bundle folder, as `edgepath export` writes it.")]
_MODEL = "A name of `edgepath models`, timm:NAME, or a .toml file that describes a model"
Model = Annotated[str, typer.Option(rich_help_panel=MODEL, help=f"{_MODEL}.")]
ModelOption = Annotated[str | None, typer.Option(rich_help_panel=MODEL, help=f"{_MODEL}.")]
DemoModel = Annotated[str | None, typer.Option(rich_help_panel=MODEL, help=f"{_MODEL}; default: demo.")]
ReferenceModel = Annotated[str | None, typer.Option(rich_help_panel=MODEL, help=f"{_MODEL}; default: h0-mini.")]
ModelConfig = Annotated[
    str | None,
    typer.Option(rich_help_panel=MODEL, help="A .toml file that describes the model, instead of --model."),
]
Weights = Annotated[
    str | None,
    typer.Option(
        callback=weights_there,
        rich_help_panel=MODEL,
        help="A weights file (FILE::KEY: one model of several), a hub snapshot folder, or `random`.",
    ),
]
SameWeights = Annotated[
    str | None,
    typer.Option(
        callback=weights_there,
        rich_help_panel=MODEL,
        help="The weights that the bundle was exported from, where they were a file (FILE::KEY) or a folder.",
    ),
]
Device = Annotated[
    str, typer.Option(rich_help_panel=RUN, help="Where the full-precision model runs: auto, cpu, cuda, cuda:INDEX.")
]
Plot = Annotated[
    Path | None, typer.Option(rich_help_panel=RESULT, help="Draw the result to this .png file (extra `plots`).")
]


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


EmbeddingOption = Annotated[
    Embedding | None,
    typer.Option(
        rich_help_panel=MODEL,
        help="Class token, or class token followed by the mean of the patch tokens; default: the model's own.",
    ),
]
ResizeOption = Annotated[
    Resize,
    typer.Option(rich_help_panel=TILES, help="Tiles of another size: refuse them, squash them, or crop their centre."),
]


def trusted(bundle: Path, trust: Path | None) -> "Path | Bundle":
    """Return a bundle that was seen to be signed, before anything of it is loaded; without a key, its path as it is.

    The signature is the one beside it. Raises what `open_bundle` raises.
    """
    if trust is None:
        return bundle
    from ..bundle.bundle import open_bundle

    return open_bundle(bundle, trust=trust)


def which_model(name: str | None, config: str | None, default: str = "") -> str:
    """Return the model that `--model` or `--model-config` names. Raises UsageError where both do, or neither has to."""
    if config is None:
        if not (name or default):
            raise UsageError("give --model NAME or --model-config FILE.toml, one of them; neither was given")
        return name or default
    if name is not None:
        raise UsageError(f"--model {name} and --model-config {config}: both name a model; give one of them")
    if not config.endswith(".toml"):
        raise UsageError(f"--model-config {config}: give a .toml file that describes a model")
    return config

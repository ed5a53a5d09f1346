"""Options that several commands have."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out tiles that cannot be read, and list them.")]
Threads = Annotated[int, typer.Option(min=0, max=1024, help="CPU threads of the runtime; 0 = its own choice.")]


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


ResizeOption = Annotated[Resize, typer.Option(help="Tiles of another size: refuse, squash, or crop the centre.")]

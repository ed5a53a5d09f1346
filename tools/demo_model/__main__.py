"""The command: `python -m tools.demo_model TILES OUT --stem FILE`, from the root of a checkout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgepath.errors import EdgepathError
from edgepath.reports.console import print_table, progress_bars
from edgepath.reports.table import table

from .making import make
from .scoring import HEADER, score_rows


def main(
    tiles: Annotated[Path, typer.Argument(help="Folder of the real tiles.")],
    out: Annotated[Path, typer.Argument(help="Folder of the work and its results.")],
    stem: Annotated[Path, typer.Option(help="EfficientNet-Lite2's weights, which the teacher learns from.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    teacher_steps: Annotated[int, typer.Option(help="Steps of the teacher; 0 = as teacher.toml says.")] = 0,
    student_steps: Annotated[int, typer.Option(help="Steps of the student; 0 = as demo.toml says.")] = 0,
) -> None:
    """Make the demo student from real and synthetic tiles."""
    steps = {"teacher_steps": teacher_steps, "student_steps": student_steps}
    with progress_bars() as progress:
        found = make(tiles, out, stem, device=device, **steps, progress=progress)
    print_table(table(HEADER, score_rows(found)))


if __name__ == "__main__":
    try:
        typer.run(main)
    except EdgepathError as error:
        typer.echo(f"edgepath: {error}", err=True)
        sys.exit(2)

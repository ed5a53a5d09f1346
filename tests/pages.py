"""The pages that people read: README, the site's pages, and what else of the repository is on the site."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from edgepath.cli import app

ROOT = Path(__file__).resolve().parent.parent
SITE = sorted(path for path in (ROOT / "docs").rglob("*.md") if "_generated" not in path.parts)
PAGES = [
    ROOT / "README.md",
    *SITE,
    *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "calibration/README.md", "benchmarks/README.md")),
    ROOT / "tools" / "arm" / "README.md",
    *(ROOT / name for name in ("examples/README.md", "tools/demo_model/README.md", "edgepath/shipped/demo/README.md")),
]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def name(path: Path) -> str:
    """Return a page's path in the repository."""
    return path.relative_to(ROOT).as_posix()


def text(page: str) -> str:
    """Return a page by its path in the repository."""
    return (ROOT / page).read_text(encoding="utf-8")


def commands(page: str, program: str) -> list[list[str]]:
    """Return the commands of blocks of a page that call `program`, split into words; comments and `$ ` left out."""
    lines = re.findall(rf"^(?: {{4,}}|\$ )(?:\$ )?{program} (.*)$", page, flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def runnable(page: str) -> list[list[str]]:
    """Return the commands of edgepath in the blocks that are marked with `<!-- run -->`."""
    blocks = re.findall(r"^<!-- run -->\n\n((?: {4}.*\n)+)", page, flags=re.MULTILINE)
    return [words for block in blocks for words in commands(block, "edgepath")]


def every_command() -> Iterator[tuple[str, Any]]:
    """Yield every command that a help text shows, by its words: `export`, `pack build`."""

    def walk(words: str, command: Any) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield words, command
            return
        for word, inner in command.commands.items():
            if not inner.hidden:
                yield from walk(f"{words} {word}".strip(), inner)

    yield from walk("", get_command(app))


def notebook_text(path: Path) -> str:
    """Return the prose of a notebook, as Markdown."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")

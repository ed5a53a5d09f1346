"""What systems leave in folders is told by its name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from edgepath.machine import leftovers
from edgepath.machine.leftovers import is_leftover


@pytest.mark.parametrize(
    "name",
    [
        "._tile.png",
        ".DS_Store",
        "Thumbs.db",
        "thumbs.db",
        "desktop.ini",
        "@eaDir",
        "__MACOSX",
        ".Spotlight-V100",
        "@tmp",
    ],
)
def test_leftovers_are_told_by_name(name: str) -> None:
    assert is_leftover(name)


@pytest.mark.parametrize(
    "name", ["tile.png", ".hidden.png", "DS_Store", "thumbs.png", "_.png", "eaDir", "Thumbs.db.png"]
)
def test_other_names_are_none(name: str) -> None:
    assert not is_leftover(name)


def test_the_kit_knows_the_same() -> None:
    kit = Path(__file__).resolve().parents[2] / "export" / "kit" / "check.py"
    tree = ast.parse(kit.read_text(encoding="utf-8"))
    assigned = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    assert eval(ast.unparse(assigned["LEFTOVERS"])) == leftovers._NAMES

"""What systems leave in folders is told by its name."""

from __future__ import annotations

import pytest

from edgepath.machine.leftovers import is_leftover


@pytest.mark.parametrize(
    "name",
    ["._tile.png", ".DS_Store", "Thumbs.db", "thumbs.db", "desktop.ini", "@eaDir", "__MACOSX", ".Spotlight-V100"],
)
def test_leftovers_are_told_by_name(name: str) -> None:
    assert is_leftover(name)


@pytest.mark.parametrize(
    "name", ["tile.png", ".hidden.png", "DS_Store", "thumbs.png", "_.png", "eaDir", "Thumbs.db.png"]
)
def test_other_names_are_none(name: str) -> None:
    assert not is_leftover(name)

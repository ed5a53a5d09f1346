"""What is known of a tile: from a table beside it, from its folder, from its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgepath.errors import PackError
from edgepath.tiles.opening import open_tiles
from edgepath.tiles.origins import COLUMNS, Row, group_of, origins


def rows(folder: Path, *keys: str, table: str = "", name: str = "manifest.csv") -> dict[str, Row]:
    for key in keys:
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / key)
    if table:
        (folder / name).write_text(table, encoding="utf-8")
    return origins(open_tiles(folder, size=8))


def known(row: Row) -> Row:
    assert tuple(row) == COLUMNS
    return {column: value for column, value in row.items() if value}


def test_folder_and_name_tell_what_they_can(tmp_path: Path) -> None:
    found = rows(tmp_path, "a.png", "lab/day 2/b.png", "lab/cmu1_x1120_y2240.png", "X5-Y7.png", "max_x1_y2_z3.png")
    assert known(found["a.png"]) == {}
    assert known(found["lab/day 2/b.png"]) == {"group": "lab/day 2"}
    assert known(found["lab/cmu1_x1120_y2240.png"]) == {"group": "lab", "slide": "cmu1", "x": "1120", "y": "2240"}
    assert known(found["X5-Y7.png"]) == {"x": "5", "y": "7"}
    assert known(found["max_x1_y2_z3.png"]) == {}


@pytest.mark.parametrize("name", ["manifest.csv", "tiles.csv"])
def test_table_is_believed_before_name_and_folder(tmp_path: Path, name: str) -> None:
    table = (
        "\ufeffPath,slide,x,Stain,scanner,license,mag\n"
        'lab/a_x1_y2.png,s9,77,"H&E, weak",AT2,CC0,0.499 mpp 20x Aperio\n'
        ".\\lab\\b.png,,,,,,40x\n"
        "lab/gone.png,s1,,,,,\n"
    )
    found = rows(tmp_path, "lab/a_x1_y2.png", "lab/b.png", "lab/c.png", table=table, name=name)
    told = {"slide": "s9", "x": "77", "y": "2", "mpp": "0.499", "staining": "H&E, weak", "scanner": "AT2"}
    assert known(found["lab/a_x1_y2.png"]) == told | {"licence": "CC0"}
    assert known(found["lab/b.png"]) == {"group": "lab"}
    assert known(found["lab/c.png"]) == {"group": "lab"}
    assert "lab/gone.png" not in found


def test_groups_are_from_the_widest_to_the_narrowest(tmp_path: Path) -> None:
    table = "path,label,scanner,staining,group,slide\na.png,tumour,AT2,H&E,lab,s1\n"
    row = rows(tmp_path, "a.png", table=table)["a.png"] | {"source": "here"}
    assert group_of(row) == ("here", "lab", "H&E", "AT2", "tumour", "s1")


def test_synthetic_tiles_tell_their_look() -> None:
    source = open_tiles("synthetic:2:5")
    for key, row in origins(source).items():
        look = key.split("_")[1:]
        assert [row["staining"], row["scanner"]] == look
        assert (row["mpp"], row["licence"], row["group"]) == ("0.5", "Apache-2.0", "")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("file,slide\na.png,s1\n", "has no column path .found: file, slide."),
        ("path;slide\na.png;s1\n", "has no column path"),
        ("path,slide\n/somewhere/a.png,s1\n", r"names none of the tiles; .* like a\.png"),
        ('path,slide\n"a.png,s1\n', "cannot be read"),
        ("path,slide\na.png,s1,s2\n", "line 2 has 3 values, there are 2 columns"),
        ("path,slide,slide\na.png,s1,s2\n", "its column slide stands there twice"),
    ],
)
def test_table_that_is_of_no_use_is_refused(tmp_path: Path, table: str, said: str) -> None:
    with pytest.raises(PackError, match=said) as caught:
        rows(tmp_path, "a.png", table=table)
    assert str(caught.value).startswith(str(tmp_path / "manifest.csv"))
    assert "\n" not in str(caught.value)


def test_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes("path,slide\na.png,Präparat\n".encode("latin-1"))
    with pytest.raises(PackError, match="cannot be read"):
        rows(tmp_path, "a.png")

"""Tables are read as they are meant or refused, and hold no formula when they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepath.machine.sheets import as_text, read_sheet


def sheet(folder: Path, text: str) -> Path:
    (folder / "a.csv").write_text(text, encoding="utf-8", newline="")
    return folder / "a.csv"


def test_rows_are_read_by_their_columns(tmp_path: Path) -> None:
    text = '\ufeffPath, Label\r\n"a,b.png", x \r\n\r\nc.png\r\n'
    columns, rows = read_sheet(sheet(tmp_path, text))
    assert columns == ["path", "label"]
    assert rows == [{"path": "a,b.png", "label": "x"}, {"path": "c.png", "label": ""}]
    assert read_sheet(sheet(tmp_path, "")) == ([], [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2,3\n", "line 2 has 3 values, there are 2 columns: a comma too many"),
        ("a,b\n1,2\n1,2,\n", "line 3 has 3 values"),
        ("a,A\n1,2\n", "its column a stands there twice"),
        ('a,b\n"1,2\n', "unexpected end of data"),
    ],
)
def test_what_is_no_table_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        read_sheet(sheet(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x")']
)
def test_formulas_are_written_as_text(value: str) -> None:
    assert as_text(value) == f"'{value}"


@pytest.mark.parametrize("value", ["", "a.png", "lab/=1.png", "-12", "+3.5", "-1e-5", "-", "+", "1+1", "'=1"])
def test_other_values_are_left_as_they_are(value: str) -> None:
    assert as_text(value) == value

"""What a terminal shows."""

from __future__ import annotations

import pytest

from edgepath.errors import printable
from edgepath.reports import console
from edgepath.reports.table import table


def test_tables_keep_what_looks_like_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(table(["what", "to get it"], [["a", "pip install 'edgepath[openvino]'"]]))
    assert "'edgepath[openvino]'" in capsys.readouterr().out


EVIL = "a\x1b]0;owned\x07\x1b[31m\nb\u202e\udcff.png"
PLAIN = r"a\x1b]0;owned\x07\x1b[31m\nb\u202e\udcff.png"


def test_names_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.say_skipped([(EVIL, f"cannot be read ({EVIL})")])
    console.say_cautions([f"Of {EVIL}"])
    console.print_table(table(["tile"], [[EVIL]]))
    said = capsys.readouterr()
    assert said.err == f"skipped {PLAIN}: cannot be read ({PLAIN})\nOf {PLAIN}\n"
    assert PLAIN in said.out
    assert printable("Präparat 東京 №1.png") == "Präparat 東京 №1.png"


def test_cautions_and_bars_leave_stdout_to_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    console.say_cautions(["Weights: random."])
    with console.progress_bars() as progress:
        progress("calibrate", 3, 3)
    said = capsys.readouterr()
    assert said.out == ""
    assert "Weights: random." in said.err
    assert "calibrate" in said.err

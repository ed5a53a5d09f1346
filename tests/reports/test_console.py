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


def test_a_log_has_a_line_as_a_stage_begins_and_one_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 1.0, 59.0, 61.0, 62.0])
    monkeypatch.setattr("edgepath.reports.console.time.monotonic", lambda: next(now))
    with console.progress_bars() as progress:
        for stage, done in (("calibrate", 0), ("calibrate", 1), ("tune", 0), ("calibrate", 7), ("tune", 1)):
            progress(stage, done, 8)
    assert capsys.readouterr().err == "calibrate 0/8\ntune 0/8\ncalibrate 7/8\n"


@pytest.mark.parametrize("width", [66, 72, 80, 100])
def test_numbers_are_never_broken_where_there_is_room_for_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    header = ["pairs that differ in", "pairs", "", "cosine", "top-1", "top-3", "top-5", "top-10"]
    numbers = ["0.9307", "0.0917", "0.1875", "0.2125", "0.3125"]
    console.print_table(table(header, [["scanner only", "6", "full precision", *numbers]]))
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= width
    assert [number for number in [*numbers, "top-10"] if number not in said] == []

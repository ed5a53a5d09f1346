"""What a terminal shows."""

from __future__ import annotations

import pytest

from edgepath.reports import console
from edgepath.reports.table import table


def test_tables_keep_what_looks_like_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(table(["what", "to get it"], [["a", "pip install 'edgepath[openvino]'"]]))
    assert "'edgepath[openvino]'" in capsys.readouterr().out


def test_cautions_and_bars_leave_stdout_to_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    console.say_cautions(["Weights: random."])
    with console.progress_bars() as progress:
        progress("calibrate", 3, 3)
    said = capsys.readouterr()
    assert said.out == ""
    assert "Weights: random." in said.err
    assert "calibrate" in said.err

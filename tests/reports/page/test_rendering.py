"""Nothing that comes in as a value can become a part of the page, and none that is missing goes unseen."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from jinja2 import UndefinedError

from edgepath.reports.page.rendering import clean, render, templates
from edgepath.reports.table import table

PARTS: Any = templates().get_template("parts.html.j2").module

EVIL = "<script>alert('x')</script>\" onload=\"x"


class Tags(HTMLParser):
    """The tags of a piece of HTML, their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(str(html))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_values_stay_text_wherever_they_go() -> None:
    pieces = (
        PARTS.table(table([EVIL, EVIL], [[EVIL, EVIL]]), EVIL),
        PARTS.table(table([EVIL, ""], [(EVIL, True)]), "gates"),
        PARTS.ran_with({EVIL: EVIL}),
        render("devices.html.j2", reports=table([EVIL], [[EVIL]])),
    )
    for piece in pieces:
        read = Tags(piece)
        assert "script" not in read.tags
        assert "onload" not in dict(read.attributes)
        assert EVIL in read.text


def test_characters_that_show_as_something_else_are_replaced() -> None:
    assert clean("a\x00b\u202ec\udcffd\te") == "a\ufffdb\ufffdc\ufffdd\te"
    assert clean("Ödön 切片 – ×") == "Ödön 切片 – ×"
    page = PARTS.ran_with({b"\xff.png".decode(errors="surrogateescape"): "a\u202eb"})
    assert "a\ufffdb" in page.encode().decode()  # a file's name that is no text can be written


def test_a_value_that_is_missing_is_said() -> None:
    with pytest.raises(UndefinedError, match="reports"):
        render("devices.html.j2")


def test_numbers_stand_right_and_verdicts_are_values() -> None:
    rows = [("cosine", "0.9998", ">= 0.99", True), ("x", "-", "1", False)]
    html = PARTS.table(table(["gate", "measured", "required", ""], rows), "gates")
    assert html.count('<td class="number">') == 4
    assert html.count('<th scope="col" class="number">') == 2
    assert '<td class="ok">✓ ok</td>' in html
    assert '<td class="failed">✗ FAILED</td>' in html
    assert '<td class="number">0.41 ± 0.02</td>' in PARTS.table(table(["task", "mean"], [["a", "0.41 ± 0.02"]]))
    assert "<td>07.png</td>" in PARTS.table(table(["", "tile"], [["a", "07.png"]]))
    assert "<td>FAILED</td>" in PARTS.table(table(["", "word"], [["a", "FAILED"]]))

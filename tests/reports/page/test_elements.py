"""Nothing that comes in as a value can become a part of the page."""

from __future__ import annotations

from html.parser import HTMLParser

from edgepath.reports.page.elements import (
    escape,
    figure,
    folded,
    paragraph,
    remarks,
    section,
    side_by_side,
    table,
    transposed,
)

EVIL = "<script>alert('x')</script>\" onload=\"x"


class Tags(HTMLParser):
    """The tags of a piece of HTML, their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_values_stay_text_wherever_they_go() -> None:
    pieces = (
        paragraph(EVIL),
        remarks([EVIL]),
        section(EVIL, EVIL, ""),
        figure("", EVIL),
        folded(EVIL, ""),
        table([EVIL, EVIL], [[EVIL, EVIL]]),
        transposed([EVIL, EVIL], [[EVIL, EVIL]]),
        side_by_side(paragraph(EVIL)),
    )
    for piece in pieces:
        read = Tags(piece)
        assert "script" not in read.tags
        assert "onload" not in dict(read.attributes)
        assert EVIL in read.text


def test_characters_that_show_as_something_else_are_replaced() -> None:
    assert escape("a\x00b\u202ec\udcffd\te") == "a\ufffdb\ufffdc\ufffdd\te"
    assert escape("Ödön 切片 – ×") == "Ödön 切片 – ×"
    escape(b"\xff.png".decode(errors="surrogateescape")).encode()  # a file's name that is no text can be written


def test_numbers_stand_right_and_verdicts_say_their_word() -> None:
    html = table(
        ["gate", "measured", "required", ""], [["cosine", "0.9998", ">= 0.99", "ok"], ["x", "-", "1", "FAILED"]]
    )
    assert html.count('<td class="number">') == 4
    assert '<td class="ok">✓ ok</td>' in html
    assert '<td class="failed">✗ FAILED</td>' in html
    assert '<td class="number">0.41 ± 0.02</td>' in table(["task", "mean"], [["a", "0.41 ± 0.02"]])
    assert "<td>07.png</td>" in table(["", "tile"], [["a", "07.png"]])


def test_a_table_is_turned() -> None:
    turned = transposed(["drift", "tiles"], [["total", "32"], ["lowering", "8"]])
    assert turned == table(["drift", "total", "lowering"], [["tiles", "32", "8"]])

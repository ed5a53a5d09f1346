"""Templates to HTML. What goes in is escaped there, so that a tile's name cannot become a part of the page."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ...checks.verdicts import Verdict

_NUMBER = re.compile(r"([<>]=? ?)?[+-]?\d[\d,.]*(e[+-]?\d+)?( ± \d[\d.]*)?( ?(%|s|ms|MB|GiB))?|-|inf|nan")
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def render(template: str, **values: object) -> Markup:
    """Return a template's HTML. Raises jinja2.UndefinedError for a value that the template needs and has not got."""
    return Markup(templates().get_template(template).render(values))


@cache
def templates() -> Environment:
    """Return the page's templates."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=clean,
    )
    environment.tests["a_verdict"] = lambda value: isinstance(value, Verdict)
    environment.tests["like_a_number"] = lambda value: isinstance(value, str) and bool(_NUMBER.fullmatch(value))
    return environment


def clean(value: object) -> object:
    """Return a value for a page, without characters that show as something else.

    Control characters, those that turn the direction of text, and bytes of file names that are no text become U+FFFD.
    """
    return value if isinstance(value, Markup) else _UNSEEN.sub("\ufffd", str(value))

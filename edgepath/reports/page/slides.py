"""What `edgepath slides` made, as a section of the page: a row a slide, and pictures of those that drifted most."""

from __future__ import annotations

import base64
from pathlib import Path

from ...errors import UsageError
from ...slides.results import SlideRow, SlidesResult
from ..tables.slides import slide_table
from .document import KINDS, Section
from .rendering import render

MOST = 12
"""Pictures on a page; each takes some 300 KB of it."""
_LARGEST = 8 << 20  # bytes of a picture
_PNG = b"\x89PNG\r\n\x1a\n"


def slides_section(result: SlidesResult) -> Section:
    """Return the table of slides and up to `MOST` pictures, farthest from full precision first where that is known.

    Raises UsageError for a picture that is not where the result says.
    """
    drawn = sorted((row for row in result["slides"] if row["picture"]), key=_nearest)
    body = render(
        "slides.html.j2",
        slides=slide_table(result),
        count=len(result["slides"]),
        tiles=sum(row["tiles"] for row in result["slides"]),
        drawn=len(drawn),
        compared=any(row["cosine_min"] is not None for row in drawn),
        pictures=[(row["id"], _uri(Path(result["out"]) / str(row["picture"]))) for row in drawn[:MOST]],
        ran_with=result["ran_with"],
    )
    return Section("slides", KINDS["slides"][0], body, notes=tuple(result["notes"]))


def _nearest(row: SlideRow) -> float:
    return 1.0 if row["cosine_min"] is None else row["cosine_min"]


def _uri(path: Path) -> str:
    """Return a PNG as it is, as a data URI."""
    try:
        with open(path, "rb") as file:
            png = file.read(_LARGEST + 1)
    except OSError as error:
        where = "run report page in the folder that slides was run in, or slides again with --picture"
        raise UsageError(f"picture {path}: cannot be read ({error.strerror}); {where}") from None
    if not png.startswith(_PNG) or len(png) > _LARGEST:
        raise UsageError(f"picture {path}: is no PNG of at most {_LARGEST >> 20} MB; run slides again with --picture")
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")

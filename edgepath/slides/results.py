"""What is said of slides, as JSON-able values."""

from __future__ import annotations

from typing import Literal, TypedDict

State = Literal["done", "kept", "partial", "failed", "no tissue"]
GOOD: tuple[State, ...] = ("done", "kept", "partial", "no tissue")


class SlideRow(TypedDict):
    """What became of a slide: `partial` lacks tiles that could not be decoded, `kept` was there already.

    `mpp` is um per pixel of its finest level, `cosine_mean` and `cosine_min` those to full precision, where measured,
    `picture` a PNG below the output.
    """

    id: str
    state: State
    tiles: int
    bad: int
    seconds: float
    mpp: float | None
    message: str
    cautions: list[str]
    cosine_mean: float | None
    cosine_min: float | None
    picture: str | None


class Finished(TypedDict, total=False):
    """What is known of a slide once its embeddings are compared and drawn, for its row."""

    cosine_mean: float
    cosine_min: float
    picture: str


class SlidesResult(TypedDict):
    """What embedding slides returns; `out` is the folder of features, as it was given."""

    kind: Literal["slides"]
    name: str
    bundle: str
    ran_with: str
    out: str
    cautions: list[str]
    notes: list[str]
    slides: list[SlideRow]


def row(id: str, state: State, message: str = "", *, tiles: int = 0, bad: int = 0, seconds: float = 0.0) -> SlideRow:
    """Return what is said of a slide of which no more is known."""
    return SlideRow(
        id=id,
        state=state,
        tiles=tiles,
        bad=bad,
        seconds=seconds,
        mpp=None,
        message=message,
        cautions=[],
        cosine_mean=None,
        cosine_min=None,
        picture=None,
    )

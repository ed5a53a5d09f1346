"""The three verdicts of a non-inferiority test."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum


class Verdict(str, Enum):
    """What a sample says of a figure that is held against a bound, with 95 % confidence; JSON-able.

    `inconclusive`: the sample is too small to tell.
    """

    NON_INFERIOR = "non-inferior"
    INFERIOR = "inferior"
    INCONCLUSIVE = "inconclusive"


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict over all: inferior where one is, else inconclusive where one is."""
    given = set(verdicts)
    worst = (Verdict.INFERIOR, Verdict.INCONCLUSIVE, Verdict.NON_INFERIOR)
    return next((verdict for verdict in worst if verdict in given), Verdict.NON_INFERIOR)

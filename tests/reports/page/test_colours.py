"""Colours that are told apart by people who see fewer of them, with text that is read on each."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

from edgepath.reports.page.colours import (
    BLUES,
    ORANGE_TO_PURPLE,
    RGB,
    contrast,
    shade,
    style,
)

# Viénot, Brettel & Mollon (1999), table of the reduction to two cones, in linear light: who lacks red, who lacks green.
REDUCTIONS = {
    "protanopia": np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]]),
    "deuteranopia": np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]]),
}


def seen(colour: RGB, by: str) -> np.ndarray:
    return REDUCTIONS[by] @ (np.array(colour) / 255) ** 2.2


@pytest.mark.parametrize("scale", [BLUES, ORANGE_TO_PURPLE])
def test_text_is_read_on_every_colour(scale: tuple[RGB, ...]) -> None:
    for share in np.linspace(0, 1, 101):
        ground, text = re.findall(r"#(\w{6})", style(shade(scale, share)))
        ratio = contrast(tuple(bytes.fromhex(ground)), tuple(bytes.fromhex(text)))  # type: ignore[arg-type]
        assert ratio >= 4.5  # WCAG 2.2, level AA


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)  # the known grey just below AA


def test_blues_get_darker_all_the_way() -> None:
    lights = [contrast(shade(BLUES, share), (0, 0, 0)) for share in np.linspace(0, 1, 41)]
    assert all(after < before for before, after in pairwise(lights))


@pytest.mark.parametrize("by", REDUCTIONS)
def test_lost_and_gained_are_told_apart(by: str) -> None:
    for share in (0.0, 0.1, 0.2, 0.3):
        lost, gained = (seen(shade(ORANGE_TO_PURPLE, at), by) for at in (share, 1 - share))
        assert lost[2] / lost.sum() + 0.1 < gained[2] / gained.sum()  # bluer, which both still see


def test_shares_beyond_the_scale_take_its_ends() -> None:
    assert shade(BLUES, -3) == shade(BLUES, 0) == BLUES[0]
    assert shade(BLUES, 9) == BLUES[-1]
    assert shade(ORANGE_TO_PURPLE, 0.5) == (247, 247, 247)

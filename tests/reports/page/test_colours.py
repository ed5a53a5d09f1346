"""Colours that are told apart by people who see fewer of them, with text that is read on each."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from edgepath.reports.page.colours import RGB, Scale, contrast, ink, luminance, shade, written

# Viénot, Brettel & Mollon (1999), table of the reduction to two cones, in linear light: who lacks red, who lacks green.
REDUCTIONS = {
    "protanopia": np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]]),
    "deuteranopia": np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]]),
}


def seen(colour: RGB, by: str) -> np.ndarray:
    return REDUCTIONS[by] @ np.array(colour) ** 2.2


@pytest.mark.parametrize("scale", ["Blues", "PuOr"])
def test_text_is_read_on_every_colour(scale: Scale) -> None:
    for share in np.linspace(0, 1, 101):
        ground = shade(scale, share)
        text = {"#000000": 0.0, "#ffffff": 1.0}[ink(ground)]
        assert contrast(luminance(ground), text) >= 4.5  # WCAG 2.2, level AA


def test_contrast_is_that_of_the_standard() -> None:
    white, grey = luminance((1.0, 1.0, 1.0)), luminance((119 / 255, 119 / 255, 119 / 255))
    assert contrast(luminance((0.0, 0.0, 0.0)), white) == pytest.approx(21)
    assert contrast(grey, white) == pytest.approx(4.48, abs=0.01)  # the known grey just below AA


def test_blues_get_darker_all_the_way() -> None:
    lights = [luminance(shade("Blues", share)) for share in np.linspace(0, 1, 41)]
    assert all(after < before for before, after in pairwise(lights))


@pytest.mark.parametrize("by", REDUCTIONS)
def test_lost_and_gained_are_told_apart(by: str) -> None:
    for share in (0.0, 0.1, 0.2, 0.3):
        lost, gained = (seen(shade("PuOr", at), by) for at in (share, 1 - share))
        assert lost[2] / lost.sum() + 0.1 < gained[2] / gained.sum()  # bluer, which both still see


def test_shares_beyond_the_scale_take_its_ends() -> None:
    # ColorBrewer's own first and last colours
    assert written(shade("Blues", -3)) == written(shade("Blues", 0)) == "#f7fbff"
    assert written(shade("Blues", 9)) == "#08306b"
    assert shade("PuOr", 0.5) == pytest.approx([247 / 255] * 3, abs=0.01)

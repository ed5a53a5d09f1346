"""Schedules against DINO's own, written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from edgepath.distillation.schedules import cosine, linear


def test_cosine_is_dinos_after_the_warm_up() -> None:
    places = np.arange(100 - 10)
    wanted = 0.1 + 0.5 * (2.0 - 0.1) * (1 + np.cos(np.pi * places / len(places)))
    assert [cosine(step, 100, 2.0, 0.1, 10) for step in range(10, 100)] == pytest.approx(wanted.tolist())


def test_warm_up_rises_to_the_start_and_wastes_no_step() -> None:
    assert [cosine(step, 100, 2.0, 0.1, 4) for step in range(5)] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])


def test_cosine_rises_too_and_ends_at_its_end() -> None:
    assert cosine(0, 50, 0.9, 1.0) == pytest.approx(0.9)
    assert cosine(50, 50, 0.9, 1.0) == pytest.approx(1.0)


def test_linear() -> None:
    assert [linear(step, 0.04, 0.08, 4) for step in range(6)] == pytest.approx([0.04, 0.05, 0.06, 0.07, 0.08, 0.08])
    assert linear(0, 0.04, 0.08, 0) == 0.08

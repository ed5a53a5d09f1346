"""Tiny teacher and student, and a run of a few steps on a few tiles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_models import RECIPE, SMALL, STUDENT, TEACHER

from edgepath.distillation.training import distill


@pytest.fixture
def small() -> dict[str, Any]:
    """Options of the smallest run."""
    return dict(SMALL)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Distil `small` from `large` on 8 synthetic tiles into `tmp_path/run`; options by keyword `options`."""

    def distilled(**changes: Any) -> dict[str, Any]:
        options = SMALL | changes.pop("options", {})
        words: dict[str, Any] = {
            "teacher": TEACHER,
            "student": STUDENT,
            "tiles": "synthetic:8",
            "out": tmp_path / "run",
        }
        return distill(**(words | {"recipe": RECIPE, "device": "cpu", "options": options} | changes))

    return distilled

"""What is said of a release in several places is the same everywhere; what the forms name is there."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

import edgepath

FORMS = ("bug", "device_report", "new_target")


@pytest.fixture(scope="module")
def citation(checkout: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((checkout / "CITATION.cff").read_text(encoding="utf-8"))
    return found


def test_release_is_dated_once_and_cited(checkout: Path, citation: dict[str, Any]) -> None:
    text = (checkout / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", text, flags=re.MULTILINE)
    assert text.index("## [Unreleased]") < text.index(f"## [{released[0][0]}]")
    assert released[0] == (edgepath.__version__, citation["date-released"].isoformat())
    days = [date.fromisoformat(day) for _, day in released]
    assert days == sorted(days, reverse=True)
    assert citation["version"] == edgepath.__version__


def test_supported_release_is_the_one_that_is_out(checkout: Path) -> None:
    minor = ".".join(edgepath.__version__.split(".")[:2])
    assert f"| {minor}.x | yes |" in (checkout / "SECURITY.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FORMS)
def test_form_is_one_that_can_be_filled_in(checkout: Path, name: str) -> None:
    form = yaml.safe_load((checkout / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text(encoding="utf-8"))
    assert form.keys() >= {"name", "description", "body"}
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)


def test_hooks_run_what_make_does(checkout: Path) -> None:
    hooks = yaml.safe_load((checkout / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    recipes = re.findall(r"^\t\$\(BIN\)/(\w+)(?: |$)", (checkout / "Makefile").read_text(), flags=re.MULTILINE)
    assert tools == {"ruff", "codespell", "mypy"} <= set(recipes)

"""Recipes are read strictly, and hold only what differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_models import RECIPE

from edgepath.distillation.options import differences, load_options, parse_changes
from edgepath.errors import RecipeError, UsageError


def test_recipes_load_and_the_demos_changes_what_it_names() -> None:
    recipe, demo = load_options(), load_options(RECIPE)
    assert demo.training.steps != recipe.training.steps
    assert demo.training.clip == recipe.training.clip
    assert demo.loss.student_temperature == demo.loss.teacher_temperature == demo.loss.teacher_temperature_start
    assert recipe.to_json()["views"]["global_scale"] == [0.32, 1.0]


def test_a_file_and_then_single_options_come_last(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[training]\nsteps = 7\nbatch = 3\n")
    options = load_options(str(path), parse_changes(["training.batch=5", "loss.centering=mean"]))
    assert (options.training.steps, options.training.batch, options.loss.centering) == (7, 5, "mean")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training.step": 3}, 'training.step is not a key; did you mean "steps"'),
        ({"trainin.steps": 3}, 'trainin is not a key; did you mean "training"'),
        ({"training.steps": "3"}, "training.steps = '3'; expected int"),
        ({"training.steps": 0}, "training.steps = 0; at least 1"),
        ({"loss.centering": "sinkhron"}, 'did you mean "sinkhorn"'),
        ({"loss.teacher_temperature": 0.0}, "loss.teacher_temperature = 0.0; a number above 0"),
        ({"views.global_scale": [0.5]}, "views.global_scale = [0.5]; two numbers"),
        ({"training.ema": 1.5}, "training.ema = 1.5; a number from 0 to 1"),
        ({"views.global_count": 1, "views.local_count": 0}, "views.global_count = 1; at least 2"),
        ({"training.learning_rate": float("nan")}, "training.learning_rate = nan"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_options("recipe", changes)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_unknown_recipe_and_malformed_change() -> None:
    with pytest.raises(UsageError, match=r'"recipes" is not known; give "recipe", or a \.toml file'):
        load_options("recipes")
    with pytest.raises(UsageError, match=r"give TABLE\.KEY=VALUE"):
        parse_changes(["steps=3"])


def test_threads_of_an_earlier_version_are_told_what_to_set() -> None:
    with pytest.raises(RecipeError, match=r"run\.threads is not a key; .* set run\.workers"):
        load_options(RECIPE, {"run.threads": 2})


def test_differences_name_options_but_not_those_that_change_no_weight() -> None:
    before = load_options(RECIPE).to_json()
    now = load_options(RECIPE, {"loss.dino": 2.0, "run.workers": 7}).to_json()
    assert differences(now, before) == ["loss.dino is 2.0, was 1.0"]

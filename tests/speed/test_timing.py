"""Rounds: one after the other, every sample kept, and a budget that does not take all rounds away."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest

from edgepath.speed.timing import (
    FEWEST,
    SETTLED_S,
    in_turn,
    percentiles,
    ratio,
)


def test_each_is_called_in_turn_and_every_sample_is_kept() -> None:
    calls: list[str] = []

    def run(name: str) -> None:
        calls.append(name)
        time.sleep(SETTLED_S + 0.01)  # long enough to be timed without an untimed call before

    found = in_turn({name: partial(run, name) for name in "ab"}, rounds=4, warm_up=2)
    assert calls == ["a", "a", "b", "b", *"abababab"]
    assert {name: len(samples) for name, samples in found.items()} == {"a": 4, "b": 4}
    assert all((samples >= SETTLED_S * 1e3).all() for samples in found.values())


def test_a_short_call_is_settled_by_an_untimed_one() -> None:
    calls: list[str] = []
    in_turn({name: partial(calls.append, name) for name in "ab"}, rounds=3, warm_up=1)
    assert calls == ["a", "b", *"aabb" * 3]


def test_budget_ends_rounds_but_leaves_three() -> None:
    slow = partial(time.sleep, 0.06)
    assert len(in_turn({"slow": slow}, rounds=40, seconds=0.01)["slow"]) == FEWEST
    assert FEWEST < len(in_turn({"slow": slow}, rounds=40, seconds=0.6)["slow"]) < 40


def test_ratio_is_the_median_of_ratios_in_a_round() -> None:
    theirs = np.array([100.0, 100.0, 900.0, 100.0, 100.0])
    slow_machine = np.array([1.0, 3.0, 1.0, 2.0, 1.0])
    ours = theirs * slow_machine * 0.5 / slow_machine
    assert ratio(ours * slow_machine, theirs * slow_machine) == pytest.approx(0.5)
    assert ratio(np.array([1.0, 2.0, 9.0]), np.array([1.0, 1.0, 1.0])) == 2.0


def test_percentiles_are_numpys() -> None:
    samples = np.random.default_rng(0).gamma(2.0, 10.0, 200)
    assert percentiles(samples) == {
        f"p{q}": pytest.approx(np.percentile(samples, q), abs=1e-4) for q in (50, 90, 95, 99)
    }
    assert set(percentiles(np.array([3.0])).values()) == {3.0}

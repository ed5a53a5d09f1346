"""Rounds: one after the other, every sample kept, and a budget that does not take all rounds away."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from edgepath.speed.timing import FEWEST, SETTLED_S, in_turn, percentiles, ratio


class Clock:
    """A clock that only goes on by what calls are said to take: no test waits, nor depends on the machine's speed."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, list[str]()

    def __call__(self) -> float:
        return self.now

    def run(self, name: str, seconds: float) -> None:
        self.calls.append(name)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_each_is_called_in_turn_and_every_sample_is_kept(clock: Clock) -> None:
    runs = {"a": partial(clock.run, "a", 0.0625), "b": partial(clock.run, "b", 0.125)}
    assert min(0.0625, 0.125) > SETTLED_S  # so no untimed call comes before
    found = in_turn(runs, rounds=4, warm_up=2, clock=clock)
    assert clock.calls[:4] == ["a", "a", "b", "b"]
    assert [sorted(clock.calls[i : i + 2]) for i in range(4, 12, 2)] == [["a", "b"]] * 4
    assert {name: samples.tolist() for name, samples in found.items()} == {"a": [62.5] * 4, "b": [125.0] * 4}


def test_a_short_call_is_settled_by_an_untimed_one(clock: Clock) -> None:
    found = in_turn({name: partial(clock.run, name, 0.03125) for name in "ab"}, rounds=3, warm_up=1, clock=clock)
    assert all(first == then for first, then in zip(clock.calls[2::2], clock.calls[3::2], strict=True))
    assert len(clock.calls) == 2 + 2 * 2 * 3
    assert found["a"].tolist() == [31.25] * 3


def test_rounds_have_orders_of_their_own_the_same_in_every_run(clock: Clock) -> None:
    runs = {name: partial(clock.run, name, 0.0625) for name in "abcd"}
    in_turn(runs, rounds=12, warm_up=1, clock=clock)
    first = clock.calls.copy()
    assert len({tuple(first[i : i + 4]) for i in range(4, len(first), 4)}) > 6
    clock.calls.clear()
    in_turn(runs, rounds=12, warm_up=1, clock=clock)
    assert clock.calls == first


def test_budget_ends_rounds_but_leaves_three(clock: Clock) -> None:
    slow = {"slow": partial(clock.run, "slow", 0.0625)}
    assert len(in_turn(slow, rounds=40, seconds=0.01, clock=clock)["slow"]) == FEWEST
    assert len(in_turn(slow, rounds=40, seconds=1.0, clock=clock)["slow"]) == 16
    assert len(in_turn(slow, rounds=12, seconds=1.0, clock=clock)["slow"]) == 12


def test_warm_up_takes_a_fifth_of_the_seconds_and_at_least_one_call(clock: Clock) -> None:
    for seconds, calls in ((10.0, 5), (1.0, 4), (0.01, 1)):
        clock.calls.clear()
        in_turn({"slow": partial(clock.run, "slow", 0.0625)}, rounds=3, seconds=seconds, warm_up=5, clock=clock)
        assert len(clock.calls) == calls + 3


def test_ratio_is_the_median_of_ratios_in_a_round() -> None:
    theirs = np.array([100.0, 100.0, 900.0, 100.0, 100.0])
    slow_machine = np.array([1.0, 3.0, 1.0, 2.0, 1.0])
    ours = theirs * slow_machine * 0.5 / slow_machine
    assert ratio(ours * slow_machine, theirs * slow_machine) == pytest.approx(0.5)
    assert ratio(np.array([1.0, 2.0, 9.0]), np.array([1.0, 1.0, 1.0])) == 2.0


def test_percentiles_are_numpys_and_the_last_two_need_a_hundred_samples() -> None:
    samples = np.random.default_rng(0).gamma(2.0, 10.0, 200)
    assert percentiles(samples) == {
        f"p{q}": pytest.approx(np.percentile(samples, q), abs=1e-4) for q in (50, 90, 95, 99)
    }
    assert percentiles(samples[:100])["p99"] is not None
    few = percentiles(samples[:99])
    assert (few["p95"], few["p99"]) == (None, None)
    assert few["p90"] == pytest.approx(np.percentile(samples[:99], 90), abs=1e-4)

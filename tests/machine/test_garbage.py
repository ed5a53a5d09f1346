"""A process of edgepath's own collects young garbage as ever, and looks at old objects seldom."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from edgepath.machine.garbage import OLD, spare_old_objects


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)


def whole_collections(count: int) -> int:
    """How often all objects are looked at while `count` objects that stay are made."""
    gc.collect()
    before = gc.get_stats()[2]["collections"]
    kept = [[i] for i in range(count)]
    assert len(kept) == count
    return gc.get_stats()[2]["collections"] - before


def test_all_objects_are_looked_at_less_often() -> None:
    count = 30 * 700 * 10
    gc.set_threshold(700, 10, 10)
    as_python_does = whole_collections(count)
    spare_old_objects()
    assert gc.get_threshold() == (700, 10, OLD)
    assert whole_collections(count) < as_python_does


def test_what_lived_shortly_is_collected() -> None:
    spare_old_objects()

    class Loop:
        def __init__(self) -> None:
            self.own = self

    for _ in range(20_000):
        Loop()
    assert sum(type(one) is Loop for one in gc.get_objects()) < 5_000

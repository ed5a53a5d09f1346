"""A process that is limited to cores, and is not any more afterwards."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from edgepath.errors import UsageError
from edgepath.speed.pinning import pinned

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system limits no process to cores")


def test_what_is_started_inside_has_the_same_cores() -> None:
    before = os.sched_getaffinity(0)
    with pinned(1) as pinning:
        assert pinning.threads == 1
        assert os.sched_getaffinity(0) == {min(before)}
        script = "import os; print(len(os.sched_getaffinity(0)))"
        assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "1\n"
        assert f"cores {min(before)};" in pinning.how
    assert os.sched_getaffinity(0) == before
    with pinned() as pinning:
        assert pinning.threads == len(before)


def test_cores_are_given_back_after_an_error() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(RuntimeError, match="inside"), pinned(1):
        raise RuntimeError("inside")
    assert os.sched_getaffinity(0) == before


def test_more_threads_than_cores_are_refused() -> None:
    many = len(os.sched_getaffinity(0)) + 1
    with pytest.raises(UsageError, match=f"{many} threads on {many - 1} cores"), pinned(many):
        pass

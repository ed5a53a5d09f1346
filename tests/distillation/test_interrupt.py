"""Ctrl-C ends a run at a saved step, a second one at once, and nowhere else does it mean anything new."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from other_process import STOPPED, command, environment

from edgepath.distillation.interrupt import finish_steps

Run = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Have Ctrl-C's usual handler, which a shell's background jobs lack."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_step_is_saved_and_the_run_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    def run(name: str, how: str) -> int:
        options = {"training.steps": 5, "run.checkpoint_every": 1000}
        return subprocess.run([sys.executable, *command(tmp_path / name, options, how)], env=environment()).returncode

    assert run("run", "press") == STOPPED
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 3
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert run("run", "resume") == run("whole", "start") == 0
    kept, whole = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("run", "whole"))
    assert all(torch.equal(kept["ema"][name], value) for name, value in whole["ema"].items())


def test_a_second_one_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), finish_steps(alone=True) as stopped:
        assert not stopped()
        press()
        assert stopped()
        press()


def test_it_means_what_it_meant_in_several_processes_and_where_a_caller_handles_it() -> None:
    with pytest.raises(KeyboardInterrupt), finish_steps(alone=False):
        press()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with finish_steps(alone=True) as stopped:
        press()
        assert not stopped()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN

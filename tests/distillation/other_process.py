"""A run in a process of its own, which ends as a user's may: killed, interrupted, or shared by several."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

STOPPED = 130
"""The exit code of a run that ended with KeyboardInterrupt and left Ctrl-C as it was."""


def command(out: Path, changes: dict[str, Any], how: str = "start", student: str = "small") -> list[str]:
    """Return what follows `python` to distil into `out`, with options changed.

    `how`: `start`; `resume`; `die` of SIGKILL at step 3; `press` Ctrl-C at step 2; `stop` at step 2.
    `student`: `small`, or `deeper`, which draws numbers as it trains.
    """
    return [str(Path(__file__)), str(out), json.dumps(changes), how, student]


def environment() -> dict[str, str]:
    # One thread: two processes on two cores, and the same sums in both kinds of run.
    return os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main(out: str, changes: str, how: str, student: str) -> None:
    from edgepath.machine.garbage import spare_old_objects

    spare_old_objects()  # before what it is about: as the command does
    from small_models import DEEPER, RECIPE, SMALL, STUDENT, TEACHER

    from edgepath.distillation.training import distill

    def progress(stage: str, done: int, total: int) -> None:
        at = done if stage == "distil" else 0
        if how == "die" and at == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "press" and at == 2:
            os.kill(os.getpid(), signal.SIGINT)
        if how == "stop" and at == 2:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    options: dict[str, Any] = {"recipe": RECIPE, "device": "cpu", "options": SMALL | json.loads(changes)}
    made = {"small": STUDENT, "deeper": DEEPER}[student]
    try:
        distill(TEACHER, made, "synthetic:8", out, **options, progress=progress, resume=how == "resume")
    except KeyboardInterrupt:
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        sys.exit(STOPPED)


if __name__ == "__main__":
    main(*sys.argv[1:])

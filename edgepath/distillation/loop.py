"""The training loop: step after step, a log of them, checkpoints, and an end that Ctrl-C may bring forward."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ..machine.progress import Progress
from .checkpoint import State, check_same_options, check_same_run, load_checkpoint, require_finite, save_checkpoint
from .interrupt import finish_steps
from .loader import Views, workers_told
from .options import Run, Steps
from .processes import most_memory, wait_for_all
from .runfolder import Log, prepare_run, write_run

Figures = dict[str, float]


class Learner(Protocol):
    """Models and optimizer of a run, and the number of steps that are done."""

    step: int
    device: torch.device
    identity: dict[str, str]

    def train(self, views: Views) -> tuple[Figures, Figures]:
        """Take one step; return what it measured, of which the log has means, and what its schedules were at."""

    def state(self) -> State:
        """Return everything that a resumed run needs to go on as if nothing had happened."""

    def restore(self, state: State) -> None:
        """Go back to what `state` returned."""


def open_run(
    folder: Path, options: dict[str, object], *, resume: bool, force: bool, first: bool = True
) -> State | None:
    """Make the run's folder, or return the checkpoint it goes on from. Raises UsageError before any model is made."""
    if first:
        prepare_run(folder, resume=resume, force=force)
    wait_for_all()
    state = load_checkpoint(folder) if resume else None
    if state is not None:
        check_same_options(folder, state, options)
    return state


def begin(
    learner: Learner,
    state: State | None,
    folder: Path,
    facts: Mapping[str, object],
    *,
    fit: Callable[[], None],
    first: bool = True,
) -> None:
    """Fit what is fitted before the first step, or go back to `state`; write the run's facts."""
    if state is None:
        fit()
    else:
        check_same_run(folder, state, learner.identity)
        learner.restore(state)
    if first:
        write_run(folder, facts)
        if state is None:
            save_checkpoint(folder, learner.state())


def train(
    learner: Learner,
    views: Generator[Views, None, None],
    folder: Path,
    steps: Steps,
    run: Run,
    *,
    stage: str,
    columns: Sequence[str],
    say: Progress,
    first: bool = True,
    alone: bool = True,
) -> None:
    """Train to the last step, or until Ctrl-C; the `first` process logs, saves and shows how far it is.

    `alone` says that no other process shares the steps.
    """
    log, pace = Log(folder, learner.step, columns) if first else None, _Pace()
    with workers_told(), closing(views), finish_steps(alone) as stopped:
        for given in pace.waiting(views):
            pace.add(*learner.train(given))
            done, last = learner.step, learner.step == steps.steps
            if done % run.log_every == 0 or last:
                row = pace.row(steps.batch)
                if log is not None:
                    log.add(row | {"step": done, "peak_gb": most_memory(learner.device) / 1e9})
            stop = stopped() and not last
            if first and (done % run.checkpoint_every == 0 or last or stop):
                save_checkpoint(folder, learner.state())
            if first:
                say(stage, done, steps.steps)
            if stop:
                raise KeyboardInterrupt


def gradients(loss: Tensor, net: nn.Module, clip: float, step: int) -> float:
    """Give every parameter its gradient, clipped together; return their norm, which has to be finite."""
    net.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = float(nn.utils.clip_grad_norm_(net.parameters(), clip))
    require_finite(step, gradient=norm)
    return norm


def descend(optimizer: torch.optim.Optimizer, rate: float, decay: float) -> None:
    """Take the optimizer's step at this rate; groups that do not decay (`networks.optimizer_groups`) do not."""
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = rate, decay if group["decays"] else 0.0
    optimizer.step()


class _Pace:
    """What the steps since the log's last row measured, how long they took, and how much of that views were awaited."""

    def __init__(self) -> None:
        self._rates: Figures = {}
        self._begin()

    def waiting(self, views: Iterator[Views]) -> Iterator[Views]:
        while True:
            asked = time.perf_counter()
            given = next(views, None)
            if given is None:
                return
            self._waited += time.perf_counter() - asked
            yield given

    def add(self, figures: Figures, rates: Figures) -> None:
        self._rows.append(figures)
        self._rates = rates

    def row(self, batch: int) -> Figures:
        """Return a row of the log, and begin the next one."""
        rows, seconds, waited = self._rows, time.perf_counter() - self._begun, self._waited
        means = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
        speed = {"tiles_per_s": len(rows) * batch / seconds, "waiting_share": waited / seconds, "seconds": seconds}
        self._begin()
        return means | self._rates | speed

    def _begin(self) -> None:
        self._rows: list[Figures] = []
        self._begun, self._waited = time.perf_counter(), 0.0

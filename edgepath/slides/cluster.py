"""All slides of a job on a Ray cluster, or on Ray on this machine.

A row is a slide. An actor holds one runner, reads and writes its slides itself, and hands back what became of each:
no pixels and no embeddings travel. What an actor was at when it was lost is done again, and what it had finished is
kept, as its record says so.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from ..bundle.bundle import open_bundle
from ..bundle.running import open_runner
from ..errors import DiskFull, UsageError, first_line
from ..machine.packages import require
from ..machine.progress import Progress, silent
from . import sidecar
from .embedding import Finish, Job, embed_slide
from .listing import Entry
from .many import result
from .results import SlideRow, SlidesResult, row

_ANSWERS_WITHIN = 10.0  # seconds; Ray itself would go on asking for minutes
LOCAL = "local"


def embed_on_cluster(
    job: Job,
    entries: Sequence[Entry],
    *,
    address: str,
    workers: int,
    threads: int = 1,
    finish: Finish | None = None,
    progress: Progress | None = None,
) -> SlidesResult:
    """Embed slides with `workers` actors of `threads` threads each; files are those that one process writes.

    `address` is `local`, `auto` (the cluster this machine is part of) or HOST:PORT. Slides, bundle and output have to
    be at the same paths on every node. Raises UsageError where no Ray answers, MissingRuntime without the extra `ray`.
    """
    require("ray", "ray")
    job.check()
    key, say, rows = sidecar.claim(job.out, job.facts()), progress or silent, list[SlideRow]()
    largest_first = sorted(entries, key=lambda entry: entry.path.stat().st_size, reverse=True)
    with _connected(address, workers * threads):
        import ray

        given = [
            {"entry": json.dumps([entry.id, str(entry.path.resolve()), entry.mpp, entry.mask])}
            for entry in largest_first
        ]
        slides = ray.data.from_items(given, override_num_blocks=max(1, len(given))).map_batches(
            _Worker,
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(
                min_size=min(workers, max(1, len(given))), max_size=workers, max_tasks_in_flight_per_actor=2
            ),
            num_cpus=threads,
            fn_constructor_kwargs={"job": _Sent(job), "key": key, "threads": threads, "finish": finish},
        )
        say("slides", 0, len(given))
        ran_with = ""
        for batch in slides.iter_batches(batch_size=1, prefetch_batches=0, batch_format="numpy"):
            slide_row, ran_with = json.loads(batch["row"][0]), str(batch["ran_with"][0])
            rows.append(cast(SlideRow, slide_row))
            say("slides", len(rows), len(given))
    return result(job, rows, ran_with)


class _Sent:
    """A job as it travels: its bundle is opened anew where it arrives."""

    def __init__(self, job: Job) -> None:
        self._fields = {name: value for name, value in vars(job).items() if name != "bundle"}
        self._fields["out"] = job.out.resolve()
        self._bundle, self._digest = os.path.abspath(job.bundle.path), job.bundle.digest

    def job(self) -> Job:
        bundle = open_bundle(self._bundle)
        if bundle.digest != self._digest:
            raise UsageError(f"slides: the bundle {self._bundle} is another one on this node; copy it again")
        return Job(bundle=bundle, **self._fields)


class _Worker:
    """An actor: one runner, and a slide at a time."""

    def __init__(self, job: _Sent, key: str, threads: int, finish: Finish | None) -> None:
        self._job, self._key, self._finish = job.job(), key, finish
        recipe = self._job.bundle.recipe
        self._runner: Any = open_runner(self._job.bundle, recipe, threads).__enter__()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        id, path, mpp, mask = json.loads(batch["entry"][0])
        entry = Entry(id, Path(path), mpp, mask)
        try:
            slide_row = embed_slide(
                entry,
                partial(self._job.prepare, entry, self._key, self._finish),
                self._job,
                self._key,
                self._runner,
                lambda done, total: None,
                self._finish,
            )
        except DiskFull as error:  # of this node: a slide that failed, on which the others do not depend
            slide_row = row(id, "failed", str(error))
        return {"row": [json.dumps(slide_row)], "ran_with": [self._runner.runtime]}


@contextmanager
def _connected(address: str, cpus: int) -> Iterator[None]:
    """Connect to Ray, quietly; what was connected before stays so."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it reports to its makers otherwise
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its core logs to stderr
    import ray
    import ray.data  # sets up logging of its own, so before that is made quiet

    already = ray.is_initialized()
    if not already:
        _check_answers(address)
        local = {"num_cpus": max(cpus, os.cpu_count() or 1), "include_dashboard": False}
        where: dict[str, Any] = local if address == LOCAL else {"address": address}
        try:
            ray.init(**where, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            why, remedy = first_line(error), "start one with `ray start --head`, or give --ray local"
            raise UsageError(f"slides: no Ray at {address} ({why}); {remedy}") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        if not already:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise UsageError where nothing listens at HOST:PORT."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in (LOCAL, "auto"):
        return
    try:
        socket.create_connection((host, int(port)), _ANSWERS_WITHIN).close()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"slides: no Ray at {address} ({first_line(error)}); give HOST:PORT of its head, `auto`, or `local`"
        ) from None

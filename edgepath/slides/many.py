"""All slides of a job, one after the other in this process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..bundle.running import open_runner
from ..machine.progress import Progress, silent
from . import sidecar
from .embedding import Finish, Job, embed_slide
from .listing import Entry
from .preparing import prepared_ahead
from .results import SlideRow, SlidesResult


def embed_slides(
    job: Job,
    entries: Sequence[Entry],
    *,
    threads: int = 0,
    finish: Finish | None = None,
    progress: Progress | None = None,
) -> SlidesResult:
    """Embed slides with a bundle's artifact, a file each; those that are there and current are kept.

    `threads` is of the runtime. Interrupted, it ends after the batch at hand and raises KeyboardInterrupt; the same
    call goes on with the next slide. Raises UsageError for an output of another job, and what opening a bundle raises.
    """
    job.check()
    key, say, rows = sidecar.claim(job.out, job.facts()), progress or silent, list[SlideRow]()
    with (
        prepared_ahead(entries, lambda entry: job.prepare(entry, key, finish)) as slides,
        open_runner(job.bundle, job.bundle.recipe, threads) as runner,
        _after_the_batch() as stopped,
    ):

        def advance(done: int, total: int) -> None:
            say("tiles of a slide", done, total)
            if stopped.is_set():
                raise KeyboardInterrupt

        for number, (entry, prepare) in enumerate(slides):
            say("slides", number, len(entries))
            rows.append(embed_slide(entry, prepare, job, key, runner, advance, finish))
            if stopped.is_set() and number + 1 < len(entries):  # a slide that is kept has no batches
                raise KeyboardInterrupt
        say("slides", len(entries), len(entries))
        return result(job, rows, runner.runtime)


def result(job: Job, rows: list[SlideRow], ran_with: str) -> SlidesResult:
    """Return what became of a job's slides."""
    return {
        "kind": "slides",
        "name": job.bundle.name,
        "bundle": job.bundle.digest,
        "ran_with": ran_with,
        "out": str(job.out),
        "cautions": list(job.bundle.manifest["cautions"]),
        "notes": [],
        "slides": sorted(rows, key=lambda row: row["id"]),
    }


@contextmanager
def _after_the_batch() -> Iterator[threading.Event]:
    """Yield what the first Ctrl-C sets; the second one stops at once."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = signal.getsignal(signal.SIGINT)

    def once(*_: Any) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, once)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)

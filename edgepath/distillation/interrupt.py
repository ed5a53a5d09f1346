"""Ctrl-C in a run that goes on for hours: the step that is being taken is finished and saved, then the run ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def finish_steps(alone: bool) -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C wait; yield a function that tells whether it came, for the loop to save and raise KeyboardInterrupt.

    A second one does not wait. Several processes that share steps (not `alone`) would stop at different ones, and wait
    for each other: there, outside the main thread, and where a caller ignores or handles Ctrl-C, nothing changes.
    """
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    main = threading.current_thread() is threading.main_thread()
    if not alone or not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)

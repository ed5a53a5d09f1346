"""Temporary folders that do not stay: one of a process that was killed is removed by the next that wants its kind."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .workspace import workspace

_others_wait = threading.Lock()


@contextmanager
def scratch(kind: str) -> Iterator[Path]:
    """Yield a new folder among the system's temporary ones, for what `kind` says; it is removed at the end."""
    with workspace(Path(tempfile.gettempdir()) / f"edgepath-{kind}") as aside:
        aside.new.mkdir()
        yield aside.new


@contextmanager
def scratch_of_libraries(kind: str) -> Iterator[None]:
    """Have libraries that make temporary files of their own make them in a scratch folder; one thread at a time."""
    with _others_wait, scratch(kind) as folder:
        before, tempfile.tempdir = tempfile.tempdir, str(folder)
        try:
            yield
        finally:
            tempfile.tempdir = before

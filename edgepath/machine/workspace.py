"""A folder beside what is to be written, `.<name>.<random>.partial`: held by a lock for as long as its process works.

Process ids say nothing here: every container may have the same ones, on one volume. A process that is killed leaves
nothing but that folder, and no lock; whoever writes the same thing next puts back what it had set aside, and removes
the rest.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOCK, _NEW, _OLD = "lock", "new-", "old-"


class Workspace:
    """The folder of one writer: `new` is what is written, `old` is what it replaces, set aside between two renames."""

    def __init__(self, final: Path) -> None:
        self._final = final
        self._lock: int | None = None
        self._place(f".{final.name}.{secrets.token_hex(8)}.partial")

    def _place(self, name: str) -> None:
        self.folder = self._final.with_name(name)
        self.new, self.old = (self.folder / f"{kind}{self._final.name}" for kind in (_NEW, _OLD))

    def open(self) -> None:
        """Make the folder and hold its lock; `close` undoes it, whole or interrupted. Raises OSError."""
        clear(self._final)
        while True:
            self.folder.mkdir(0o700)
            with suppress(FileNotFoundError):  # taken for left over, as its lock was not held yet
                self._lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
                if _held(self._lock) is not False and _is_there(self._lock, self.folder / _LOCK):
                    return
            self._unlock()
            self._place(f".{self._final.name}.{secrets.token_hex(8)}.partial")

    def close(self) -> None:
        """Put `old` back if nothing took its place, and remove the folder."""
        try:
            _finish(self._final, self.old)
            shutil.rmtree(self.folder, ignore_errors=True)  # what stays is removed by the next writer
        finally:
            self._unlock()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


@contextmanager
def workspace(final: Path) -> Iterator[Workspace]:
    """Open a workspace beside `final`, and close it at the end. Raises OSError."""
    opened = Workspace(final)
    try:
        opened.open()
        yield opened
    finally:
        opened.close()


def clear(final: Path) -> None:
    """Undo or finish what dead writers of `final` were at: put back what one set aside, remove what one left."""
    if not final.parent.is_dir():
        return
    pattern = re.compile(re.escape(f".{final.name}.") + r"[0-9a-f]{16}\.partial")
    for folder in sorted(
        path for path in final.parent.iterdir() if pattern.fullmatch(path.name) and not path.is_symlink()
    ):
        with _abandoned(folder) as dead:
            if dead:
                _finish(final, folder / f"{_OLD}{final.name}")
                shutil.rmtree(folder, ignore_errors=True)


def _finish(final: Path, old: Path) -> None:
    if os.path.lexists(old) and not os.path.lexists(final):
        os.rename(old, final)


@contextmanager
def _abandoned(folder: Path) -> Iterator[bool]:
    """Tell whether nobody holds the lock of a workspace, and hold it meanwhile, so that only one clears it."""
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        yield True
        return
    except OSError:  # of another user: not ours to remove
        yield False
        return
    try:
        yield _held(lock) is True
    finally:
        os.close(lock)


def _held(lock: int) -> bool | None:
    """Take a lock without waiting; False where another has it, None where this system or file server has no locks."""
    if sys.platform == "win32":  # without locks nothing is taken for left over
        return None
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _is_there(lock: int, path: Path) -> bool:
    return os.path.samestat(os.fstat(lock), path.stat())

"""What is written appears under its final name complete, or not at all.

It is written as `.<name>.<pid>.partial` beside that name, flushed, and renamed. A folder that is replaced is set aside
as `.<name>.<pid>.replaced` between two renames. A process that is killed leaves nothing but these two names; whoever
writes the same thing next puts the old one back, or removes what is left over.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import EdgepathError, UsageError

_writing: set[Path] = set()  # of this process: a process id alone says nothing about its own leftovers (see `_alive`)


class NewFolder:
    """Fill `path`, then `commit()`: the folder appears under `final` complete, or not at all.

    Use it in a `with` block. `kind` is what the folder is, in messages. Entering raises UsageError where `final` is in
    the way: a file, a link, or a folder that `may_replace(final, force)` refuses. It is asked about folders that are
    not empty only, and raises `error` for what is no `kind`, UsageError for one that is to stay. A full disk raises
    `error`. An exception or SIGTERM removes what was written.
    """

    def __init__(
        self,
        final: str | Path,
        kind: str,
        error: type[EdgepathError],
        may_replace: Callable[[Path, bool], None],
        *,
        force: bool = False,
    ) -> None:
        self.final, self._kind, self._error = Path(final), kind, error
        self._may_replace, self._force, self._committed = may_replace, force, False
        if self.final.name in ("", ".."):
            raise UsageError(f'"{final}" is no name for a new {kind}; give a folder that is to be made')
        self.path = beside(self.final, "partial")
        self._sigterm: Any = None

    def __enter__(self) -> NewFolder:
        try:
            put_back(self.final)
            for leftover in dead_leftovers(self.final, "partial"):
                shutil.rmtree(leftover)
            self._refuse_in_the_way()
            self.path.mkdir(parents=True)
        except OSError as error:
            raise UsageError(f"cannot write {self.final}: {error.strerror} ({error.filename})") from error
        _writing.add(self.path)
        # Python dies of SIGTERM without unwinding; whoever has a handler already (the command line) unwinds itself.
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._sigterm = signal.signal(signal.SIGTERM, _exit_on_sigterm)
        return self

    def commit(self) -> None:
        """Flush everything to disk, and rename; what is in the way by now is refused or replaced as on entering."""
        for path in (*self.path.rglob("*"), self.path):
            _flush(path)
        self._refuse_in_the_way()
        try:
            if self.final.exists():
                os.rename(self.final, beside(self.final, "replaced"))
            os.rename(self.path, self.final)
            _flush(self.final.parent)
        finally:
            put_back(self.final)
        self._committed = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            full, written = disk_full(error, self.final.parent), _size(self.path)
            if self.path.exists():
                shutil.rmtree(self.path)
        finally:
            _writing.discard(self.path)
            if self._sigterm is not None:
                signal.signal(signal.SIGTERM, self._sigterm)
        if full:
            raise self._error(disk_full_message(self.final, written)) from error
        if error is None and not self._committed:
            raise RuntimeError(f"{self._kind} {self.final}: nothing was committed")

    def _refuse_in_the_way(self) -> None:
        if not os.path.lexists(self.final):
            return
        if self.final.is_symlink() or not self.final.is_dir():
            raise UsageError(f"{self.final} exists and is no folder; remove it, or give another name")
        if not any(self.final.iterdir()):
            return
        try:
            self._may_replace(self.final, self._force)
        except self._error as error:
            found = f"{self.final} exists and is not a {self._kind} to replace ({error})"
            raise UsageError(f"{found}; give another name") from None


@contextmanager
def replacing(path: Path, what: str) -> Iterator[Path]:
    """Yield a file's name to write under; it becomes `path` at the end, or is removed when something goes wrong.

    Raises UsageError, naming `what` it is, where it cannot be written.
    """
    partial = beside(path, "partial")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise UsageError(f"{what} {path}: cannot be written ({error.strerror or error})") from None
    finally:
        with suppress(OSError):  # what stood in its way says more
            partial.unlink(missing_ok=True)


def beside(final: Path, kind: str) -> Path:
    """Return the name that this process writes under (`partial`) or sets aside (`replaced`) before a rename."""
    return final.with_name(f".{final.name}.{os.getpid()}.{kind}")


def dead_leftovers(final: Path, kind: str) -> list[Path]:
    """List what processes that are no more left beside `final`."""
    pattern = re.compile(re.escape(f".{final.name}.") + r"(\d+)" + re.escape(f".{kind}"))
    found = [] if not final.parent.is_dir() else sorted(final.parent.iterdir())
    matches = [(path, pattern.fullmatch(path.name)) for path in found]
    return [path for path, match in matches if match and path not in _writing and not _alive(int(match[1]))]


def put_back(final: Path) -> None:
    """Undo or finish a replacement that was cut off between its renames."""
    for aside in dead_leftovers(final, "replaced"):
        if final.exists():
            shutil.rmtree(aside)
        else:
            os.rename(aside, final)


def disk_full(error: BaseException | None, folder: Path) -> bool:
    """Tell whether `error` came of a full disk, also where a library's own exception hides it."""
    if not isinstance(error, Exception) or isinstance(error, EdgepathError):
        return False
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    # NumPy gives no errno. OpenVINO gives no reason but a failed C++ stream, and has removed its file by now.
    return "iostream error" in str(error) or (folder.is_dir() and shutil.disk_usage(folder).free < 1 << 16)


def disk_full_message(final: Path, written: int) -> str:
    """Return the one line for a full disk; `written` bytes were there when it happened, and are removed by now."""
    free = shutil.disk_usage(final.parent).free
    return (
        f"disk full while writing {final}: need more than the {written / 1e6:.1f} MB written so far, "
        f"{free / 1e6:.1f} MB are free; nothing was kept; free some space or write elsewhere"
    )


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # in a container every process may have the same id; what this one writes is in `_writing`
    if os.name == "nt":
        return True  # no harmless way to ask there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _exit_on_sigterm(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _flush(path: Path) -> None:
    """Have the disk hold `path`, a file or a folder, before a rename makes it count."""
    if os.name == "nt":
        return  # it flushes neither a folder nor a file that was opened to be read
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())

"""What is written appears under its final name complete, or not at all.

It is written in a workspace beside that name (see `workspace`), flushed, and renamed.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from ..errors import DiskFull, EdgepathError, UsageError
from .workspace import Workspace, workspace


class NewFolder:
    """Fill `path`, there once it is entered, then `commit()`: the folder appears under `final` complete, or not at all.

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
        self._workspace = Workspace(self.final)
        self._catches = False

    def __enter__(self) -> NewFolder:
        try:  # from the first step on: SIGTERM may come between any two
            self._open()
            self._refuse_in_the_way()
            self.path = self._workspace.new
            self.path.mkdir()
            # Python dies of SIGTERM without unwinding; whoever has a handler already (the command line) unwinds itself.
            main = threading.current_thread() is threading.main_thread()
            if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                self._catches = True  # before it does, so that an interrupt between the two undoes it
                signal.signal(signal.SIGTERM, _exit_on_sigterm)
            return self
        except BaseException:
            self._close()
            raise

    def _open(self) -> None:
        try:
            self.final.parent.mkdir(parents=True, exist_ok=True)
            self._workspace.open()
        except OSError as error:
            raise UsageError(f"cannot write {self.final}: {error.strerror} ({error.filename})") from error

    def commit(self) -> None:
        """Flush everything to disk, and rename; what is in the way by now is refused or replaced as on entering."""
        for path in (*self.path.rglob("*"), self.path):
            _flush(path)
        self._refuse_in_the_way()
        try:
            if self.final.exists():
                os.rename(self.final, self._workspace.old)
            os.rename(self.path, self.final)
            _flush(self.final.parent)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise UsageError(f"{self.final}: someone else wrote it meanwhile; give another name") from None
            raise
        self._committed = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            full, written = disk_full(error, self.final.parent), _size(self.path)
        finally:
            self._close()
        if full:
            raise self._error(disk_full_message(self.final, written)) from error
        if error is None and not self._committed:
            raise RuntimeError(f"{self._kind} {self.final}: nothing was committed")

    def _close(self) -> None:
        try:
            self._workspace.close()
        finally:
            if self._catches:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)

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
            problem = f"{self.final} exists and is not a {self._kind} to replace ({error})"
            raise UsageError(f"{problem}; give another name") from None


def check_output(path: Path, *, force: bool) -> None:
    """Raise UsageError, before any work, for an output in the way, or where nothing can be written."""
    folder = next(folder for folder in path.absolute().parents if os.path.isdir(folder))
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{path}: nothing can be written in {folder}; write it elsewhere")
    if path.exists() and not force:
        raise UsageError(f"{path} exists; give --force to replace it, or another name")


@contextmanager
def replacing(path: Path, what: str) -> Iterator[Path]:
    """Yield a file's name to write under; it becomes `path` at the end, or is removed when something goes wrong.

    Raises UsageError, naming `what` it is, where it cannot be written; DiskFull where there is no room.
    """
    try:
        with workspace(path) as aside:
            try:
                yield aside.new
                os.replace(aside.new, path)
            except Exception as error:
                if disk_full(error, path.parent):  # asked while what was written still takes its room
                    raise DiskFull(f"{what} {path}: the disk is full; free some, or write elsewhere") from error
                raise
    except OSError as error:
        raise UsageError(f"{what} {path}: cannot be written ({error.strerror or error})") from None


def write_text(path: Path, text: str, what: str) -> None:
    """Write a file whole, or not at all, as `replacing` does."""
    with replacing(path, what) as partial:
        partial.write_text(text, encoding="utf-8")


def disk_full(error: BaseException | None, folder: Path) -> bool:
    """Tell whether `error` came of a full disk, also where a library's own exception hides it."""
    if not isinstance(error, Exception) or isinstance(error, EdgepathError):
        return False
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    if os.strerror(errno.ENOSPC) in str(error):  # HDF5's, when it closes a file
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

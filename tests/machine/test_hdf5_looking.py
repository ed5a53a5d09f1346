"""What HDF5's library does not survive ends another process, and the next file is looked at as the first."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgepath.machine import hdf5_looking
from edgepath.machine.hdf5_looking import check_ends

h5py = pytest.importorskip("h5py")
ENDLESS = Path(__file__).parents[1] / "quality" / "hest" / "h5ad_files" / "endless.h5.gz"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "whole ä.h5", "w") as file:
        file["barcode"] = ["a", "b"]
    return tmp_path / "whole ä.h5"


def started() -> int | None:
    process = hdf5_looking._looker(os.getpid())._process
    return None if process is None else process.pid


def test_files_are_looked_at_by_one_process_that_outlives_a_bad_one(whole: Path, tmp_path: Path) -> None:
    check_ends(whole, "barcode", "nothing")
    first = started()
    (tmp_path / "endless.h5").write_bytes(gzip.decompress(ENDLESS.read_bytes()))
    with pytest.raises(OSError, match="ends with signal 9"):
        check_ends(tmp_path / "endless.h5", "obs", "var")
    (tmp_path / "none.h5").write_text("no HDF5")
    check_ends(tmp_path / "none.h5", "barcode")  # its reader says what it is
    check_ends(whole, "barcode")
    assert started() == first


def test_one_that_was_killed_is_said_and_started_again(whole: Path) -> None:
    check_ends(whole, "barcode")
    first = started()
    assert first is not None
    os.kill(first, signal.SIGKILL)
    with pytest.raises(OSError, match="came to an end"):
        check_ends(whole, "barcode")
    check_ends(whole, "barcode")
    assert started() not in (first, None)


def test_threads_and_children_of_a_fork_may_look(whole: Path) -> None:
    wrong: list[Exception] = []

    def look() -> None:
        try:
            for _ in range(5):
                check_ends(whole, "barcode")
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom edgepath.machine.hdf5_looking import check_ends\n"
        "path = Path(sys.argv[1])\ncheck_ends(path, 'barcode')\nchild = os.fork()\ncheck_ends(path, 'barcode')\n"
        "if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, whole], capture_output=True, text=True, timeout=60)
    assert (wrong, done.returncode, done.stderr) == ([], 0, "")


def test_modules_of_the_working_directory_are_not_run(whole: Path, tmp_path: Path) -> None:
    for name in ("json", "resource", "h5py"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'planted')!r}, 'w')\n")
    code = (
        "import sys\nsys.path = [folder for folder in sys.path if folder]\nfrom pathlib import Path\n"
        "from edgepath.machine.hdf5_looking import check_ends\ncheck_ends(Path(sys.argv[1]), 'barcode')\n"
    )
    subprocess.run([sys.executable, "-c", code, whole], check=True, cwd=tmp_path, timeout=60)
    assert not (tmp_path / "planted").exists()

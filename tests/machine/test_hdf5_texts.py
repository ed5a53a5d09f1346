"""What HDF5's library does not survive ends another process, and the next file is read as the first."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from edgepath.machine import hdf5_texts
from edgepath.machine.hdf5_texts import read_attributes, read_texts

h5py = pytest.importorskip("h5py")
ENDLESS = Path(__file__).parents[1] / "quality" / "hest" / "h5ad_files" / "endless.h5.gz"
NAMES = ["a", "bä", "", "x" * 70, "\u2028"] * 99


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "whole ä.h5", "w") as file:
        file["barcode"] = NAMES
        file["flat"] = np.array([[b"a"], [b"b"]])
        file["group/index"] = NAMES[:3]
        file["group"].attrs.update({"_index": "index", "shape": np.array([3, 5]), "real": 0.5})
    return tmp_path / "whole ä.h5"


def started() -> int | None:
    process = hdf5_texts._reader(os.getpid())._process
    return None if process is None else process.pid


def test_texts_and_attributes_are_what_the_file_holds(whole: Path) -> None:
    assert read_texts(whole, "barcode") == NAMES
    assert read_texts(whole, "flat") == ["a", "b"]
    assert read_texts(whole, "group") == NAMES[:3]
    assert read_attributes(whole, "group") == {"_index": "index", "shape": [3, 5]}
    for name in ("nothing", "group/index/deeper"):
        with pytest.raises(OSError, match=r"open object|'Dataset'|doesn't exist"):
            read_texts(whole, name)


def test_one_process_reads_all_files_and_outlives_bad_ones(whole: Path, tmp_path: Path) -> None:
    read_texts(whole, "barcode")
    first = started()
    (tmp_path / "endless.h5").write_bytes(gzip.decompress(ENDLESS.read_bytes()))
    with pytest.raises(OSError, match="ends with signal 9"):
        for table in ("obs", "var"):
            read_texts(tmp_path / "endless.h5", table)
    (tmp_path / "none.h5").write_text("no HDF5")
    with pytest.raises(OSError, match="file signature not found"):
        read_texts(tmp_path / "none.h5", "barcode")
    assert read_texts(whole, "barcode") == NAMES
    assert started() == first


def test_a_text_that_declares_gigabytes_takes_no_memory(whole: Path) -> None:
    raw = whole.read_bytes()
    length = (70).to_bytes(4, "little")  # of a text in the heap, before its address there
    places = [place for place in range(len(raw) - 4) if raw[place : place + 4] == length]
    with h5py.File(whole) as file:
        start = file["barcode"].id.get_offset()
    place = next(place for place in places if place >= start)
    whole.write_bytes(raw[:place] + (3 << 30).to_bytes(4, "little") + raw[place + 4 :])
    with pytest.raises(OSError, match=r"[Mm]emory|alloc"):
        read_texts(whole, "barcode")


def test_one_that_was_killed_is_said_and_started_again(whole: Path) -> None:
    read_texts(whole, "barcode")
    first = started()
    assert first is not None
    os.kill(first, signal.SIGKILL)
    with pytest.raises(OSError, match="came to an end"):
        read_texts(whole, "barcode")
    assert read_texts(whole, "barcode") == NAMES
    assert started() not in (first, None)


def test_threads_and_children_of_a_fork_may_ask(whole: Path) -> None:
    wrong: list[object] = []

    def ask() -> None:
        try:
            wrong.extend(names for _ in range(5) if (names := read_texts(whole, "barcode")) != NAMES)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom edgepath.machine.hdf5_texts import read_texts\n"
        "path = Path(sys.argv[1])\nread_texts(path, 'barcode')\nchild = os.fork()\nread_texts(path, 'barcode')\n"
        "if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, whole], capture_output=True, text=True, timeout=60)
    assert (wrong, done.returncode, done.stderr) == ([], 0, "")


def test_modules_of_the_working_directory_are_not_run(whole: Path, tmp_path: Path) -> None:
    for name in ("json", "resource", "h5py"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'planted')!r}, 'w')\n")
    code = (
        "import sys\nsys.path = [folder for folder in sys.path if folder]\nfrom pathlib import Path\n"
        "from edgepath.machine.hdf5_texts import read_texts\nread_texts(Path(sys.argv[1]), 'barcode')\n"
    )
    subprocess.run([sys.executable, "-c", code, whole], check=True, cwd=tmp_path, timeout=60)
    assert not (tmp_path / "planted").exists()

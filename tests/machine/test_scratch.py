"""Temporary folders of a process that was killed are removed by the next that wants one of the kind."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edgepath.machine.scratch import scratch, scratch_of_libraries

KILLED = """
import os, signal, sys, tempfile
from pathlib import Path
from edgepath.machine.scratch import scratch_of_libraries
with scratch_of_libraries("coreml"):
    Path(tempfile.mkdtemp(), "weight.bin").write_bytes(bytes(1 << 20))
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def test_what_libraries_leave_when_killed_is_removed_by_the_next(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, "killed"])
    assert [path.name[:17] for path in tmp_path.iterdir()] == [".edgepath-coreml."]
    with scratch("bench"):  # another kind
        assert len(list(tmp_path.iterdir())) == 2
    subprocess.run([sys.executable, "-c", KILLED, "ends"], check=True)
    assert list(tmp_path.iterdir()) == []


def test_libraries_find_the_old_place_again(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), scratch_of_libraries("coreml"):
        assert Path(tempfile.mkdtemp()).parent != tmp_path
        raise ZeroDivisionError
    assert tempfile.gettempdir() == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_have_a_folder_each(tmp_path: Path) -> None:
    with scratch("bench") as one, scratch("bench") as other:
        assert one != other
        assert one.is_dir()
        assert other.is_dir()
        assert one.parent.stat().st_mode & 0o777 == 0o700

"""What reads an artifact is the backend that built it; what runs one may be a runner of one's own."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from edgepath.backends import backend as backends
from edgepath.backends import find, ran_by, register
from edgepath.backends.reading import read_parts, require_reader


class Runner:
    """One that no backend knows."""

    runtime = "a runtime of our own 1.0"


def test_runner_that_is_no_backends_is_named_by_what_it_says() -> None:
    found = ran_by(Runner())
    assert (found.kind, found.name, found.text) == (__name__, "Runner", "a runtime of our own 1.0")


def test_runner_made_out_of_a_backends_is_that_backends() -> None:
    kind = type("Faster", (find("onnxruntime").load_runner(),), {"__init__": lambda self: None, "runtime": "ours"})
    assert ran_by(kind()).kind == "onnxruntime"


def test_files_that_two_backends_read_each_in_its_own_way_need_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    known = find("onnxruntime")
    assert known.builds is not None
    monkeypatch.setattr(backends, "_KNOWN", dict(backends._KNOWN))
    ours = dataclasses.replace(known.builds, read=lambda artifact: ("ours", artifact))  # type: ignore[arg-type,return-value]
    register(dataclasses.replace(known, name="ours", builds=ours))
    with pytest.raises(ValueError, match="read them each in its own way; name one"):
        require_reader(Path("model.onnx"))
    assert read_parts(Path("model.onnx"), "ours") == ("ours", Path("model.onnx"))
    with pytest.raises(ValueError, match="no backend writes such files"):
        require_reader(Path("model.h5"))


def test_a_runners_file_is_found_in_a_process_that_imported_nothing_else() -> None:
    code = "from edgepath.backends import backend; b = backend.Backend('b', 'B', 'numpy', '', 'json'); b.runner_file()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

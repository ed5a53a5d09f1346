"""Files that were damaged by a fixed seed are read or refused in one line; hours of other seeds are run by hand.

`python tests/fuzz/run.py --seconds 3600 --seed 1000000` runs them, `--reader NAME --seed N --count 1` one again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")
sys.path.insert(0, str(RUN.parent))

from mutate import mutate  # noqa: E402
from readers import READERS  # noqa: E402


@pytest.mark.slow
def test_damaged_files_end_in_no_traceback() -> None:
    command = [sys.executable, str(RUN), "--here", "--seconds", "21", "--count", "40"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, (lines[-1:], done.stderr[-2000:])
    assert [line for line in lines if "wrong" in line] == []
    assert len([line for line in lines if "next" in line]) == len(READERS)


def test_a_seed_damages_a_file_always_in_the_same_way() -> None:
    raw = json.dumps({"a": [1, {"b": 0.5}], "c": "text"}).encode()
    assert [mutate(raw, seed) for seed in range(99)] == [mutate(raw, seed) for seed in range(99)]
    assert len({mutate(raw, seed) for seed in range(99)}) > 60


FOUND = [  # by these seeds something went wrong once
    ("golden set", 262),
    ("list of slides", 24),
    ("list of slides", 58),
    ("bench", 59),
    ("origin", 41),
    ("model config", 184),
    ("openvino", 169),
    ("weights", 8231),
    ("annotation", 100489),
    ("coreml", 200442),
    ("coreml", 205010),
    ("hdf5", 3000438),
]


def test_what_went_wrong_once_does_not_again() -> None:
    for name, seed in FOUND:
        command = [sys.executable, str(RUN), "--reader", name, "--seed", str(seed), "--count", "1", "--seconds", "60"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout

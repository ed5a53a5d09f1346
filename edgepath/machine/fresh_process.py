"""A module of edgepath as a process of its own, which runs nothing that lies in the working directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .scratch import scratch


def run_module(module: str, argument: str, *, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run `python -m module argument` and return what it printed. Paths in `argument` have to be absolute.

    It runs in a folder of its own: `python -m` takes a `json.py` in the working directory for Python's.

    Raises subprocess.TimeoutExpired after `seconds`.
    """
    path = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": path}
    if cache := os.environ.get("EDGEPATH_CACHE"):
        environment["EDGEPATH_CACHE"] = os.path.abspath(cache)
    command = [sys.executable, "-m", module, argument]
    with scratch("process") as folder:
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=seconds)

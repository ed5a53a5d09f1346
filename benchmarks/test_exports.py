"""What the export of each newer target takes once calibration is in the cache: a minute at most, in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import MODEL, SOURCE, Record

from edgepath.backends import builds_of
from edgepath.machine.packages import version_of
from edgepath.recipes.recipe import find_recipe

TARGETS = ("torchtrt-fp16", "torchtrt-int8", "coreai-fp16", "coreai-int8", "executorch-fp32", "executorch-int8")
LOOKED = {"calibrate", "looks", "tune"}
"""Stages that an export goes through whose calibration is not known."""


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
def test_export_on_cached_calibration(target: str, tmp_path: Path, record: Record) -> None:
    needs = builds_of(find_recipe(target).backend).needs
    if version_of(needs) is None:
        pytest.skip(f"{needs} is not installed")
    load = os.getloadavg()[0]
    seconds, result = _exported(target, tmp_path / "first")
    if LOOKED & result["cost"]["seconds"].keys() or result["cost"]["seconds"]["reference"] > 1:
        load = os.getloadavg()[0]
        seconds, result = _exported(target, tmp_path / "second")
    assert not LOOKED & result["cost"]["seconds"].keys()
    drift = {
        name: row and {"tiles": row["tiles"], "1 - cosine": 1 - row["cosine_mean"]}
        for name, row in result["drift"].items()
    }
    stages = {name: round(took, 1) for name, took in result["cost"]["seconds"].items()}
    figures = {"seconds": round(seconds, 1), "stages": stages, "load before": round(load, 1), "drift": drift}
    figures["built with"] = f"{needs} {version_of(needs)}"
    record(f"export {target}, cached calibration", figures)
    assert result["passed"]
    assert seconds <= 60


def _exported(target: str, out: Path) -> tuple[float, dict[str, Any]]:
    """Return the seconds that the command took, and what it printed."""
    command = [sys.executable, "-m", "edgepath", "export", "--target", target, "--model", MODEL, "--weights", "random"]
    command += ["--calibration", SOURCE, "--calibration-tiles", "64", "--out", str(out), "--device", "cpu", "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    return seconds, json.loads(done.stdout)

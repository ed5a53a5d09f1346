"""What exports take, each in a fresh process.

`openvino-int8` from an empty cache with 64 and with 512 tiles, and `onnx-int8` from the ranges that the first kept; the
newer targets once calibration is in the cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import MODEL, REAL, SOURCE, Record
from PIL import Image

import edgepath
from edgepath.backends import builds_of
from edgepath.machine.packages import version_of
from edgepath.recipes.recipe import find_recipe

TARGETS = ("torchtrt-fp16", "torchtrt-int8", "coreai-fp16", "coreai-int8", "executorch-fp32", "executorch-int8")
LOOKED = {"calibrate", "looks", "tune"}
"""Stages that an export goes through whose calibration is not known."""


@pytest.mark.long
@pytest.mark.parametrize(("tiles", "most"), [(64, 60), (512, 200)])
def test_export_from_nothing(
    tiles: int, most: int, tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPATH_CACHE", str(tmp_path / "cache"))
    folder = _tiles(tmp_path / "tiles", tiles)
    first, second = ("openvino-int8", "empty cache", most), ("onnx-int8", "from kept ranges", 15)
    for target, name, limit in (first, second) if tiles == 64 else (first,):
        load = os.getloadavg()[0]
        seconds, result = _exported(target, tmp_path / "out", calibration=folder, tiles=tiles)
        assert (result["cost"]["seconds"].keys() >= LOOKED) == (name == "empty cache")
        stages = {stage: round(took, 1) for stage, took in result["cost"]["seconds"].items()}
        peak_gb = round(result["cost"]["peak_memory_bytes"] / 1e9, 2)
        figures = {"seconds": round(seconds, 1), "peak_gb": peak_gb, "stages": stages, "load before": round(load, 1)}
        record(f"export {target}, {tiles} tiles, {name}", figures)
        assert peak_gb <= 6
        assert seconds <= limit


def _tiles(folder: Path, count: int) -> Path:
    """Write so many PNG files, real tiles first where they are here, and synthetic ones."""
    real = edgepath.open_tiles(REAL / "oral_oscc") if REAL.is_dir() else None
    known = 0 if real is None else min(len(real), count)
    tiles = [] if real is None else list(real.read(range(known)))
    tiles += list(edgepath.open_tiles(f"synthetic:{count - known}").read()) if count > known else []
    folder.mkdir(parents=True)
    for number, tile in enumerate(tiles):
        Image.fromarray(tile).save(folder / f"{number:03}.png")
    return folder


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


def _exported(
    target: str, out: Path, calibration: str | Path = SOURCE, tiles: int = 64
) -> tuple[float, dict[str, Any]]:
    """Return the seconds that the command took, and what it printed."""
    command = [sys.executable, "-m", "edgepath", "export", "--target", target, "--model", MODEL, "--weights", "random"]
    command += ["--calibration", str(calibration), "--calibration-tiles", str(tiles), "--out", str(out)]
    command += ["--device", "cpu", "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    return seconds, json.loads(done.stdout)

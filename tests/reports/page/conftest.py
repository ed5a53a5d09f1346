"""What the page is made of: a bundle of a tiny model, and what each command measures of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmark_folder import write_benchmark
from PIL import Image

from edgepath.bundle.bundle import Bundle, open_bundle
from edgepath.exporting import Exported
from edgepath.quality.curves import curves
from edgepath.quality.hest.measuring import probe_hest
from edgepath.quality.probing import probe
from edgepath.quality.robustness import robustness
from edgepath.reports.slide_map import Pictures
from edgepath.slides.against import FullPrecision
from edgepath.slides.embedding import Job
from edgepath.slides.listing import list_slides
from edgepath.slides.many import embed_slides
from edgepath.speed.benchmark import bench
from edgepath.tiles.slides.cutting import CutSettings
from edgepath.tiles.slides.synthetic import write_synthetic_slide
from edgepath.tiles.synthetic import synthesize

_FAST = {"verdict": "non-inferior", "passed": True}
LOOKS = [(staining, scanner) for staining in ("GMH", "KR") for scanner in ("S60", "AT2")]


@pytest.fixture(scope="session")
def measured(exports: Callable[[str], Exported], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was measured of the tiny model in INT8, by command."""
    bundle = exports("onnx-int8").bundle
    folder, paired, tasks = (tmp_path_factory.mktemp(name) for name in ("labelled", "paired", "hest"))
    write_benchmark(tasks)
    for number, label in enumerate(("benign", "malign")):
        (folder / label).mkdir()
        for i, tile in enumerate(synthesize(8, seed=number, staining=("GMH", "KRH")[number])):
            Image.fromarray(tile).save(folder / label / f"{i}.png")
    for staining, scanner in LOOKS:
        (paired / f"{staining}_{scanner}").mkdir()
        for i, tile in enumerate(synthesize(3, seed=3, staining=staining, scanner=scanner)):
            Image.fromarray(tile).save(paired / f"{staining}_{scanner}" / f"{i}.png")
    drawn = tmp_path_factory.mktemp("drawn")
    for name in ("near", "far"):
        write_synthetic_slide(drawn / f"{name}.tif", seed=len(name), width=1024, height=1024, pieces=1)
    out = drawn / "out"
    finish = Pictures(bundle.name, out / "pictures", FullPrecision(bundle))
    slides = embed_slides(Job(bundle, out, CutSettings()), list_slides([drawn]), finish=finish)
    # How fast this machine is decides nothing in these tests.
    timed = bench([bundle], against=["fp32"], batches=[1], rounds=3, seconds=1.0, warm_up=1, cold=0)
    return {
        "robustness": robustness(bundle, paired=paired, device="cpu"),
        "curves": curves(bundle, "synthetic:2", device="cpu"),
        "probe": probe(bundle, folder, folds=2, device="cpu"),
        "hest": probe_hest(bundle, tasks, components=10, device="cpu"),
        "slides": slides,
        "bench": timed | {"gates": [gate | _FAST for gate in timed["gates"]], **_FAST},
    }


@pytest.fixture
def bundle(exports: Callable[[str], Exported], tmp_path: Path) -> Bundle:
    """A copy of the bundle, so that pages beside it are the test's own."""
    shutil.copytree(exports("onnx-int8").bundle.path, tmp_path / "tiny")
    return open_bundle(tmp_path / "tiny")


@pytest.fixture
def results(measured: dict[str, Any], tmp_path: Path) -> dict[str, Path]:
    """The same, as files that the commands' --json made."""
    found = {}
    for command, result in measured.items():
        found[command] = tmp_path / f"{command}.json"
        found[command].write_text(json.dumps(result))
    return found

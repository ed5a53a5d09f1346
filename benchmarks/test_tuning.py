"""What tuning across tissues changes: drift of the quantized program, on tissue by tissue.

The trained demo student, calibrated on 64 tiles of oral tissue; 1 - mean cosine to full precision, 32 tiles of each.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import REAL, SOURCE, Record

import edgepath
from edgepath.bundle.running import embed_all
from edgepath.checks.drift import measure
from edgepath.machine.progress import Stages
from edgepath.models.catalogue import find_model
from edgepath.models.weights import load_model
from edgepath.program.calibrating import calibrated
from edgepath.program.fold import fold
from edgepath.program.forms import Program
from edgepath.program.quantizing import make_program
from edgepath.recipes.recipe import find_recipe
from edgepath.tiles.source import TileSource

TILES = 32
WAYS: dict[str, dict[str, Any]] = {
    "one strength, own tiles": {"looks": 0},
    "tuned across": {},
    "tuned across, 4-bit weights": {"weight_bits": 4},
}


def _some(source: TileSource, odd: bool = False) -> np.ndarray:
    return source.select([(2 * i + odd) * len(source) // (2 * TILES) for i in range(TILES)]).read()


@pytest.mark.long
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real tiles beside the checkout")
def test_tuning_drifts_less_on_tissue_that_calibration_never_saw(calibration: TileSource, record: Record) -> None:
    open_tiles = edgepath.open_tiles
    oral = open_tiles(SOURCE)
    others = oral.select([i for i, key in enumerate(oral.keys) if key not in set(calibration.keys)])
    tissues = {
        "oral tissue": _some(others),
        "skin and bone": _some(open_tiles([REAL / "cmu1", REAL / "osteosarcoma"])),
        "cytology": _some(open_tiles(REAL / "scanners4_registered_cyto")),
    }
    vit, spec, _ = load_model(find_model("demo"))
    net, base, found = fold(vit, spec), find_recipe("openvino-int8"), {}
    exact = {name: embed_all(Program(net), tiles, lambda _: None) for name, tiles in tissues.items()}
    for way, changed in WAYS.items():
        recipe = replace(base, quantize=replace(base.quantize, **changed))
        ranges, plan = calibrated(recipe, net, calibration, "cpu", Stages(lambda *_: None))
        program = Program(make_program(recipe, copy.deepcopy(net), ranges, plan))
        found[way] = {
            name: 1 - measure(exact[name], embed_all(program, tiles, lambda _: None)).cosine_mean
            for name, tiles in tissues.items()
        }
    record("program drift of demo, 1 - cosine mean on 32 tiles of each tissue", found)
    for name in ("skin and bone", "cytology"):
        assert found["tuned across"][name] < found["one strength, own tiles"][name] / 2

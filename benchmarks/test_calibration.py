"""What calibration costs by the number of tiles: time that grows with them, memory that does not.

The stages of an export that see calibration tiles, without the rest of it; tiles are read from PNG files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MODEL, THREADS, Record
from PIL import Image

import edgepath
from edgepath.bundle.running import BATCH
from edgepath.machine.progress import Stages
from edgepath.models.catalogue import find_model
from edgepath.models.weights import load_model
from edgepath.program.calibrating import calibrated
from edgepath.program.fold import fold
from edgepath.program.tune import see
from edgepath.recipes.recipe import find_recipe

COUNTS = (64, 128, 256, 512)

pytestmark = pytest.mark.long


def test_calibration_is_linear_in_tiles_and_512_take_five_minutes(tmp_path: Path, record: Record) -> None:
    torch.set_num_threads(THREADS)
    for i, tile in enumerate(edgepath.open_tiles(f"synthetic:{COUNTS[-1]}").read()):
        Image.fromarray(tile).save(tmp_path / f"{i}.png")
    source = edgepath.open_tiles(tmp_path)
    vit, spec, _ = load_model(find_model(MODEL), "random")
    net, stages = fold(vit, spec), Stages(lambda *_: None)
    for count in COUNTS[:-1]:
        some = source.select(range(count))
        with stages.stage(str(count)):
            see(net, (batch.pixels for batch in some.batches(BATCH)), count)
    whole = Stages(lambda *_: None)
    calibrated(find_recipe("openvino-int8"), net, source, "cpu", whole)
    cost = whole.cost()
    seconds = {int(count): value for count, value in stages.seconds.items()} | {
        COUNTS[-1]: cost["seconds"]["calibrate"]
    }
    memory = {int(n): value for n, value in stages.memory_bytes.items()} | {
        COUNTS[-1]: cost["memory_bytes"]["calibrate"]
    }
    each = {count: value / count for count, value in seconds.items()}
    record(
        "calibration by tiles",
        {
            "seconds": {str(count): round(value, 1) for count, value in seconds.items()},
            "seconds a tile": {str(count): round(value, 3) for count, value in each.items()},
            "peak memory, GB": {str(count): round(value / 1e9, 2) for count, value in memory.items()},
            f"all stages with {COUNTS[-1]}": cost["seconds"],
        },
    )
    assert max(each.values()) < 1.25 * float(np.median(list(each.values())))
    assert memory[512] < memory[64] + 0.3e9
    assert sum(cost["seconds"].values()) < 300

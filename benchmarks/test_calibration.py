"""What calibration costs by the number of tiles: time that grows with them, memory that does not.

The stages of an export that see calibration tiles, without the rest of it.
"""

from __future__ import annotations

import time

import numpy as np
import psutil
import pytest
import torch
from conftest import MODEL, THREADS, Record

import edgepath
from edgepath.models import find_model
from edgepath.passes.fold import fold
from edgepath.passes.tune import see
from edgepath.quantizing import BATCH, calibrated
from edgepath.recipe import find_recipe
from edgepath.stages import Stages
from edgepath.weights import load_model

COUNTS = (64, 128, 256, 512)

pytestmark = pytest.mark.long


def test_calibration_is_linear_in_tiles_and_512_take_five_minutes(record: Record) -> None:
    torch.set_num_threads(THREADS)
    vit, spec, _ = load_model(find_model(MODEL), "random")
    net, process = fold(vit, spec), psutil.Process()
    seconds, resident = {}, {}
    for count in COUNTS[:-1]:
        tiles = edgepath.open_tiles(f"synthetic:{count}").read()
        start = time.perf_counter()
        see(net, (tiles[i : i + BATCH] for i in range(0, count, BATCH)), count)
        seconds[count] = time.perf_counter() - start
        resident[count] = process.memory_info().rss - tiles.nbytes
    most, stages = COUNTS[-1], Stages(lambda *_: None)
    calibrated(find_recipe("openvino-int8"), net, edgepath.open_tiles(f"synthetic:{most}"), "cpu", stages)
    cost = stages.cost()
    seconds[most] = cost["seconds"]["calibrate"]
    each = {count: value / count for count, value in seconds.items()}
    record(
        "calibration by tiles",
        {
            "seconds": {str(count): round(value, 1) for count, value in seconds.items()},
            "seconds a tile": {str(count): round(value, 3) for count, value in each.items()},
            "resident after, GB": {str(count): round(value / 1e9, 2) for count, value in resident.items()},
            f"all stages with {most}": cost["seconds"],
        },
    )
    assert max(each.values()) < 1.25 * float(np.median(list(each.values())))
    assert resident[256] < resident[64] + 0.3e9
    assert sum(cost["seconds"].values()) < 300

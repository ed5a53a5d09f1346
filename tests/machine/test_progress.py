"""Each stage says how long it took and the most memory it had, not what came before it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from edgepath.machine.progress import Stages


def test_progress_is_announced_from_nothing_to_all() -> None:
    said: list[tuple[str, int, int]] = []
    stages = Stages(lambda *args: said.append(args))
    with stages.stage("tiles", 5) as advance:
        advance(2)
        advance(3)
    assert said == [("tiles", 0, 5), ("tiles", 2, 5), ("tiles", 5, 5), ("tiles", 5, 5)]
    assert stages.cost()["seconds"]["tiles"] >= 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_a_stages_memory_is_its_own() -> None:
    stages = Stages(lambda *_: None)
    with stages.stage("much"):
        np.ones(200 << 17).sum()  # 200 MiB
    with stages.stage("little"):
        pass
    np.ones(400 << 17).sum()  # 400 MiB between two stages
    with stages.stage("last"):
        pass
    memory = stages.cost()["memory_bytes"]
    assert memory["much"] - memory["little"] > 150 << 20
    assert stages.cost()["peak_memory_bytes"] - memory["much"] > 150 << 20

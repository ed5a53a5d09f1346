"""The demo student's tiles, split as its docstring says, and its weights in half precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgepath.errors import UsageError
from edgepath.models.catalogue import find_model
from edgepath.models.weights import load_model
from edgepath.tiles.opening import open_tiles
from edgepath.tiles.source import TileSource
from tools.demo_model.making import SYNTHETIC, TEACHER, split, training, write_half, write_start, write_training_tiles

KEYS = (
    "cmu1/tissue/cmu1_x1120_y1120.png",
    "oral_oscc/Normal/Normal_100x_1.png",
    "oral_oscc/Normal/Normal_100x_44.png",
    "oral_oscc/OSCC/OSCC_400x_186.png",
    "osteosarcoma/Viable/Viable___Case-48-P5-C14-54171-23668_115.png",
    "scanners4_registered_cyto/aperio/563479_002.png",
    "scanners4_registered_cyto/aperio/574162_032.png",
)


def source(keys: tuple[str, ...]) -> TileSource:
    return TileSource("folder", "tiles", keys, 224, lambda key: np.full((224, 224, 3), 200, np.uint8))


def test_split_keeps_slides_and_numbers_apart() -> None:
    train, test = split(source(KEYS))
    assert train.keys == (KEYS[0], KEYS[1], KEYS[5])
    assert test.keys == (KEYS[2], KEYS[3], KEYS[4], KEYS[6])


def test_split_of_the_real_tiles(real_tiles: Path) -> None:
    train, test = split(open_tiles(real_tiles))
    assert len(train) + len(test) == 673
    counts = {
        folder: sum(key.startswith(folder) for key in test.keys) for folder in ("osteo", "oral", "scanners", "cmu")
    }
    assert counts["osteo"] == 60
    assert counts["cmu"] == 0
    assert 100 < counts["oral"] < 200
    assert counts["scanners"] % 4 == 0
    assert counts["scanners"] > 40


def test_tiles_of_another_layout_are_refused() -> None:
    with pytest.raises(UsageError, match="1 to train on, 0 to test on"):
        split(source(KEYS[:1]))


def test_a_teacher_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("schema = 1\n\n[options.training]\nbatch = 8\n")
    with pytest.raises(UsageError, match=r"an earlier edgepath .* give another OUT"):
        training(tmp_path)


def test_training_tiles_are_written_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.demo_model.making.SYNTHETIC", 3)
    train, _ = split(source(KEYS))
    write_training_tiles(train, tmp_path / "tiles")
    written = open_tiles(tmp_path / "tiles")
    assert len(written) == 3 + 3
    assert np.array_equal(written.load(KEYS[0]), train.load(KEYS[0]))
    assert SYNTHETIC == 600


def test_half_precision_weights_load_as_the_student(tmp_path: Path) -> None:
    from edgepath.distillation.runfolder import write_student
    from edgepath.models.weights import random_model

    demo = find_model("demo")
    (tmp_path / "student").mkdir()
    write_student(tmp_path / "student", random_model(demo), demo)
    write_half(tmp_path / "student", tmp_path / "half")
    vit, _, weights = load_model(demo, tmp_path / "half")
    wanted = random_model(demo).state_dict()
    assert all(torch.equal(value, wanted[name].half().float()) for name, value in vit.state_dict().items())
    assert not weights.random
    assert (tmp_path / "half" / "model.safetensors").stat().st_size <= 12e6


def test_the_student_starts_as_the_teachers_first_blocks(tmp_path: Path) -> None:
    from edgepath.distillation.runfolder import write_student
    from edgepath.models.weights import random_model

    (tmp_path / "teacher").mkdir()
    write_student(tmp_path / "teacher", random_model(TEACHER), TEACHER)
    write_start(tmp_path / "teacher", tmp_path / "start")
    theirs = load_model(TEACHER, tmp_path / "teacher")[0].state_dict()
    ours = load_model(find_model("demo"), tmp_path / "start")[0].state_dict()
    assert {name.split(".")[1] for name in ours if name.startswith("blocks.")} == {str(i) for i in range(12)}
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())

"""A teacher learns what a stem sees behind the colours, survives an interruption bit for bit, and loads as weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import WIDE, untrained_stem

from edgepath.distillation.imagenet import WIDTH, Stem
from edgepath.distillation.pretraining import Imitator, cut, pretrain
from edgepath.distillation.runfolder import read_log
from edgepath.distillation.teacheroptions import load_options
from edgepath.errors import EdgepathError, RecipeError, UsageError
from edgepath.synthesis import synthesize
from edgepath.weights import load_model

SMALL = {
    "views.crop": 84,
    "training.steps": 6,
    "training.batch": 4,
    "training.warmup": 1,
    "training.fit_tiles": 8,
    "run.checkpoint_every": 3,
    "run.log_every": 1,
    "run.threads": 1,
}


def run(out: Path, **changes: Any) -> dict[str, Any]:
    options = SMALL | changes.pop("options", {})
    stem = changes.pop("stem", None) or untrained_stem()
    return pretrain(WIDE, "synthetic:8", out, stem=stem, options=options, device="cpu", **changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_loss_falls_and_the_folder_loads_as_weights(tmp_path: Path) -> None:
    done = run(tmp_path / "teacher", options={"training.steps": 40, "run.log_every": 10})
    rows = read_log(tmp_path / "teacher")
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert done["last"] == rows[-1]
    _, spec, facts = load_model(WIDE, tmp_path / "teacher")
    assert not facts.random
    assert spec.mean == WIDE.mean
    assert (tmp_path / "teacher" / "loss.png").stat().st_size > 1000


def test_interrupted_and_resumed_is_bit_for_bit_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "whole")

    def interrupt(stage: str, done: int, total: int) -> None:
        if done == 4:  # one step after the checkpoint
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", progress=interrupt)
    run(tmp_path / "cut", resume=True)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert [row["step"] for row in read_log(tmp_path / "cut")] == [1, 2, 3, 4, 5, 6]


def test_resuming_with_other_numbers_or_tiles_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "teacher", options={"training.steps": 1})
    with pytest.raises(UsageError, match=r"training\.learning_rate is .* when the run began"):
        run(tmp_path / "teacher", resume=True, options={"training.steps": 1, "training.learning_rate": 0.1})
    with pytest.raises(UsageError, match="holds a run already"):
        run(tmp_path / "teacher")


def test_class_token_target_keeps_the_angles_between_mean_features() -> None:
    net = Imitator(WIDE, untrained_stem())
    net.tile_mean.fill_(0.1)
    net.tile_spread.fill_(2.0)
    views = torch.from_numpy(synthesize(3, seed=1)[:, :84, :84].copy())
    cls, patches = net.targets(views)
    features = net.stem(views, 14)
    assert features.shape == patches.shape == (3, 36, WIDTH)
    assert torch.equal(patches, features.clamp(-5, 5))  # mean 0, spread 1 before `fit`
    means = (features.mean(1) - 0.1) / 2
    assert cls.shape == (3, 192)
    assert torch.allclose(cls @ cls.T, means @ means.T, rtol=1e-4)


def test_seen_and_clean_view_are_the_same_place() -> None:
    tile = synthesize(1, seed=5)[0]
    still = {"views.stain_strength": 0.0, "views.stain_hue": 0.0, "views.scanner": 0.0, "views.blur_probability": 0.0}
    views = load_options(SMALL | still).views
    seen, clean = cut(tile, views, np.random.default_rng(0))
    assert seen.shape == clean.shape == (2, 84, 84, 3)
    assert np.abs(seen.astype(int) - clean).max() <= 2  # rounding, there and back
    assert not np.array_equal(clean[0], clean[1])
    coloured, clean = cut(tile, load_options(SMALL).views, np.random.default_rng(0))
    assert np.abs(coloured.astype(int) - clean).mean() > 3


def test_loss_that_is_not_finite_names_the_step(tmp_path: Path) -> None:
    class Broken(Stem):
        calls = 0

        def forward(self, views: torch.Tensor, patch: int) -> torch.Tensor:
            self.calls += 1
            return super().forward(views, patch) * (float("nan") if self.calls > 1 else 1)  # the first call is `fit`'s

    with pytest.raises(EdgepathError, match=r"^step 1: the loss is nan; the last checkpoint is kept"):
        run(tmp_path / "teacher", stem=Broken(untrained_stem().layers))
    assert (tmp_path / "teacher" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("training.step", 3, r"training\.step is not a key"),
        ("views.crop", 14, r"views\.crop = 14; a multiple of 14 from 28 on is needed"),
        ("views.crop", 100, r"views\.crop = 100; a multiple of 14"),
        ("training.batch", 0, r"training\.batch = 0; at least 2"),
        ("views.scale", [0.5], r"views\.scale = \[0\.5\]; two numbers"),
        ("views.count", 0, r"views\.count = 0; at least 1"),
        ("views.scanner", 2.0, r"views\.scanner = 2\.0; a number from 0 to 1"),
        ("run.log_every", 0, r"run\.log_every = 0; at least 1"),
        ("schema.x", 1, r"schema\.x is not a key"),
        ("training.batch", 9, "8 tiles are too few for a batch of 9"),
    ],
)
def test_numbers_that_cannot_be_are_refused(tmp_path: Path, key: str, value: Any, said: str) -> None:
    with pytest.raises((RecipeError, UsageError), match=said):
        run(tmp_path / "teacher", options={key: value})

"""A teacher learns what a stem sees behind the colours, survives an interruption bit for bit, and loads as weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_teacher import WIDE, untrained_stem, vit

from edgepath.distillation.networks import build_student
from edgepath.distillation.runfolder import read_log
from edgepath.errors import EdgepathError, RecipeError, UsageError
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import load_model
from edgepath.recipes.toml import read_toml
from edgepath.tiles.synthetic import synthesize
from tools.demo_model.imagenet import DEEP, WIDTH, Stem
from tools.demo_model.imitator import Imitator, summarize, tokens_after
from tools.demo_model.options import load_options
from tools.demo_model.pretraining import cut, pretrain

SMALL = {
    "stages": [{"share": 1.0, "blocks": 1, "crop": 84}],
    "training.steps": 6,
    "training.batch": 4,
    "training.warmup": 1,
    "training.fit_tiles": 8,
    "run.checkpoint_every": 3,
    "run.log_every": 1,
    "run.workers": 0,
}
DEEPER = vit("deeper", 96, depth=3)
WHOLE = {
    "stages": [{"share": 2 / 3, "blocks": 1, "crop": 56}, {"share": 1 / 3, "blocks": 3, "crop": 84}],
    "run.checkpoint_every": 1,
}
"""Six steps, of which the last two are with all blocks and larger views."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Return the weights of a run that nothing cut off."""
    folder = tmp_path_factory.mktemp("pretraining") / "whole"
    run(folder, DEEPER, options=WHOLE)
    return weights(folder)


def run(out: Path, spec: ModelSpec = WIDE, **changes: Any) -> dict[str, Any]:
    options = SMALL | changes.pop("options", {})
    stem = changes.pop("stem", None) or untrained_stem()
    return pretrain(spec, "synthetic:8", out, stem=stem, options=options, device="cpu", **changes)


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
    kept = read_toml(tmp_path / "teacher" / "run.toml")["options"]
    assert kept["stages"] == SMALL["stages"]
    assert kept["training"]["steps"] == 40


@pytest.mark.parametrize("cut_at", [2, 4, 5], ids=["before", "at", "after"])
def test_interrupted_and_resumed_is_bit_for_bit_the_same(
    tmp_path: Path, whole: dict[str, torch.Tensor], cut_at: int
) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if done == cut_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", DEEPER, options=WHOLE, progress=interrupt)
    run(tmp_path / "cut", DEEPER, options=WHOLE, resume=True)
    resumed = weights(tmp_path / "cut")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert [row["step"] for row in read_log(tmp_path / "cut")] == [1, 2, 3, 4, 5, 6]


def test_blocks_that_have_not_joined_are_not_touched(tmp_path: Path, whole: dict[str, torch.Tensor]) -> None:
    alone = [{"share": 1e6, "blocks": 1, "crop": 56}, {"share": 1.0, "blocks": 3, "crop": 56}]
    run(tmp_path / "alone", DEEPER, options={"stages": alone})
    for name, value in weights(tmp_path / "alone").items():
        if name.endswith(".gamma"):
            start = 0.1 if name.startswith("blocks.0.") else 0.01
            assert bool((value == start).all()) == (start == 0.01), name
            assert not (whole[name] == start).all(), name


@pytest.mark.parametrize("blocks", [1, 2])
def test_the_first_blocks_are_the_model_of_that_depth(blocks: int) -> None:
    net = Imitator(DEEPER, untrained_stem(), first=blocks).eval()
    shallow: Any = build_student(vit("shallow", 96, depth=blocks)).eval()
    theirs = net.tokens.vit.state_dict()
    shallow.load_state_dict({name: theirs[name] for name in shallow.state_dict()})
    views = torch.from_numpy(synthesize(2, seed=1)[:, :56, :56].copy())
    with torch.no_grad():
        tokens = shallow.forward_features(net.tokens.normalize(views))
        cls, patches = tokens_after(net.tokens, views, blocks)
    assert torch.allclose(cls, tokens[:, 0], atol=1e-6)
    assert torch.allclose(patches, tokens[:, 5:], atol=1e-6)


def test_resuming_with_other_numbers_or_tiles_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "teacher", options={"training.steps": 1})
    with pytest.raises(UsageError, match=r"training\.weight_decay is .* when the run began"):
        run(tmp_path / "teacher", resume=True, options={"training.steps": 1, "training.weight_decay": 0.1})
    with pytest.raises(UsageError, match="holds a run already"):
        run(tmp_path / "teacher")


def test_what_it_learns_from_is_standardised_and_keeps_the_angles_between_views() -> None:
    net = Imitator(WIDE, untrained_stem(), first=1)
    views = torch.from_numpy(synthesize(6, seed=1)[:, :84, :84].copy())
    features = net.stem(views, 14)
    assert features.shape == (6, 36, WIDTH)
    net.fit(views, features)
    cls, patches = net.targets(views)
    assert patches.flatten(0, 1).mean(0).abs().max() < 0.1  # but for what was clamped
    assert patches.shape == (6, 36, WIDTH)
    shown = summarize(features)
    assert torch.allclose(shown[:, :DEEP], features[..., -DEEP:].mean(1))
    shown = (shown - shown.mean(0)) / shown.std(0).clamp_min(1e-3)
    assert cls.shape == (6, 192)
    assert torch.allclose(cls @ cls.T, shown @ shown.T, rtol=1e-3, atol=1e-2)  # six views span no more than 192


def test_a_class_token_too_narrow_keeps_what_varies_most() -> None:
    net = Imitator(vit("narrow", 48), untrained_stem(), first=1)
    views = torch.from_numpy(synthesize(60, seed=1)[:, :56, :56].copy())
    net.fit(views, net.stem(views, 14))
    shown = summarize(net.stem(views, 14))
    shown = (shown - shown.mean(0)) / shown.std(0).clamp_min(1e-3)
    most = torch.linalg.svdvals(shown)[:48].square().sum()
    assert net.targets(views)[0].square().sum() == pytest.approx(float(most), rel=1e-3)


def test_patches_start_centred_and_alike_in_spread() -> None:
    net = Imitator(WIDE, untrained_stem(), first=1)
    views = torch.from_numpy(synthesize(40, seed=1)[:, :112, :112].copy())
    net.fit(views, net.stem(views, 14))
    vit: Any = net.tokens.vit
    with torch.no_grad():
        projected = vit.patch_embed.proj(net.tokens.normalize(views)).flatten(2).transpose(1, 2).flatten(0, 1)
    assert projected.mean(0).abs().max() < 1e-2
    spreads = torch.linalg.eigvalsh(torch.cov(projected.T))
    assert spreads.max() == pytest.approx(1, abs=0.05)
    pixels = torch.nn.functional.unfold(net.tokens.normalize(views), 14, stride=14).transpose(1, 2).flatten(0, 1)
    own = torch.linalg.eigvalsh(torch.cov(pixels.T)).flip(0)
    assert spreads.median() / spreads.max() > 20 * own[96] / own[0]


def test_seen_and_clean_view_are_the_same_place() -> None:
    tile = synthesize(1, seed=5)[0]
    still = {"views.stain_strength": 0.0, "views.stain_hue": 0.0, "views.scanner": 0.0, "views.blur_probability": 0.0}
    views = load_options(SMALL | still).views
    seen, clean = cut(tile, 84, views, np.random.default_rng(0))
    assert seen.shape == clean.shape == (1, 84, 84, 3)
    assert np.abs(seen.astype(int) - clean).max() <= 2  # rounding, there and back
    assert not np.array_equal(clean, cut(tile, 84, views, np.random.default_rng(1))[1])
    coloured, clean = cut(tile, 84, load_options(SMALL).views, np.random.default_rng(0))
    assert np.abs(coloured.astype(int) - clean).mean() > 3


def test_zoomed_out_of_a_whole_tile_is_the_whole_tile() -> None:
    tile = synthesize(1, seed=5)[0]
    views = load_options({"views.zoom": [1.1, 1.3]}).views
    _, clean = cut(tile, 224, views, np.random.default_rng(0))
    turned = [np.rot90(side, quarter) for side in (tile, tile[:, ::-1]) for quarter in range(4)]
    assert any(np.array_equal(clean[0], whole) for whole in turned)


def test_loss_that_is_not_finite_names_the_step(tmp_path: Path) -> None:
    class Broken(Stem):
        calls = 0

        def forward(self, views: torch.Tensor, patch: int) -> torch.Tensor:
            self.calls += 1
            return super().forward(views, patch) * (float("nan") if self.calls > 1 else 1)  # the first call is `fit`'s

    with pytest.raises(EdgepathError, match=r"^step 1: the loss is nan; the last checkpoint is kept"):
        run(tmp_path / "teacher", stem=Broken(untrained_stem().stages))
    assert (tmp_path / "teacher" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("training.step", 3, r"training\.step is not a key"),
        ("stages", [{"share": 1.0, "blocks": 1, "crop": 14}], "stage 1: crop = 14; a multiple of 14 from 28 to 224 is"),
        ("stages", [{"share": 1.0, "blocks": 1, "crop": 100}], "stage 1: crop = 100; a multiple of 14"),
        ("stages", [{"share": 1.0, "blocks": 1, "crop": 238}], "stage 1: crop = 238; a multiple of 14"),
        ("stages", [{"share": 1.0, "blocks": 2, "crop": 84}], "stage 1: blocks = 2; wide has 1"),
        ("stages", [{"share": 0.0, "blocks": 1, "crop": 84}], r"stage 1: share = 0\.0; a share above 0"),
        ("stages", [], "the last stage has to train all 1 blocks of wide"),
        ("stages", [{"share": 1.0, "blocks": 1}], "crop is missing"),
        ("training.batch", 0, r"training\.batch = 0; at least 2"),
        ("views.zoom", [0.5], r"views\.zoom = \[0\.5\]; two numbers"),
        ("views.scanner", 2.0, r"views\.scanner = 2\.0; a number from 0 to 1"),
        ("run.log_every", 0, r"run\.log_every = 0; at least 1"),
        ("schema.x", 1, r"schema\.x is not a key"),
        ("training.batch", 9, "8 tiles are too few for a batch of 9"),
    ],
)
def test_numbers_that_cannot_be_are_refused(tmp_path: Path, key: str, value: Any, said: str) -> None:
    with pytest.raises((RecipeError, UsageError), match=said):
        run(tmp_path / "teacher", options={key: value})

"""Strengths and limits are chosen across two kinds of tiles, by errors that a NumPy formula finds too."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program.calibrate import Plan, Ranges, Rows, calibrate, linears, load_ranges, save_ranges
from edgepath.program.fold import EdgeModel, fold
from edgepath.program.linear import quantize
from edgepath.program.smooth import smooth, smoothing_scale
from edgepath.program.tune import STRENGTHS, Seen, joint, see, tune


@pytest.fixture(scope="module")
def net(tiny: ModelSpec) -> EdgeModel:
    return fold(random_model(tiny), tiny)


def test_rows_keep_class_token_registers_and_some_patches(net: EdgeModel, tiles: np.ndarray) -> None:
    rows = Rows(net.vit.num_prefix_tokens, 4)
    seen: list[torch.Tensor] = []
    hook = net.vit.blocks[0].attn.qkv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    calibrate(net, [tiles[:2], tiles[2:4]], rows=rows)
    hook.remove()
    inputs = torch.cat(seen)
    kept = rows.of("vit.blocks.0.attn.qkv").reshape(4, 12, 96)
    assert torch.equal(kept[:, :5], inputs[:, :5])
    for tile in range(4):
        places = [int((inputs[tile] == row).all(1).nonzero()[0, 0]) for row in kept[tile, 5:]]
        assert len(set(places)) == 7
        assert min(places) >= 5
    assert rows.of("vit.blocks.1.mlp.fc2").shape == (4, 256)  # the last block's class token alone


def test_rows_do_not_grow_with_the_tiles() -> None:
    rows = Rows(5, 512)
    for _ in range(64):
        rows.take("layer", torch.zeros(8, 261, 16))
    assert rows.of("layer").shape == (32 * 12, 16)
    few = Rows(5, 3)
    few.take("layer", torch.zeros(3, 261, 16))
    assert few.of("layer").shape == (3 * 12, 16)


def test_ranges_come_back_from_disk(tmp_path: Path) -> None:
    ranges, plan = Ranges({"a.b": np.arange(3, dtype=np.float32)}, 7), Plan({"a.b": (0.75, 0.5)}, {"a.b": 1.25})
    save_ranges(tmp_path / "ranges.npz", ranges, plan)
    found, decided = load_ranges(tmp_path / "ranges.npz")
    np.testing.assert_array_equal(found.absmax["a.b"], ranges.absmax["a.b"])
    assert (found.tiles, decided) == (7, plan)
    np.savez(tmp_path / "other.npz", tiles=1, foreign=np.zeros(2))
    with pytest.raises(ValueError, match="foreign is not of a set of ranges"):
        load_ranges(tmp_path / "other.npz")


def test_tuning_leaves_the_model_alone_and_its_program_keeps_the_function(net: EdgeModel, tiles: np.ndarray) -> None:
    before = copy.deepcopy(net.state_dict())
    found, plan = tune(net, see(net, [tiles[:4]], 4), see(net, [tiles[4:8]], 4))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert plan.limits.keys() == linears(net).keys() == found.absmax.keys()
    assert set(plan.strengths.values()) <= set(STRENGTHS)
    assert found.tiles == 8
    smoothed = copy.deepcopy(net)
    ranges = smooth(smoothed, found, plan)
    with torch.inference_mode():
        pixels = torch.from_numpy(tiles[8:12])
        wanted, same = net(pixels), smoothed(pixels)
        drift = 1 - torch.cosine_similarity(quantize(smoothed, ranges, plan)(pixels), wanted).mean()
    torch.testing.assert_close(same, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    assert drift < 1e-3


def test_without_smoothing_only_limits_are_chosen(net: EdgeModel, tiles: np.ndarray) -> None:
    found, plan = tune(net, see(net, [tiles[:2]], 2), see(net, [tiles[2:4]], 2), smoothing=False)
    assert set(plan.strengths.values()) == {(0.0, 0.0)}
    smoothed = copy.deepcopy(net)
    smooth(smoothed, found, plan)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in smoothed.state_dict().items())


def numpy_error(weight: np.ndarray, rows: np.ndarray, limit: float) -> float:
    """The definition: the mean over tokens of |quantized output - output|^2 / |output|^2, scales as FP16 holds them."""

    def stored(value: np.ndarray) -> np.ndarray:
        half = np.asarray(value, np.float32).astype(np.float16)
        return np.where(half.astype(np.float64) < value, np.nextafter(half, np.float16(np.inf)), half).astype(
            np.float64
        )

    step = stored(np.abs(weight).max(1).astype(np.float32) / np.float32(127))[:, None]
    rounded = np.clip(np.rint(weight / step), -127, 127) * step
    scale = float(stored(np.float32(limit) / np.float32(127)))
    inputs = np.clip(np.rint(rows / scale), -128, 127) * scale
    exact = rows @ weight.T
    return float((((inputs @ rounded.T - exact) ** 2).sum(1) / (exact**2).sum(1)).mean())


def test_the_strength_is_the_one_with_the_least_error_across_both_kinds(net: EdgeModel, tiles: np.ndarray) -> None:
    dark = (tiles[4:8] // 3).astype(np.uint8)
    one, other = see(net, [tiles[:4]], 4), see(net, [dark], 4)
    _, plan = tune(net, one, other)
    name = "vit.blocks.0.mlp.fc2"
    weight = net.get_submodule(name).weight.detach()
    errors = []
    for alpha, quiet in STRENGTHS:
        total = 0.0
        for made, judged in ((one, other), (other, one)):
            seen = made.ranges.absmax[name]
            largest = weight.abs().amax(0)
            scale = smoothing_scale(torch.from_numpy(seen), largest, alpha, quiet) if alpha else torch.ones(256)
            rows = (judged.rows.of(name) / scale).double().numpy()
            total += numpy_error((weight * scale).double().numpy(), rows, float((seen / scale.numpy()).max()))
        errors.append(total)
    chosen = errors[STRENGTHS.index(plan.strengths[name])]
    assert chosen == pytest.approx(min(errors), rel=1e-3)  # FP32 products against FP64 ones
    assert max(errors) > 1.2 * chosen  # so that the choice means something


def test_a_single_huge_value_is_cut_off(net: EdgeModel, tiles: np.ndarray) -> None:
    """One channel of one register is 1000 times all else: a range that holds it leaves the rest no steps."""
    seen = [see(net, [tiles[:4]], 4), see(net, [tiles[4:8]], 4)]
    name = "vit.blocks.0.mlp.fc2"
    spoilt = []
    for one in seen:
        rows = copy.deepcopy(one.rows)
        rows._rows[name][0][1, 7] = 1000.0 * float(one.ranges.absmax[name].max())
        absmax = dict(one.ranges.absmax)
        absmax[name] = absmax[name].copy()
        absmax[name][7] *= 1000.0
        spoilt.append(Seen(replace(one.ranges, absmax=absmax), rows))
    _, plan = tune(net, *spoilt, smoothing=False)
    largest = float(joint(spoilt[0].ranges, spoilt[1].ranges).absmax[name].max())
    assert plan.limits[name] < 0.05 * largest
    _, kept = tune(net, *seen, smoothing=False)
    assert kept.limits[name] > 0.5 * float(joint(seen[0].ranges, seen[1].ranges).absmax[name].max())

"""Calibration sees what NumPy sees, keeps one vector a layer, and leaves the model as it found it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgepath.errors import WeightsError
from edgepath.machine.inference import inference
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program.calibrate import NO_PLAN, Plan, Ranges, calibrate, linears, load_ranges, save_ranges
from edgepath.program.fold import EdgeModel, fold

NAMES = [
    *(f"vit.blocks.0.{leaf}" for leaf in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
    *(f"vit.blocks.1.{leaf}" for leaf in ("attn.q", "attn.kv", "attn.proj", "mlp.fc1", "mlp.fc2")),
]


@pytest.fixture(scope="module")
def model(tiny: ModelSpec) -> EdgeModel:
    return fold(random_model(tiny), tiny)


@pytest.fixture(scope="module")
def ranges(model: EdgeModel, tiles: np.ndarray) -> Ranges:
    return calibrate(model, [tiles[:4], tiles[4:8]])


def hooks(model: nn.Module) -> int:
    return sum(len(layer._forward_pre_hooks) + len(layer._forward_hooks) for layer in model.modules())


def test_linears_are_those_of_the_blocks_and_no_others(model: EdgeModel) -> None:
    assert list(linears(model)) == NAMES
    assert set(linears(nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 2)]), "head": nn.Linear(2, 2)}))) == {
        "blocks.0"
    }


def test_ranges_equal_numpys_largest_magnitudes(model: EdgeModel, ranges: Ranges, tiles: np.ndarray) -> None:
    # The linears are replaced, one at a time, by ones that write down their input: no hooks, and NumPy's maximum.
    class Recorder(nn.Module):
        def __init__(self, inner: nn.Linear) -> None:
            super().__init__()
            self.inner, self.seen = inner, []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.append(x.numpy().reshape(-1, x.shape[-1]))
            return self.inner(x)

    assert (ranges.tiles, list(ranges.absmax)) == (8, NAMES)
    for name in NAMES:
        parent, _, leaf = name.rpartition(".")
        recorder = Recorder(model.get_submodule(name))
        setattr(model.get_submodule(parent), leaf, recorder)
        with inference():  # whose sums are those of calibration, in their order
            for batch in (tiles[:4], tiles[4:8]):
                model(torch.from_numpy(batch))
        setattr(model.get_submodule(parent), leaf, recorder.inner)
        assert ranges.absmax[name].dtype == np.float32
        np.testing.assert_array_equal(ranges.absmax[name], np.abs(np.concatenate(recorder.seen)).max(axis=0))


def test_class_token_layers_see_one_row_a_tile(model: EdgeModel, ranges: Ranges) -> None:
    # q reads the class token that kv reads with all the others, so no range of q exceeds kv's, and some are smaller.
    q, kv = ranges.absmax["vit.blocks.1.attn.q"], ranges.absmax["vit.blocks.1.attn.kv"]
    assert (q <= kv).all()
    assert (q < kv).any()


def test_batches_and_order_do_not_matter(model: EdgeModel, ranges: Ranges, tiles: np.ndarray) -> None:
    for batches in ([tiles[:8]], [tiles[i : i + 1] for i in reversed(range(8))], [tiles[:7], tiles[7:8]]):
        other = calibrate(model, batches)
        assert other.tiles == 8
        for name in NAMES:
            # FP32 sums in another order in batches of another size; blocks pass it on.
            np.testing.assert_allclose(other.absmax[name], ranges.absmax[name], rtol=1e-4, atol=1e-5)


def test_more_tiles_never_narrow_a_range(model: EdgeModel, ranges: Ranges, tiles: np.ndarray) -> None:
    fewer = calibrate(model, [tiles[:4]])
    assert all((fewer.absmax[name] <= ranges.absmax[name]).all() for name in NAMES)
    assert any((fewer.absmax[name] < ranges.absmax[name]).any() for name in NAMES)


def test_views_and_read_only_tiles_are_taken(model: EdgeModel, tiles: np.ndarray) -> None:
    frozen = tiles[:2].copy()
    frozen.flags.writeable = False
    plain, flipped = calibrate(model, [frozen]), calibrate(model, [tiles[1::-1]])
    assert all(np.allclose(plain.absmax[name], flipped.absmax[name], rtol=1e-4, atol=1e-5) for name in NAMES)


def test_memory_does_not_grow_with_the_tiles(model: EdgeModel, tiles: np.ndarray) -> None:
    def alive() -> int:
        gc.collect()
        return sum(t.numel() * t.element_size() for t in gc.get_objects() if type(t) is torch.Tensor)

    counts: list[int] = []

    def batches() -> Iterator[np.ndarray]:
        for _ in range(4):
            yield tiles[:1]
            counts.append(alive())  # after this batch was embedded

    calibrate(model, batches())
    assert counts[1] == counts[2] == counts[3]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_activation_that_is_not_finite_names_the_layer(number: float, tiny: ModelSpec, tiles: np.ndarray) -> None:
    model = fold(random_model(tiny), tiny)
    model.vit.blocks[0].norm2.bias.data[3] = number
    with pytest.raises(WeightsError, match=r"the input of vit\.blocks\.0\.mlp\.fc1 is not finite"):
        calibrate(model, [tiles[:1], tiles[1:2]])
    assert hooks(model) == 0


def test_hooks_are_gone_after_work_and_after_an_error(model: EdgeModel, tiles: np.ndarray) -> None:
    seen = []

    def batches() -> Iterator[np.ndarray]:
        yield tiles[:1]
        seen.append(hooks(model))
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        calibrate(model, batches())
    assert seen == [len(NAMES)]
    assert hooks(model) == 0


def test_progress_counts_tiles(model: EdgeModel, tiles: np.ndarray) -> None:
    steps: list[int] = []
    calibrate(model, [tiles[:2], tiles[2:3]], progress=steps.append)
    assert steps == [2, 1]


def test_ranges_survive_the_disk(ranges: Ranges, tmp_path: Path) -> None:
    save_ranges(tmp_path / "ranges.npz", ranges, NO_PLAN)
    loaded, plan = load_ranges(tmp_path / "ranges.npz")
    assert plan == Plan()
    assert loaded.tiles == ranges.tiles
    assert list(loaded.absmax) == list(ranges.absmax)
    for name, values in ranges.absmax.items():
        assert loaded.absmax[name].dtype == np.float32
        np.testing.assert_array_equal(loaded.absmax[name], values)


def test_nothing_is_unpickled_from_ranges(tmp_path: Path) -> None:
    np.savez(tmp_path / "ranges.npz", **{"tiles": np.int64(1), "absmax/layer": np.array([{}], dtype=object)})
    with pytest.raises(ValueError, match="none of a plain array"):
        load_ranges(tmp_path / "ranges.npz")


def test_what_older_versions_kept_of_queries_and_keys_is_left_out(ranges: Ranges, tmp_path: Path) -> None:
    save_ranges(tmp_path / "ranges.npz", ranges, NO_PLAN)
    with np.load(tmp_path / "ranges.npz") as file:
        np.savez(tmp_path / "older.npz", **file, **{"scores/vit.blocks.0.attn": np.ones(2)})
    older, plan = load_ranges(tmp_path / "older.npz")
    assert (list(older.absmax), older.tiles, plan) == (list(ranges.absmax), ranges.tiles, NO_PLAN)


def test_activation_whose_scale_does_not_fit_fp16_names_the_layer(tiny: ModelSpec, tiles: np.ndarray) -> None:
    net = fold(random_model(tiny), tiny)
    with torch.no_grad():
        net.vit.blocks[0].norm2.bias.fill_(1e7)
    with pytest.raises(WeightsError, match=r"the input of vit\.blocks\.0\.mlp\.fc1 reaches 1e\+07"):
        calibrate(net, [tiles[:1]])

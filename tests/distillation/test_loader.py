"""Order and views depend on seed and position only."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import RECIPE

from edgepath.distillation.loader import workers_told
from edgepath.distillation.options import Options, load_options
from edgepath.distillation.training import view_loader
from edgepath.errors import EdgepathError, TileError, UsageError
from edgepath.tiles.opening import open_tiles


@pytest.fixture
def options(small: dict[str, object]) -> Options:
    return load_options(RECIPE, small)


def test_an_epoch_holds_each_tile_once_in_an_order_of_its_own(options: Options) -> None:
    loader = view_loader(open_tiles("synthetic:8"), options)
    first, second = ([loader.tile_at(8 * epoch + place) for place in range(8)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(8))
    assert first != second


def test_two_processes_see_what_one_sees(options: Options) -> None:
    source = open_tiles("synthetic:8")
    whole = list(view_loader(source, options).steps(0))
    halves = [list(view_loader(source, options, rank=rank, world=2).steps(0)) for rank in (0, 1)]
    assert len(whole) == 4
    for together, left, right in zip(whole, *halves, strict=True):
        for both, one, other in zip(together, left, right, strict=True):
            assert np.array_equal(both, np.concatenate([one, other], 1))


def test_starting_later_skips_and_changes_nothing(options: Options) -> None:
    source = open_tiles("synthetic:8")
    whole, rest = list(view_loader(source, options).steps(0)), list(view_loader(source, options).steps(2))
    assert [step[0].tobytes() for step in whole[2:]] == [step[0].tobytes() for step in rest]


def test_workers_make_what_this_process_would(options: Options, small: dict[str, object]) -> None:
    source = open_tiles("synthetic:8")
    here = list(view_loader(source, options).steps(0))
    ahead = list(view_loader(source, load_options(RECIPE, small | {"run.workers": 2, "run.prefetch": 3})).steps(0))
    assert len(here) == len(ahead) == 4
    for mine, theirs in zip(here, ahead, strict=True):
        assert all(np.array_equal(one, other) for one, other in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_tile_is_the_one_line_it_is_elsewhere(tmp_path: Path, small: dict[str, object], workers: int) -> None:
    for number in range(4):
        Image.new("RGB", (224, 224)).save(tmp_path / f"{number}.png")
    loader = view_loader(open_tiles(tmp_path), load_options(RECIPE, small | {"run.workers": workers}))
    (tmp_path / "2.png").write_bytes(b"no picture")
    with pytest.raises(TileError) as caught:
        list(loader.steps(0))
    assert "2.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_killed_worker_is_told_in_one_line(small: dict[str, object]) -> None:
    many = load_options(RECIPE, small | {"run.workers": 1, "training.steps": 1000})
    steps = view_loader(open_tiles("synthetic:8"), many).steps(0)
    next(steps)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(EdgepathError, match=r"DataLoader worker.*give fewer run\.workers") as caught, workers_told():
        for _ in steps:
            pass
    assert "\n" not in str(caught.value)
    for said in ("another", "Caught RuntimeError in DataLoader worker process 0."):
        with pytest.raises(RuntimeError, match=said), workers_told():
            raise RuntimeError(said)


def test_a_closed_loader_leaves_no_process(small: dict[str, object]) -> None:
    steps = view_loader(open_tiles("synthetic:8"), load_options(RECIPE, small | {"run.workers": 1})).steps(0)
    next(steps)
    assert multiprocessing.active_children()
    steps.close()
    assert not multiprocessing.active_children()


def test_no_more_workers_than_cores_that_may_be_used(small: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    steps = view_loader(open_tiles("synthetic:8"), load_options(RECIPE, small | {"run.workers": 2})).steps(0)
    next(steps)  # more would be a warning of PyTorch's
    assert len(multiprocessing.active_children()) == 1
    steps.close()


def test_too_few_tiles_and_a_batch_that_cannot_be_shared_are_refused(options: Options) -> None:
    with pytest.raises(UsageError, match="3 tiles are too few for a batch of 4"):
        view_loader(open_tiles("synthetic:3"), options)
    with pytest.raises(UsageError, match="cannot be shared by 3 processes"):
        view_loader(open_tiles("synthetic:8"), options, world=3)

"""Fair shares over groups, and more of what there is than the first or a random n: on made points and on real tiles."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import pairwise_distances_argmin_min
from sklearn.preprocessing import StandardScaler

from edgepath.tiles.images import describe
from edgepath.tiles.opening import open_tiles
from edgepath.tiles.origins import group_of, origins
from edgepath.tiles.selection import select

Groups = list[tuple[str, ...]]


def points(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


def shares(groups: Groups, count: int, seed: int = 0) -> Counter[tuple[str, ...]]:
    chosen = select(points(len(groups), seed), groups, count, seed=seed)
    assert len(set(chosen)) == len(chosen) == count
    return Counter(groups[i] for i in chosen)


def test_small_groups_give_all_they_have_and_the_others_share_the_rest() -> None:
    groups: Groups = [("a",)] * 100 + [("b",)] * 3 + [("c",)] * 50 + [("d",)] * 7
    assert shares(groups, 40) == {("a",): 15, ("b",): 3, ("c",): 15, ("d",): 7}


def test_shares_are_fair_at_every_level() -> None:
    # Scanner s1 has ten slides, s2 one: each gives half, and the ten slides share their half.
    groups: Groups = [("s1", f"slide{i % 10}") for i in range(200)] + [("s2", "slide")] * 200
    found = shares(groups, 40)
    assert found[("s2", "slide")] == 20
    assert {n for (scanner, _), n in found.items() if scanner == "s1"} == {2}
    assert len(found) == 11


def test_groups_may_be_of_different_depth() -> None:
    groups: Groups = [("a",)] * 20 + [("a", "x")] * 20 + [("b", "y", "z")] * 20
    assert shares(groups, 8) == {("a",): 2, ("a", "x"): 2, ("b", "y", "z"): 4}


@pytest.mark.parametrize("seed", range(6))
def test_what_does_not_divide_goes_to_the_farthest(seed: int) -> None:
    values = np.linspace(0, 1, 40, dtype=np.float32)[:, None]
    values[39] = 50
    groups: Groups = [("a",)] * 10 + [("b",)] * 10 + [("c",)] * 10 + [("d",)] * 10
    # Two tiles of four groups: the first is drawn, the second is what is like no other (or the other way round).
    assert 39 in select(values, groups, 2, seed=seed)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_group_is_two_behind_one_that_gave_more(data: st.DataObject) -> None:
    names = st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.sampled_from("123"))
    groups: Groups = data.draw(st.lists(names, min_size=1, max_size=60))
    count = data.draw(st.integers(1, len(groups)))
    found = shares(groups, count, data.draw(st.integers(0, 3)))
    for depth in (1, 2, 3):
        have = Counter(group[:depth] for group in groups)
        gave = Counter(dict.fromkeys(have, 0))
        for group, n in found.items():
            gave[group[:depth]] += n
        for one in have:
            for other in have:
                if one[:-1] == other[:-1] and gave[one] < have[one]:
                    assert gave[other] - gave[one] <= 1


def test_all_tiles_can_be_chosen() -> None:
    groups: Groups = [("a",), ("b",), ("b",)]
    assert sorted(select(np.zeros((3, 2), np.float32), groups, 3)) == [0, 1, 2]


def test_tiles_are_taken_farthest_first() -> None:
    values = np.array([[0.0], [1.0], [4.0], [10.0]], np.float32)
    orders = {tuple(select(values, [("a",)] * 4, 4, seed=seed)) for seed in range(30)}
    # From each start, by hand: the end farther away, then what is farthest from both.
    assert orders == {(0, 3, 2, 1), (1, 3, 2, 0), (2, 3, 0, 1), (3, 0, 2, 1)}


def test_seed_decides() -> None:
    values, groups = points(200), [("a",)] * 200
    one = select(values, groups, 20, seed=1)
    assert one == select(values, groups, 20, seed=1)
    assert one != select(values, groups, 20, seed=2)


def test_numbers_of_any_scale_count_alike() -> None:
    values = points(100)
    scaled = values * np.array([1, 1000, 0.001], np.float32) + np.array([0, 5, 0], np.float32)
    assert select(values, [("a",)] * 100, 10) == select(scaled, [("a",)] * 100, 10)


def test_one_artefact_does_not_hide_the_rest() -> None:
    values = points(200)
    values[0] = 1e4
    chosen = select(values, [("a",)] * 200, 30)
    plain = select(values[1:], [("a",)] * 199, 30)
    spread = values[1:].std(0)
    assert values[[i for i in chosen if i]].std(0) == pytest.approx(values[1:][plain].std(0), rel=0.25)
    assert (values[[i for i in chosen if i]].std(0) > spread).all()


def test_constant_numbers_are_no_matter() -> None:
    values = points(50)
    values[:, 1] = 7
    assert len(set(select(values, [("a",)] * 50, 10))) == 10


# --- on real tiles


def histogram(pixels: np.ndarray) -> np.ndarray:
    """Colours in 512 bins, square roots: Hellinger distance. Not what is selected by."""
    bins = (pixels.reshape(-1, 3) >> 5).astype(int) @ [64, 8, 1]
    return np.sqrt(np.bincount(bins, minlength=512) / len(bins))


def test_real_tiles_are_covered_better_than_by_the_first_or_by_random_ones(real_tiles: Path) -> None:
    """Two measures, 48 of every third tile with tissue, mean of 5 seeds; for each, smaller is better.

    radius: the largest distance of any tile to the nearest chosen one, in the standardised descriptor;
    group mean: the mean distance to the nearest chosen one, each group counted alike, in colour histograms.
    """
    source = open_tiles(real_tiles).select(range(0, 673, 3))
    keys, descriptors, colours = [], [], []
    for batch in source.batches():
        for key, pixels in zip(batch.keys, batch.pixels, strict=True):
            tissue, descriptor = describe(pixels)
            if tissue >= 0.1:
                keys.append(key)
                descriptors.append(descriptor)
                colours.append(histogram(pixels))
    known = origins(source)
    groups = [group_of(known[key]) for key in keys]
    number = np.unique([" ".join(group) for group in groups], return_inverse=True)[1]
    scaled, colours = StandardScaler().fit_transform(np.array(descriptors)), np.array(colours)

    def measure(chosen: list[int]) -> np.ndarray:
        radius = pairwise_distances_argmin_min(scaled, scaled[chosen])[1].max()
        nearest = pairwise_distances_argmin_min(colours, colours[chosen])[1]
        return np.array([radius, np.mean([nearest[number == g].mean() for g in range(number.max() + 1)])])

    count = 48
    selected = np.mean([measure(select(np.array(descriptors), groups, count, seed=s)) for s in range(5)], 0)
    rng = np.random.default_rng(0)
    drawn = np.mean([measure(list(rng.choice(len(keys), count, replace=False))) for _ in range(5)], 0)
    first = measure(list(range(count)))
    assert (selected < 0.8 * drawn).all(), (selected, drawn)
    assert (selected < 0.8 * first).all(), (selected, first)

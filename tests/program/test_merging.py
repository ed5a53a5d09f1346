"""Tokens that are merged: as a loop over them says, exactly nothing lost where they are equal, and in the artifacts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgepath
from edgepath.checks.debugging import debug
from edgepath.errors import RecipeError, UsageError
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program.fold import fold
from edgepath.program.merging import MergingBlocks, merge_tokens, merged, most_merged, work_left
from edgepath.program.sensitivity import multiply_adds
from edgepath.recipes.recipe import Merging, Recipe, find_recipe, load_recipe
from edgepath.reports.tables.checks import point_table
from edgepath.searching import search

TILES: dict[str, Any] = {"weights": "random", "calibration": "synthetic:64", "calibration_tiles": 16, "device": "cpu"}
PREFIX = 5


def merged_one_by_one(x: np.ndarray, keys: np.ndarray, sizes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens (T - count, width) and sizes of one tile, pair by pair."""
    first, second = list(range(PREFIX, len(x), 2)), list(range(PREFIX + 1, len(x), 2))
    unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    nearest = {i: max(second, key=lambda j, i=i: float(unit[i] @ unit[j])) for i in first}
    alike = sorted(first, key=lambda i: -float(unit[i] @ unit[nearest[i]]))
    tokens = {j: [(float(sizes[j]), x[j])] for j in second}
    for i in alike[:count]:
        tokens[nearest[i]].append((float(sizes[i]), x[i]))
    left = [*[[(float(sizes[i]), x[i])] for i in range(PREFIX)], *[[(float(sizes[i]), x[i])] for i in alike[count:]]]
    left += [tokens[j] for j in second]
    total = np.array([sum(size for size, _ in parts) for parts in left])
    return np.array([sum(size * values for size, values in parts) for parts in left]) / total[:, None], total


def test_tokens_are_merged_as_a_loop_over_them_does() -> None:
    draw = torch.Generator().manual_seed(0)
    x, keys = torch.randn(2, 25, 6, generator=draw), torch.randn(2, 25, 4, generator=draw)
    sizes = torch.randint(1, 4, (2, 25, 1), generator=draw).float()
    tokens, left = merged(x, keys, sizes, 7, PREFIX)
    assert tokens.shape == (2, 18, 6)
    for tile in range(2):
        wanted, total = merged_one_by_one(x[tile].numpy(), keys[tile].numpy(), sizes[tile, :, 0].numpy(), 7)
        np.testing.assert_allclose(tokens[tile].numpy(), wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(left[tile, :, 0].numpy(), total)


def test_equal_tokens_are_merged_without_a_trace(tiny: ModelSpec) -> None:
    """Attention counts a merged token as often as it stands for patches, so nothing is lost of equal ones."""
    vit: Any = random_model(replace(tiny, timm_args={**tiny.timm_args, "depth": 4}))
    vit.pos_embed.data.zero_()
    net, tile = fold(vit, tiny), np.zeros((1, 224, 224, 3), np.uint8)
    draw = np.random.default_rng(0)
    for row in range(16):  # each patch twice, side by side
        for column in range(0, 16, 2):
            patch = draw.integers(0, 256, (14, 14, 3), np.uint8)
            for side in (column, column + 1):
                tile[0, row * 14 : row * 14 + 14, side * 14 : side * 14 + 14] = patch
    pixels = torch.from_numpy(tile)
    with torch.inference_mode():
        exact = net(pixels)
        net.vit.blocks = MergingBlocks(net.vit.blocks, (0, 128, 0, 0), PREFIX)
        torch.testing.assert_close(net(pixels), exact, atol=1e-5, rtol=1e-5)
        net.vit.blocks.counts = (0, 128, 64, 0)  # 64 that are not alike
        assert not torch.allclose(net(pixels), exact, atol=1e-4, rtol=1e-4)


@pytest.fixture
def merging(tmp_path: Path) -> Any:
    """Return the recipe file of a target that merges 100 tokens in the first block."""

    def write(target: str) -> str:
        recipe = replace(find_recipe(target), target="merging", merging=Merging(each=100))
        recipe = replace(
            recipe, quantize=replace(recipe.quantize, looks=0), accept=replace(recipe.accept, cosine_p01=0.9)
        )
        (tmp_path / f"{target}.toml").write_text(recipe.to_toml(), encoding="utf-8")
        return str(tmp_path / f"{target}.toml")

    return write


@pytest.mark.parametrize("target", ["openvino-int8", "onnx-int8"])
def test_the_artifact_is_the_program_that_merges(
    target: str, merging: Any, known_tiny: ModelSpec, tiles: np.ndarray, tmp_path: Path
) -> None:
    done = edgepath.export(merging(target), model="tiny", out=tmp_path, **TILES)
    assert {gate["gate"]: gate["passed"] for gate in done.report["gates"]}["other parts"]
    assert done.bundle.recipe.merging == Merging(each=100)
    assert any("tokens that are alike are merged" in note for note in done.report["notes"])
    found = edgepath.verify(done.bundle, tiles="synthetic:8:9", weights="random", device="cpu")
    drift = found["tiles"]["drift"]
    assert drift["lowering"]["cosine_mean"] > 0.999
    assert drift["quantization"]["cosine_mean"] < 1 - 1e-5
    with pytest.raises(UsageError, match=r"debug tiny-merging: it merges tokens"):
        debug(done.bundle, weights="random")


def test_the_search_finds_the_least_work_that_meets_the_budget(known_tiny: ModelSpec, tmp_path: Path) -> None:
    out = tmp_path / "merged.toml"
    with pytest.raises(UsageError, match=r"no merging of 4 tokens or more a block meets the budget"):
        search("openvino-int8", {"cosine_mean": 1 - 1e-9}, out, arm="merging", model="tiny", **TILES)
    found = search("openvino-int8", {"cosine_mean": 0.99, "cosine_p01": 0.9}, out, arm="merging", model="tiny", **TILES)
    each = found["merging"]["each"]
    best = next(point for point in found["points"] if point["each"] == each)
    assert each == load_recipe(out).merging.each > 0
    assert best["artifact"]["cosine_mean"] >= 0.99
    assert best["work"] == min(point["work"] for point in found["points"] if point["artifact"])
    assert best["work"] < 1
    assert point_table(found).rows[0][-1] in ("met", "missed: cosine_mean")


def test_the_work_that_is_left_is_that_of_the_tokens_that_are(tiny: ModelSpec) -> None:
    net, how = fold(random_model(tiny), tiny), Merging(each=100)
    share, whole = work_left(net, (100, 0)), sum(multiply_adds(net).values())
    assert most_merged(net, 0) == 128
    assert share == pytest.approx(sum(multiply_adds(merge_tokens(net, how)).values()) / whole)
    assert isinstance(net.vit.blocks, MergingBlocks)


@pytest.mark.parametrize(
    ("how", "embedding", "said"),
    [
        (Merging(each=129), "cls", "give 128 or fewer"),
        (Merging(each=4, first_block=1), "cls", "the last merges none: give 0 to 0"),
        (Merging(each=4), "cls+mean", "export the class token alone"),
    ],
)
def test_what_cannot_be_merged_is_refused(tiny: ModelSpec, how: Merging, embedding: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        merge_tokens(fold(random_model(tiny), tiny, embedding=embedding), how)


@pytest.mark.parametrize("target", ["jetson-int8", "openvino-fp16"])
def test_targets_that_merge_none_say_so(target: str) -> None:
    values = find_recipe(target).to_json() | {"merging": {"each": 4}}
    with pytest.raises(RecipeError, match=r"merging.each = 4; tokens are merged in INT8 targets of"):
        Recipe.from_json(values)

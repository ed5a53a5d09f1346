"""Where noise comes from is told by the formulas, and the noisiest layer is the one that was made so."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgepath.bundle.bundle import Bundle
from edgepath.checks.debugging import debug
from edgepath.errors import UsageError
from edgepath.exporting import Exported
from edgepath.program.calibrate import linears
from edgepath.program.headroom import FP16_MAX
from edgepath.program.rebuilding import rebuild, same_weights
from edgepath.recipes.recipe import Recipe
from edgepath.reports.drawings import draw_debug
from edgepath.reports.tables.checks import block_table, layer_table

Exports = Callable[[str], Exported]
Altered = Callable[[str, Callable[[Path], object]], Bundle]


def test_figures_of_layers_and_blocks(exports: Exports) -> None:
    bundle = exports("onnx-int8").bundle
    result = debug(bundle)
    recipe = Recipe.from_json(bundle.manifest["recipe"])
    twin = rebuild(bundle, recipe, *same_weights(bundle, None)[:2], smoothed_only=True)
    program = rebuild(bundle, recipe, *same_weights(bundle, None)[:2])
    name = "vit.blocks.1.mlp.fc2"
    given = []
    layer = linears(twin)[name]
    hook = layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    tiles = torch.from_numpy(bundle.golden()[0])
    with torch.inference_mode():
        exact = twin(tiles)
        hook.remove()
        rounded = program(tiles)
        wanted, noisy = layer(given[0]), program.get_submodule(name)(given[0])
    row = next(row for row in result["layers"] if row["layer"] == name)
    decibels = 10 * math.log10(float(wanted.square().sum() / (noisy - wanted).square().sum()))
    assert row["sqnr_db"] == pytest.approx(decibels, abs=0.01)
    channels = given[0].abs().flatten(0, -2).amax(0).numpy()
    assert row["input_max"] == pytest.approx(channels.max(), rel=1e-5)
    assert row["outlier_channels"] == int((channels > 6 * np.median(channels)).sum())
    last = result["blocks"][-1]
    assert last["cls_cosine"] <= 1
    # What a block puts out is among what is made in it, so there is no more room than above that.
    assert 0 < last["fp16_headroom"] <= FP16_MAX / last["max"] * (1 + 1e-6)
    assert last["nearest"].startswith("vit.blocks.1")
    assert float(torch.cosine_similarity(exact, rounded).mean()) == pytest.approx(last["cls_cosine"], abs=2e-3)
    assert result["parts"] == {"products": 10, "norms": 5, "differences": []}
    for shown in (layer_table(result), block_table(result)):
        assert len(shown.rows[0]) == len(shown.header)


def test_full_precision_has_ranges_but_no_noise(exports: Exports, tmp_path: Path) -> None:
    result = debug(exports("onnx-fp32").bundle, tiles="synthetic:4")
    assert {row["sqnr_db"] for row in result["layers"] + result["blocks"]} == {None}
    assert all(row["input_max"] > 0 for row in result["layers"])
    assert layer_table(result).rows[0][1] == "-"
    draw_debug(result, tmp_path / "plot.png")
    assert np.array(Image.open(tmp_path / "plot.png")).std() > 5


def test_picture_of_an_int8_bundle(exports: Exports, tmp_path: Path) -> None:
    draw_debug(debug(exports("onnx-int8").bundle, tiles="synthetic:2"), tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.size == (1320, 744)


def test_too_many_tiles_are_refused(exports: Exports) -> None:
    with pytest.raises(UsageError, match="65 tiles; give --tiles with at most 64"):
        debug(exports("onnx-int8").bundle, tiles="synthetic:65")

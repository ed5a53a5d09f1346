"""Weights and calibration tiles as bad as they come: what is exported still sees what the full-precision model sees.

H0-mini's 12 blocks at width 96 with random weights, through the passes as an export runs them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from edgepath.exporting import export
from edgepath.models import catalogue as models
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program.calibrate import NO_PLAN, Plan, Ranges
from edgepath.program.fold import EdgeModel, fold
from edgepath.program.forms import to_fp16, to_onnx
from edgepath.program.linear import quantize
from edgepath.program.smooth import smooth
from edgepath.program.tune import see, tune
from edgepath.quality.robustness import robustness
from edgepath.searching import search
from edgepath.tiles.synthetic import synthesize

WIDTH, HALF = 96, 256


def embed(model: EdgeModel, tiles: np.ndarray) -> Tensor:
    with torch.inference_mode():
        return model(torch.from_numpy(tiles))


def drift(found: Tensor, wanted: Tensor) -> float:
    """1 - mean cosine."""
    return 1 - float(nn.functional.cosine_similarity(found.double(), wanted.double()).mean())


@pytest.fixture(scope="module")
def deep(tiny: ModelSpec) -> ModelSpec:
    return replace(tiny, timm_args={**tiny.timm_args, "depth": 12})


@pytest.fixture(scope="module")
def looks() -> np.ndarray:
    return synthesize(12, seed=1)


def tuned(model: EdgeModel, own: np.ndarray, looks: np.ndarray) -> tuple[Ranges, Plan]:
    return tune(model, see(model, [own], len(own)), see(model, [looks], len(looks)))


def quantized(model: EdgeModel, ranges: Ranges, plan: Plan = NO_PLAN) -> EdgeModel:
    model = copy.deepcopy(model)
    return quantize(model, smooth(model, ranges, plan), plan)


def outlier_channels(vit: nn.Module) -> None:
    """6 input channels of every linear 100 times larger and their weights as much smaller."""
    rng = np.random.default_rng(0)
    for block in vit.blocks:
        attn, mlp = block.attn, block.mlp
        pairs = [(block.norm1, 0, attn.qkv, WIDTH), (block.norm2, 0, mlp.fc1, WIDTH)]
        pairs += [(attn.qkv, 2 * WIDTH, attn.proj, WIDTH), (mlp.fc1, HALF, mlp.fc2, HALF)]
        for producer, first, consumer, channels in pairs:
            picked = torch.from_numpy(rng.choice(channels, 6, replace=False))
            producer.weight[first + picked] *= 100
            producer.bias[first + picked] *= 100
            consumer.weight[:, picked] /= 100


def massive_token(vit: nn.Module) -> None:
    """One register enters the blocks with two channels 300 times everything else (Sun et al., arXiv 2402.17762)."""
    vit.reg_token[0, 2, [11, 60]] = 300 * float(vit.reg_token.std())


def near_fp16s_limit(vit: nn.Module) -> None:
    """The value half of every gated MLP 1,000 times larger, what reads it as much smaller."""
    for block in vit.blocks:
        block.mlp.fc1.weight[HALF:] *= 1000
        block.mlp.fc1.bias[HALF:] *= 1000
        block.mlp.fc2.weight /= 1000


def dead_channels(vit: nn.Module) -> None:
    """Channels that nothing flows into, and rows that nothing comes out of."""
    for block in vit.blocks:
        block.norm1.weight[5] = block.norm1.bias[5] = 0.0
        block.attn.qkv.weight[2 * WIDTH + 3] = block.attn.qkv.bias[2 * WIDTH + 3] = 0.0
        block.mlp.fc1.weight[HALF + 9] = block.mlp.fc1.bias[HALF + 9] = 0.0
        block.mlp.fc2.weight[4] = 0.0


STRESSES: tuple[Callable[[nn.Module], None], ...] = (outlier_channels, massive_token, near_fp16s_limit, dead_channels)


@pytest.mark.parametrize("stress", STRESSES, ids=lambda stress: stress.__name__)
def test_stressed_weights_drift_no_more_than_ordinary_ones(
    stress: Callable[[nn.Module], None], deep: ModelSpec, tiles: np.ndarray, looks: np.ndarray
) -> None:
    vit = random_model(deep)
    with torch.no_grad():
        stress(vit)
    model = fold(vit, deep)
    wanted = embed(model, tiles[12:])
    assert torch.isfinite(wanted).all()
    program = quantized(model, *tuned(model, tiles[:12], looks))
    ordinary = fold(random_model(deep), deep)
    usual = drift(
        embed(quantized(ordinary, *tuned(ordinary, tiles[:12], looks)), tiles[12:]), embed(ordinary, tiles[12:])
    )
    assert drift(embed(program, tiles[12:]), wanted) < 2 * usual + 1e-5
    assert usual < 1e-3


@pytest.mark.parametrize("stress", STRESSES, ids=lambda stress: stress.__name__)
def test_stressed_weights_hold_in_fp16(
    stress: Callable[[nn.Module], None], deep: ModelSpec, tiles: np.ndarray, looks: np.ndarray
) -> None:
    import onnxruntime

    vit = random_model(deep)
    with torch.no_grad():
        stress(vit)
    model = fold(vit, deep)
    wanted = embed(model, tiles[12:16])
    half = to_fp16(to_onnx(quantized(model, *tuned(model, tiles[:12], looks))))
    session = onnxruntime.InferenceSession(half.SerializeToString(), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"tiles": tiles[12:16]})[0])
    assert torch.isfinite(found).all()
    assert drift(found, wanted) < 2e-3


def test_a_constant_calibration_set_is_made_up_for_by_looks(
    deep: ModelSpec, tiles: np.ndarray, looks: np.ndarray
) -> None:
    """Glass alone says nothing about tissue: without looks, tissue is cut off."""
    model = fold(random_model(deep), deep)
    wanted = embed(model, tiles[:12])
    glass = np.full((8, 224, 224, 3), 242, np.uint8)
    alone = see(model, [glass], 8).ranges
    assert all(np.isfinite(values).all() for values in alone.absmax.values())
    poor = drift(embed(quantized(model, alone), tiles[:12]), wanted)
    good = drift(embed(quantized(model, *tuned(model, glass, looks)), tiles[:12]), wanted)
    assert good < 1e-3
    assert poor > 10 * good


@pytest.mark.slow
@pytest.mark.parametrize(("smooth_alpha", "passes"), [(0.5, True), (0.0, False)], ids=["smoothed", "not smoothed"])
def test_outliers_fail_the_gates_where_they_are_not_smoothed(
    smooth_alpha: float, passes: bool, known_tiny: ModelSpec, checkout: Path, tmp_path: Path
) -> None:
    """As an export and `edgepath robustness` judge it. Of 12 places a share moves in steps of four points where one is
    allowed, so a tile decides: of robustness, the cosines are held.
    """
    vit = random_model(known_tiny)
    with torch.no_grad():
        outlier_channels(vit)
    weights = tmp_path / "outliers.safetensors"
    save_file({name: value.contiguous() for name, value in vit.state_dict().items()}, weights)
    recipe = (checkout / "export/onnx/onnx-int8.toml").read_text()
    assert "smooth_alpha = 0.5" in recipe
    (tmp_path / "recipe.toml").write_text(recipe.replace("smooth_alpha = 0.5", f"smooth_alpha = {smooth_alpha}"))
    target, model = str(tmp_path / "recipe.toml"), known_tiny.name
    done = export(target, model=model, weights=weights, calibration_tiles=32, out=tmp_path, device="cpu")
    gates = {gate["gate"]: gate["passed"] for gate in done.report["gates"]}
    assert gates == {"cosine_mean": passes, "cosine_p01": passes, "other parts": True}  # it is what was asked for
    for staining, scanner in (("GMH", "S60"), ("GMH", "AT2"), ("KR", "S60")):
        (tmp_path / f"paired/{staining}_{scanner}").mkdir(parents=True)
        for i, tile in enumerate(synthesize(12, seed=3, staining=staining, scanner=scanner)):
            Image.fromarray(tile).save(tmp_path / f"paired/{staining}_{scanner}/{i}.png")
    found = robustness(done.bundle, paired=tmp_path / "paired", weights=weights, device="cpu")
    assert {gate["passed"] for gate in found["gates"] if gate["gate"] == "cosine"} == {passes}


@pytest.mark.slow
def test_search_meets_on_outliers_a_budget_that_int8_misses(
    deep: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves nine tenths of the multiply-adds in INT8, so of what that makes faster."""
    spec = replace(deep, name="deep")
    monkeypatch.setattr(models, "_SPECS", (*models.model_specs(), spec))
    vit = random_model(spec)
    with torch.no_grad():
        outlier_channels(vit)
    weights = tmp_path / "outliers.safetensors"
    save_file({name: value.contiguous() for name, value in vit.state_dict().items()}, weights)

    def found(budget: float) -> dict[str, Any]:
        how: dict[str, Any] = {"calibration": "synthetic:64", "calibration_tiles": 16, "force": True}
        out = tmp_path / "mixed.toml"
        return search("openvino-int8", {"cosine_mean": budget}, out, model="deep", weights=weights, **how)

    whole = found(0.9)["points"][0]["cosine_mean"]
    budget = 1 - 0.8 * (1 - whole)
    less = found(budget)
    points = {point["kept"]: point for point in less["points"]}
    assert points[0]["cosine_mean"] < budget <= points[len(less["kept"])]["cosine_mean"]
    assert points[len(less["kept"])]["int8_share"] >= 0.9

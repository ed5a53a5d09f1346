"""Models whose values overflow FP16, though FP32 has them right: won back, refused or failed, never passed unseen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from safetensors.torch import save_file
from torch import nn

from edgepath.checks.candidate import missed
from edgepath.checks.debugging import debug
from edgepath.checks.drift import cosines
from edgepath.checks.verification import verify
from edgepath.errors import UsageError
from edgepath.exporting import Exported, export
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.searching import search

Saved = Callable[[Callable[[nn.Module], None]], Path]
FACTOR = 3e5


@pytest.fixture
def saved(known_tiny: ModelSpec, tmp_path: Path) -> Saved:
    """Write `tiny`'s random weights after a change to them."""

    def save(change: Callable[[nn.Module], None]) -> Path:
        vit = random_model(known_tiny)
        with torch.no_grad():
            change(vit)
        save_file({name: values.contiguous() for name, values in vit.state_dict().items()}, tmp_path / "w.safetensors")
        return tmp_path / "w.safetensors"

    return save


def gated_product(vit: nn.Module) -> None:
    """The value half of a gated MLP, scaled up before and down after: full precision computes what it did."""
    mlp = vit.blocks[0].mlp
    mlp.fc1.weight[256 + 5] *= FACTOR
    mlp.fc1.bias[256 + 5] *= FACTOR
    mlp.fc2.weight[:, 5] /= FACTOR


def gate(vit: nn.Module) -> None:
    """A gate beyond FP16, whose value is 0: no result depends on it, but infinity times 0 is no number."""
    mlp = vit.blocks[0].mlp
    mlp.fc1.weight[5] *= 1e6
    mlp.fc1.weight[256 + 5] = 0
    mlp.fc1.bias[256 + 5] = 0


def exported(target: str, weights: Path, out: Path) -> Exported:
    return export(
        target, model="tiny", weights=weights, calibration="synthetic:64", calibration_tiles=32, out=out, device="cpu"
    )


@pytest.mark.parametrize("target", ["jetson-fp16", "jetson-int8", "rtx-int8", "coreml-fp16"])
def test_an_overflow_is_won_back(saved: Saved, tmp_path: Path, target: str) -> None:
    made = exported(target, saved(gated_product), tmp_path)
    report = made.report
    assert made.passed
    assert report["headroom"]["rescaled"] == ["vit.blocks.0.mlp.fc2"]
    assert report["headroom"]["nearest"][0]["headroom"] > 2
    (row,) = [gate for gate in report["gates"] if gate["kind"] == "headroom"]
    assert row["measured"] == report["headroom"]["nearest"][0]["headroom"]
    tiles, reference = made.bundle.golden()
    if made.bundle.artifact.suffix == ".onnx":  # by ONNX's own evaluator, which rounds each node to FP16
        found = ReferenceEvaluator(str(made.bundle.artifact)).run(["embedding"], {"tiles": tiles[:2]})[0]
        assert cosines(reference[:2], found).min() > made.bundle.recipe.accept.cosine_p01


def test_what_was_won_back_is_rebuilt_for_other_tiles(saved: Saved, tmp_path: Path) -> None:
    weights = saved(gated_product)
    made = exported("jetson-int8", weights, tmp_path)
    found = verify(made.bundle, tiles="synthetic:8:5", weights=weights)
    assert found["passed"]
    assert {gate["kind"] for gate in found["tiles"]["gates"]} == {"drift", "parts", "headroom"}
    blocks = debug(made.bundle, weights=weights)["blocks"]
    assert min(block["fp16_headroom"] for block in blocks) > 2


def test_a_gate_that_overflows_is_refused_and_named(saved: Saved, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"jetson-fp16: embeddings are not finite.*vit.blocks.0.mlp"):
        exported("jetson-fp16", saved(gate), tmp_path)
    assert not list(tmp_path.glob("tiny-*"))


def test_a_search_rejects_artifacts_that_overflow_though_their_programs_are_good(saved: Saved, tmp_path: Path) -> None:
    """Judged by programs, which are computed in FP32, it would take the first candidate."""
    how = {"model": "tiny", "calibration": "synthetic:64", "calibration_tiles": 32, "device": "cpu"}
    wanted = r"only full precision meets .* cosine_mean 0\.9\d+ of the program; of the artifact, cosine_mean not finite"
    with pytest.raises(UsageError, match=wanted):
        search("jetson-int8", {"cosine_mean": 0.99}, tmp_path / "mixed.toml", weights=saved(gate), **how)
    assert not (tmp_path / "mixed.toml").exists()
    points = json.loads((tmp_path / "mixed.toml.search.json").read_text())["points"]
    assert min(point["cosine_mean"] for point in points.values()) >= 0.99
    artifacts = [point["artifact"] for point in points.values() if point["artifact"]]
    assert len(artifacts) == len(points) - 1  # all but full precision, which is not what was asked for
    assert {artifact["cosine_mean"] for artifact in artifacts} == {None}


def test_a_search_goes_on_from_an_artifact_that_drifts_to_one_that_does_not(saved: Saved, tmp_path: Path) -> None:
    """A stream far from zero, which norms take away again: FP16 rounds it coarsely, and the program's FP32 does not."""

    def offset(vit: nn.Module) -> None:
        for tokens in (vit.cls_token, vit.reg_token, vit.pos_embed):
            tokens += 11

    budget = {"cosine_mean": 0.999915}
    how = {"model": "tiny", "calibration": "synthetic:64", "calibration_tiles": 32, "device": "cpu"}
    found = search("jetson-int8", budget, tmp_path / "mixed.toml", weights=saved(offset), **how)
    points = {point["kept"]: point for point in found["points"]}
    kept = len(found["kept"])
    assert 0 < kept < len(found["layers"])
    for count, point in points.items():
        assert point["cosine_mean"] > budget["cosine_mean"]  # of every program: by them alone, the first would do
        assert missed(point, found["required"]) == (["cosine_mean"] if count < kept else [])
    assert points[kept]["artifact"]["cosine_mean"] > budget["cosine_mean"] > points[0]["artifact"]["cosine_mean"]
    assert points[kept - 1]["artifact"]["cosine_mean"] < budget["cosine_mean"]  # one layer fewer is not enough
    done = export(str(tmp_path / "mixed.toml"), weights=saved(offset), out=tmp_path, **how)
    assert done.passed


@pytest.mark.parametrize("target", ["openvino-fp16", "coreml-int8"])
def test_headroom_is_a_gate_wherever_values_are_fp16(saved: Saved, tmp_path: Path, target: str) -> None:
    """A value at two thirds of FP16's largest overflows nowhere here; on other tissue it may."""

    def near(vit: nn.Module) -> None:
        gate(vit)
        vit.blocks[0].mlp.fc1.weight[5] = 0
        vit.blocks[0].mlp.fc1.bias[5] = 4.4e4

    made = exported(target, saved(near), tmp_path)
    failed = [gate for gate in made.report["gates"] if not gate["passed"]]
    assert [row["kind"] for row in failed] == ["headroom"]
    assert failed[0]["of"].startswith("vit.blocks.0.mlp")
    assert 1 < failed[0]["measured"] < 2
    assert not made.passed


def test_full_precision_has_no_such_gate(saved: Saved, tmp_path: Path) -> None:
    made = exported("onnx-fp32", saved(gated_product), tmp_path)
    assert made.passed
    assert made.report["headroom"] is None
    assert not (made.bundle.path / "rescaled.npz").exists()


def test_bundles_that_named_another_checker_are_judged_by_fp16_too(altered: Callable[..., object]) -> None:
    """Those made before had their FP16 graphs run by ONNX Runtime, which computes in FP32."""

    def older(folder: Path) -> None:
        manifest = json.loads((folder / "bundle.json").read_text())
        manifest["recipe"]["checked_with"] = "onnxruntime"
        del manifest["headroom"]
        (folder / "bundle.json").write_text(json.dumps(manifest))

    found = verify(altered("jetson-int8", older))
    assert found["runtime"]["kind"] == "onnx_fp16"
    assert found["passed"]
    assert np.isfinite(found["golden"]["drift"]["total"]["cosine_mean"])

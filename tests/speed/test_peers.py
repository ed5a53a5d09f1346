"""What the peers make runs, embeds nearly the same, and is in INT8."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgepath.backends.runners import onnxruntime, openvino
from edgepath.checks.drift import measure
from edgepath.errors import MissingRuntime
from edgepath.exporting import Exported
from edgepath.recipes.recipe import find_recipe
from edgepath.speed import peers
from edgepath.speed.contenders import build_full_precision, full_model

Exports = Callable[[str], Exported]


@pytest.mark.parametrize(
    ("name", "target", "runner"),
    [
        pytest.param(peers.NNCF, "openvino-int8", openvino.Runner, marks=pytest.mark.slow),
        (peers.STATIC, "onnx-int8", onnxruntime.Runner),
        (peers.DYNAMIC, "onnx-int8", onnxruntime.Runner),
    ],
)
def test_a_peer_embeds_nearly_the_same_in_int8(
    name: str, target: str, runner: Any, exports: Exports, tiles: np.ndarray, tmp_path: Path, capfd: Any
) -> None:
    recipe, bundle = find_recipe(target), exports(target).bundle
    whole = build_full_precision(full_model(bundle, None).folded(), recipe, tmp_path / "whole")
    capfd.readouterr()
    artifact = peers.build_peer(name, whole, tiles[:8], tmp_path / "peer")
    assert capfd.readouterr().out == ""
    assert name in peers.OF[recipe.backend]
    with runner(whole, threads=1) as full, runner(artifact, threads=1) as quantized:
        found = measure(full(tiles[8:]), quantized(tiles[8:]))
        assert 0.9 < found.cosine_mean < 0.9999999
        if name == peers.NNCF:
            assert quantized.linears().get("i8", 0) + quantized.linears().get("u8", 0) >= 8
    if name != peers.NNCF:
        kinds = {node.op_type for node in onnx.load(artifact).graph.node}
        assert kinds & {"QuantizeLinear", "DynamicQuantizeLinear"}


def test_without_nncf_its_extra_is_named(tmp_path: Path, tiles: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *of: None if name == "nncf" else found(name, *of))
    with pytest.raises(MissingRuntime, match=r"^nncf not installed; pip install 'edgepath\[nncf\]'$"):
        peers.build_peer(peers.NNCF, tmp_path / "model.xml", tiles[:1], tmp_path / "peer")


def test_full_precision_is_the_bundles_model(exports: Exports, tmp_path: Path) -> None:
    """It embeds the golden tiles as the bundle says the full-precision model does."""
    bundle = exports("onnx-int8").bundle
    golden, reference = bundle.golden()
    whole = build_full_precision(full_model(bundle, None).folded(), find_recipe("onnx-int8"), tmp_path)
    with onnxruntime.Runner(whole, threads=1) as runner:
        assert np.allclose(runner(golden), reference, atol=1e-4 * np.abs(reference).max())

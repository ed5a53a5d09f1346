"""A golden set holds what the full-precision model sees, and judges only bundles of that model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgepath
from edgepath.checks.golden import capture, open_golden
from edgepath.errors import UsageError
from edgepath.exporting import Exported

Exports = Callable[[str], Exported]


@pytest.fixture(scope="module")
def golden(exports: Exports, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("golden") / "tiny.npz"
    facts = capture("tiny", "synthetic:6:4", out, device="cpu")
    assert facts["runtime"].startswith("PyTorch")
    return out


def test_verify_holds_the_artifact_against_captured_embeddings(exports: Exports, golden: Path) -> None:
    bundle = exports("onnx-fp32").bundle
    held = open_golden(golden, bundle)
    assert np.array_equal(held.tiles, edgepath.open_tiles("synthetic:6:4").read())
    result = edgepath.verify(bundle, golden=golden)
    total = result["captured"]["drift"]["total"]
    assert total["tiles"] == 6
    assert total["cosine_mean"] > 0.999999
    assert result["passed"]
    moved = np.load(golden)
    bad = golden.with_name("moved.npz")
    np.savez(bad, **{**moved, "embeddings": moved["embeddings"][::-1]})
    failed = edgepath.verify(bundle, golden=bad)
    assert not failed["passed"]
    assert all(gate["passed"] for gate in failed["golden"]["gates"])


def test_a_set_of_another_model_or_embedding_is_refused(exports: Exports, golden: Path, tmp_path: Path) -> None:
    bundle = exports("onnx-fp32").bundle
    capture("tiny", "synthetic:2", tmp_path / "mean.npz", embedding="cls+mean", device="cpu")
    with pytest.raises(UsageError, match=r"embedding cls\+mean, tiny-onnx-fp32 has cls"):
        edgepath.verify(bundle, golden=tmp_path / "mean.npz")
    capture("demo", "synthetic:2", tmp_path / "demo.npz", device="cpu")
    with pytest.raises(UsageError, match="weights "):
        edgepath.verify(bundle, golden=tmp_path / "demo.npz")


def test_what_is_no_golden_set_is_one_line(exports: Exports, golden: Path, tmp_path: Path) -> None:
    bundle = exports("onnx-fp32").bundle
    (tmp_path / "cut.npz").write_bytes(golden.read_bytes()[:2000])
    held = np.load(golden)
    np.savez(tmp_path / "fewer.npz", **{**held, "tiles": held["tiles"][:3]})
    np.savez(tmp_path / "less.npz", tiles=held["tiles"])
    damaged = bytearray(golden.read_bytes())
    damaged[5000:6000] = bytes(1000)
    (tmp_path / "damaged.npz").write_bytes(damaged)
    np.save(tmp_path / "plain.npy", held["tiles"])
    (tmp_path / "plain.npy").rename(tmp_path / "plain.npz")
    for name in ("cut", "fewer", "less", "none", "damaged", "plain"):
        with pytest.raises(UsageError, match=rf"golden set .*{name}\.npz: "):
            open_golden(tmp_path / f"{name}.npz", bundle)


def test_outputs_in_the_way_and_too_many_tiles_are_refused(exports: Exports, golden: Path, tmp_path: Path) -> None:
    exports("onnx-fp32")
    with pytest.raises(UsageError, match="exists; give --force"):
        capture("tiny", "synthetic:2", golden, device="cpu")
    with pytest.raises(UsageError, match=r"give a file that ends in \.npz"):
        capture("tiny", "synthetic:2", tmp_path / "golden.zip", device="cpu")
    with pytest.raises(UsageError, match="1025 tiles; give --tiles with at most 1024"):
        capture("tiny", "synthetic:1025", tmp_path / "many.npz", device="cpu")


def test_captured_tiles_that_were_calibrated_on_are_counted(exports: Exports, tmp_path: Path) -> None:
    bundle = exports("onnx-int8").bundle  # of the 96 tiles of seed 0
    capture("tiny", "synthetic:20", tmp_path / "seen.npz", device="cpu")
    result = edgepath.verify(bundle, golden=tmp_path / "seen.npz")
    assert 0 < result["captured"]["seen_in_calibration"] < 20
    assert any("of the captured tiles were calibrated on" in note for note in result["notes"])

"""Bundles of one model agree as far as their drifts say, and others are not compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgepath
from edgepath.bundle.bundle import Bundle
from edgepath.checks.comparison import twins
from edgepath.checks.drift import measure
from edgepath.errors import UsageError
from edgepath.exporting import Exported
from edgepath.reports.drawings import draw_pairs
from edgepath.reports.plots import check_plot
from edgepath.reports.tables.checks import pair_table

Exports = Callable[[str], Exported]
Altered = Callable[[str, Callable[[Path], object]], Bundle]
TARGETS = ("onnx-int8", "openvino-int8", "jetson-int8", "coreml-int8")


def test_pairs_are_what_the_runners_say(exports: Exports) -> None:
    done = edgepath.compare(
        [exports("onnx-int8").bundle.path, exports("onnx-fp32").bundle.path], tiles="synthetic:12:5"
    )
    tiles = edgepath.open_tiles("synthetic:12:5").read()
    embeddings = []
    for target in ("onnx-int8", "onnx-fp32"):
        with exports(target).bundle.runner() as runner:
            embeddings.append(runner(tiles))
    (pair,) = done["pairs"]
    expected = measure(*embeddings)
    assert pair["of"] == ["tiny-onnx-int8", "tiny-onnx-fp32"]
    assert pair["cosine_mean"] == pytest.approx(expected.cosine_mean, abs=1e-5)
    assert pair["twins"] == 1.0
    assert done["source"]["count"] == 12


def test_one_program_on_four_runtimes_stays_one(exports: Exports) -> None:
    done = edgepath.compare([exports(target).bundle for target in (*TARGETS, "onnx-fp32")], threads=1)
    assert len(done["pairs"]) == 10
    assert done["source"]["kind"] == "golden"
    drift = {frozenset(pair["of"]): 1 - pair["cosine_mean"] for pair in done["pairs"]}
    assert max(drift.values()) < 0.02
    assert all(pair["twins"] == 1.0 for pair in done["pairs"])
    # Both compute in floating point here, so nothing saturates: nearer to each other than to full precision.
    jetson, apple = "tiny-jetson-int8", "tiny-coreml-int8"
    assert drift[frozenset((jetson, apple))] < drift[frozenset((jetson, "tiny-onnx-fp32"))]
    assert done["noise_floor"] > 0
    assert any("not run by Core ML" in note for note in done["notes"])
    assert "not Core ML" in done["ran_with"]["tiny-coreml-int8"]
    shown = pair_table(done)
    assert all(len(row) == len(shown.header) for row in shown.rows)


def test_twins_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    one = rng.standard_normal((30, 6)).astype(np.float32)
    other = one + rng.standard_normal((30, 6)).astype(np.float32)
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (one, other)]
    found = [
        np.argmax([query @ row for row in known]) == i
        for queries, known in (unit, unit[::-1])
        for i, query in enumerate(queries)
    ]
    assert 0 < np.mean(found) < 1
    assert twins(one, other) == pytest.approx(np.mean(found))
    assert twins(one, one) == 1.0


def test_picture_is_dark_where_bundles_lie_apart(tmp_path: Path) -> None:
    def result(drift: float) -> dict[str, object]:
        pairs = [{"of": ["a", "b"], "cosine_mean": 1 - drift}]
        source = {"count": 3, "name": "tiles"}
        return {"bundles": {"a": "", "b": ""}, "noise_floor": 1e-4, "pairs": pairs, "source": source}

    shades = []
    for drift in (1e-7, 1e-4, 1e-1):
        draw_pairs(result(drift), tmp_path / "pairs.png")
        with Image.open(tmp_path / "pairs.png") as image:
            shades.append(np.array(image.convert("L"))[60:160].min(axis=0).astype(int).sum())
    assert shades[0] > shades[1] > shades[2]


def test_what_cannot_be_compared_is_refused(exports: Exports, tmp_path: Path) -> None:
    bundle = exports("onnx-fp32").bundle
    with pytest.raises(UsageError, match="1 bundle was given; give two or more"):
        edgepath.compare([bundle])
    with pytest.raises(UsageError, match="given twice"):
        edgepath.compare([bundle, bundle])
    other = edgepath.export(
        "onnx-fp32", model="tiny", calibration="synthetic:64", embedding="cls+mean", out=tmp_path, device="cpu"
    ).bundle
    with pytest.raises(UsageError, match=r"contract\.embedding of tiny-onnx-fp32 is cls, of tiny-onnx-fp32 cls\+mean"):
        edgepath.compare([bundle, other])


def test_equal_tiles_are_each_others_twins() -> None:
    rng = np.random.default_rng(0)
    same = np.repeat(rng.standard_normal((1, 384)), 12, axis=0).astype(np.float32)
    noisy = (same + 1e-7 * rng.standard_normal(same.shape)).astype(np.float32)
    assert twins(same, noisy) == 1.0


def test_what_a_reader_must_know_is_said(exports: Exports) -> None:
    done = edgepath.compare([exports("onnx-int8").bundle, exports("onnx-fp32").bundle], tiles="synthetic:12")
    assert any("Weights: random" in caution for caution in done["cautions"])
    assert any("12 tiles only" in note for note in done["notes"])
    seen = [note for note in done["notes"] if "calibrated on for tiny-onnx-int8" in note]
    assert len(seen) == 1


def test_picture_spoils_no_bundle_and_replaces_nothing_unasked(exports: Exports, tmp_path: Path) -> None:
    bundles = [exports(target).bundle.path for target in ("onnx-int8", "onnx-fp32")]
    (tmp_path / "old.png").write_text("precious")
    (tmp_path / "folder.png").mkdir()
    cases = {
        bundles[0] / "x.png": "lies in the bundle",
        tmp_path / "old.png": "exists; give --force",
        tmp_path / "folder.png": "give a file that ends in",
        tmp_path / "none" / "x.png": "give a file that ends in",
        tmp_path / "x.jpg": "give a file that ends in",
        tmp_path / ("x" * 300 + ".png"): "plot .* cannot be written|exists",
    }
    for path, said in cases.items():
        with pytest.raises(UsageError, match=said):
            check_plot(path, bundles, force=False)
    check_plot(tmp_path / "old.png", bundles, force=True)
    assert (tmp_path / "old.png").read_text() == "precious"

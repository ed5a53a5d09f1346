"""Verification has to pass what is whole and fail what has drifted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

import edgepath
from edgepath.bundle.bundle import Bundle
from edgepath.checks.drift import measure
from edgepath.errors import BundleError, EdgepathError, MissingRuntime, TileError, UsageError
from edgepath.exporting import Exported
from edgepath.machine import packages
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import load_model, random_model

Exports = Callable[[str], Exported]
Altered = Callable[[str, Callable[[Path], object]], Bundle]


@pytest.mark.parametrize(
    "target", ["openvino-int8", "onnx-int8", "onnx-fp32", "jetson-int8", "jetson-fp16", "coreml-int8", "coreml-fp16"]
)
def test_golden_tiles_pass(exports: Exports, target: str) -> None:
    result = edgepath.verify(exports(target).bundle.path, threads=2)
    assert result["passed"]
    assert result["tiles"] is None
    assert result["golden"]["drift"]["total"]["tiles"] == 24


@pytest.mark.parametrize("target", ["openvino-int8", "jetson-fp16"])
def test_other_tiles_are_held_against_the_full_precision_model(exports: Exports, target: str, tiny: ModelSpec) -> None:
    bundle = exports(target).bundle
    result = edgepath.verify(bundle, tiles="synthetic:12:5", threads=2, device="cpu")
    drift = result["tiles"]["drift"]
    assert result["passed"]
    assert result["tiles"]["source"]["count"] == 12
    tiles = edgepath.open_tiles("synthetic:12:5").read()
    vit, spec, _ = load_model(tiny, "random")
    import torch

    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    with torch.inference_mode():
        pixels = torch.from_numpy(tiles).permute(0, 3, 1, 2) / 255
        reference = vit.forward_features((pixels - mean) / std)[:, 0].numpy()
    if target == "jetson-fp16":  # an evaluator stands in for the Jetson
        assert result["ran_with"].startswith("ONNX evaluator")
        from edgepath.backends.runners.onnxruntime import Runner

        with Runner(bundle.artifact) as runner:
            artifact = runner(tiles)
    else:
        with bundle.runner() as runner:
            artifact = runner(tiles)
    expected = measure(reference, artifact)
    assert drift["total"]["cosine_mean"] == pytest.approx(expected.cosine_mean, abs=1e-4)
    assert drift["total"]["relative_l2"] == pytest.approx(expected.relative_l2, abs=5e-3)


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs there")
@pytest.mark.parametrize("target", ["coreml-int8", "coreml-fp16"])
def test_core_ml_is_not_claimed_to_have_run(exports: Exports, target: str) -> None:
    done = exports(target)
    result = edgepath.verify(done.bundle, threads=1)
    for said in (result, done.report):
        assert said["ran_with"].startswith("MIL evaluator (torch ")
        assert said["ran_with"].endswith("FP16 semantics), not Core ML")
        assert sum("not run by Core ML" in caution for caution in said["notes"]) == 1
    assert "not run by Core ML" in (done.bundle.path / "report.md").read_text()
    assert {gate["of"] for gate in result["golden"]["gates"]} == {"total"}
    with pytest.raises(MissingRuntime, match="Core ML runs only on macOS"):
        done.bundle.runner()


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs there")
def test_what_the_evaluator_needs_is_named(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_importable", lambda name: name != "coremltools")
    with pytest.raises(MissingRuntime, match=r"^coremltools not installed; pip install 'edgepath\[coreml\]'$"):
        edgepath.verify(exports("coreml-int8").bundle)


def reversed_weights(folder: Path) -> None:
    """Turn the largest stored weight of a Core ML package around, bytes and size kept."""
    from edgepath.backends.mil_program.program import load_program

    blobs = [constant for constant in load_program(folder / "model.mlpackage").constants.values() if constant.file]
    weight = max((blob for blob in blobs if blob.type.dtype == "int8"), key=lambda blob: blob.read().nbytes)  # type: ignore[union-attr]
    values = np.asarray(weight.read())
    assert weight.file is not None
    data = weight.file.read_bytes()
    weight.file.write_bytes(data.replace(values.tobytes(), values[::-1].tobytes(), 1))


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs there")
def test_core_ml_package_with_other_weights_fails_its_gate(altered: Altered) -> None:
    result = edgepath.verify(altered("coreml-int8", reversed_weights), threads=1)
    assert not result["passed"]
    assert result["golden"]["drift"]["lowering"]["cosine_mean"] < 0.99
    assert result["golden"]["drift"]["quantization"]["cosine_mean"] > 0.99


def perturbed(folder: Path) -> None:
    """Turn one block's weights into others, as a wrong conversion would."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(folder / "model.onnx")
    weight = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    values = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[::-1]), weight.name))
    onnx.save(model, folder / "model.onnx")


def test_artifact_that_drifted_fails_its_gate(altered: Altered) -> None:
    result = edgepath.verify(altered("onnx-int8", perturbed), tiles="synthetic:4:5", device="cpu")
    assert not result["passed"]
    for part in (result["golden"], result["tiles"]):
        assert not any(gate["passed"] for gate in part["gates"])
        assert part["drift"]["total"]["cosine_mean"] < 0.99
        assert part["drift"]["lowering"]["cosine_mean"] < 0.99, "the lowering is to blame"
        assert part["drift"]["quantization"]["cosine_mean"] > 0.99, "the program is not"


def test_other_weights_are_refused(exports: Exports, tiny: ModelSpec, tmp_path: Path) -> None:
    save_file(random_model(tiny, seed=1).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match=r"other\.safetensors has sha256 .* give the same weights"):
        edgepath.verify(exports("onnx-int8").bundle, tiles="synthetic:4", weights=tmp_path / "other.safetensors")


def test_weights_of_a_file_are_asked_for_again(known_tiny: ModelSpec, tmp_path: Path) -> None:
    save_file(random_model(known_tiny, seed=1).state_dict(), tmp_path / "mine.safetensors")
    done = edgepath.export(
        "onnx-fp32",
        model="tiny",
        weights=tmp_path / "mine.safetensors",
        calibration="synthetic:32",
        calibration_tiles=16,
        out=tmp_path,
        device="cpu",
    )
    assert done.report["weights"]["source"] == "mine.safetensors"
    assert not any("andom" in caution for caution in done.report["cautions"])
    with pytest.raises(UsageError, match=r"was exported from mine\.safetensors"):
        edgepath.verify(done.bundle, tiles="synthetic:4", device="cpu")
    result = edgepath.verify(done.bundle, tiles="synthetic:4", weights=tmp_path / "mine.safetensors", device="cpu")
    assert result["passed"]


def test_tiles_are_looked_for_before_anything_runs(exports: Exports) -> None:
    with pytest.raises(TileError, match="no such file or folder"):
        edgepath.verify(exports("onnx-int8").bundle, tiles="nowhere")


def test_program_that_is_not_the_bundles_is_refused(altered: Altered) -> None:
    def louder(folder: Path) -> None:
        with np.load(folder / "ranges.npz") as file:
            values = {name: file[name] * (1 if name == "tiles" else 100) for name in file.files}
        np.savez(folder / "ranges.npz", **values)

    with pytest.raises(BundleError, match="its program cannot be rebuilt"):
        edgepath.verify(altered("onnx-int8", louder), tiles="synthetic:2", device="cpu")


def test_weights_without_tiles_are_refused(exports: Exports) -> None:
    with pytest.raises(UsageError, match="give --tiles too"):
        edgepath.verify(exports("onnx-int8").bundle, weights="random")


def test_tiles_that_were_calibrated_on_are_counted_and_said(exports: Exports) -> None:
    result = edgepath.verify(exports("onnx-int8").bundle, tiles="synthetic:96", device="cpu")
    assert result["tiles"]["seen_in_calibration"] == 32
    assert any(note.startswith("32 of the 96 given tiles were calibrated on") for note in result["notes"])
    fresh = edgepath.verify(exports("onnx-int8").bundle, tiles="synthetic:4:5", device="cpu")
    assert fresh["tiles"]["seen_in_calibration"] == 0
    assert not any("calibrated on" in note for note in fresh["notes"])
    unquantized = edgepath.verify(exports("onnx-fp32").bundle, tiles="synthetic:4", device="cpu")
    assert unquantized["tiles"]["seen_in_calibration"] == 0


def rewritten(**changes: object) -> Callable[[Path], None]:
    """Change parts of a bundle's manifest, `a__b` standing for a.b."""

    def change(folder: Path) -> None:
        manifest = json.loads((folder / "bundle.json").read_text())
        for dotted, value in changes.items():
            *parents, leaf = dotted.split("__")
            table = manifest
            for parent in parents:
                table = table[parent]
            table[leaf] = value
        (folder / "bundle.json").write_text(json.dumps(manifest))

    return change


@pytest.mark.parametrize("target", ["onnx-int8", "openvino-int8", "coreml-int8"])
def test_artifact_the_runtime_cannot_load_is_one_line(altered: Altered, target: str) -> None:
    bundle = altered(target, rewritten(artifact__file="ranges.npz"))
    with pytest.raises(BundleError) as caught:
        edgepath.verify(bundle)
    assert "ranges.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_contract_that_is_not_the_artifacts_is_one_line(altered: Altered, tmp_path: Path) -> None:
    bundle = altered("onnx-int8", rewritten(contract__size=112))
    with pytest.raises(BundleError, match="its artifact takes tiles of 224 px, its contract says 112"):
        bundle.runner()


def test_embedding_of_another_length_is_one_line(altered: Altered, tmp_path: Path) -> None:
    bundle = altered("onnx-int8", rewritten(contract__dim=95))
    with pytest.raises(BundleError, match="its artifact gives 96 numbers a tile, its contract says 95"):
        edgepath.embed(bundle, "synthetic:2", out=tmp_path / "f.npz")
    assert not (tmp_path / "f.npz").exists()


def unquantized(folder: Path) -> None:
    rewritten(recipe__precision__linear="fp32")(folder)


def other_smoothing(folder: Path) -> None:
    change_ranges(folder, "strength/", lambda values: values * 0.5)


def other_limit(folder: Path) -> None:
    change_ranges(folder, "limit/", lambda values: values * 1.1)


def negative_range(folder: Path) -> None:
    change_ranges(folder, "absmax/", lambda values: -values)


def endless_limit(folder: Path) -> None:
    change_ranges(folder, "limit/", lambda values: values * np.inf)


def missing_range(folder: Path) -> None:
    change_ranges(folder, "absmax/", lambda values: None)


def change_ranges(folder: Path, kind: str, change: Callable[[np.ndarray], np.ndarray | None]) -> None:
    """Change the first array of a kind, or leave it out."""
    with np.load(folder / "ranges.npz") as file:
        values = dict(file)
    name = next(key for key in values if key.startswith(kind))
    values[name] = change(values[name])
    np.savez_compressed(folder / "ranges.npz", **{key: value for key, value in values.items() if value is not None})


@pytest.mark.parametrize(
    "change", [unquantized, other_smoothing, other_limit, negative_range, endless_limit, missing_range]
)
def test_another_program_than_the_bundles_is_not_measured(altered: Altered, change: Callable[[Path], None]) -> None:
    with pytest.raises(BundleError, match=r"cannot be rebuilt|no magnitudes") as caught:
        edgepath.verify(altered("onnx-int8", change), tiles="synthetic:2:5", device="cpu")
    assert "\n" not in str(caught.value)


def strings_for_embeddings(folder: Path) -> None:
    np.savez(folder / "golden" / "program.npz", embeddings=np.array(["a"] * 24))


def no_golden_tiles(folder: Path) -> None:
    np.savez_compressed(folder / "golden" / "tiles.npz", tiles=np.zeros((0, 224, 224, 3), np.uint8))


def unreadable_calibration(folder: Path) -> None:
    (folder / "calibration.csv").write_text("other,columns\n1,2\n")


@pytest.mark.parametrize(
    "change",
    [
        strings_for_embeddings,
        no_golden_tiles,
        unreadable_calibration,
        rewritten(model__mean=["a", "b", "c"]),
        rewritten(model__extra=1),
        rewritten(model__timm_args="none"),
    ],
)
def test_parts_that_are_not_what_they_were_are_one_line(altered: Altered, change: Callable[[Path], None]) -> None:
    with pytest.raises(EdgepathError) as caught:
        edgepath.verify(altered("onnx-int8", change), tiles="synthetic:2:5", device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("name", "two\nlines"), ("name", "../up"), ("contract__dim", 0), ("program", []), ("drift__noise_floor", {})],
)
def test_manifest_with_what_no_bundle_says_is_refused(altered: Altered, key: str, value: object) -> None:
    with pytest.raises(BundleError) as caught:
        altered("onnx-int8", rewritten(**{key: value}))
    assert "\n" not in str(caught.value)


def test_left_out_tiles_are_named(exports: Exports, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    from edgepath.reports.console import print_verification
    from edgepath.tiles.synthetic import synthesize

    Image.fromarray(synthesize(1)[0]).save(tmp_path / "good.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "good.png").read_bytes()[:100])
    print_verification(edgepath.verify(exports("onnx-fp32").bundle, tiles=tmp_path, skip_bad=True, device="cpu"))
    assert "skipped torn.png: " in capsys.readouterr().err

"""From weights to bundle: all eight targets, and everything that can cut an export short."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgepath
from edgepath.checks.drift import measure
from edgepath.errors import BundleError, EdgepathError, TileError, UsageError
from edgepath.exporting import Exported
from edgepath.models import catalogue
from edgepath.models.catalogue import ModelSpec
from edgepath.recipes.recipe import recipes
from edgepath.tiles.images import read_image
from edgepath.tiles.opening import open_tiles
from edgepath.tiles.splitting import apart, split
from edgepath.tiles.synthetic import synthesize

Exports = Callable[[str], Exported]


def need_extra(target: str) -> None:
    for family, package in {"torchtrt": "torch_tensorrt", "coreai": "coreai_torch"}.items():
        if target.startswith(family) and importlib.util.find_spec(package) is None:
            pytest.skip(f"needs the extra {family}")


@pytest.mark.slow
@pytest.mark.parametrize("target", sorted(recipes()))
def test_every_target_becomes_a_bundle_that_passes(exports: Exports, target: str) -> None:
    need_extra(target)
    done = exports(target)
    recipe = recipes()[target]
    bundle = edgepath.open_bundle(done.bundle.path)
    assert done.passed
    assert bundle.name == bundle.path.name == f"tiny-{target}"
    assert (bundle.dim, bundle.outputs) == (96, ("embedding",))
    assert bundle.artifact.exists()
    assert (done.report["ran_with"] is None) == (recipe.checked_with == "none")
    assert (bundle.path / "ranges.npz").exists() == (bundle.path / "calibration.csv").exists() == recipe.quantized
    assert {"kit/runner.py", "kit/check.py", "kit/README.md", "kit/requirements.txt"} <= bundle.manifest["files"].keys()


ANY_SIZE = (
    "onnx-int8",
    "openvino-int8",
    "coreml-int8",
    "jetson-int8",
    "torchtrt-int8",
    "executorch-int8",
    "coreai-int8",
)


@pytest.mark.slow
@pytest.mark.parametrize("target", ANY_SIZE)
def test_a_model_of_any_image_size_has_the_artifact_of_one_size(
    exports: Exports, tiny: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """timm's `dynamic_img_size` resamples positions within the graph; of tiles of one size there is nothing to do."""
    need_extra(target)
    fixed = exports(target)
    dynamic = replace(tiny, timm_args={**tiny.timm_args, "dynamic_img_size": True})
    others = [spec for spec in catalogue.model_specs() if spec.name != tiny.name]
    monkeypatch.setattr(catalogue, "_SPECS", (*others, dynamic))
    done = edgepath.export(
        target, model=tiny.name, calibration="synthetic:96", calibration_tiles=32, out=tmp_path, device="cpu"
    )
    assert done.passed
    assert done.report["model"]["timm_args"]["dynamic_img_size"] is True
    one, other = (made.bundle.manifest["files"] for made in (fixed, done))
    # Pages tell how long it took, Core ML draws names in its manifest and writes maps in any order, and OpenVINO counts
    # names through a process.
    ml_program = "model.mlpackage/Data/com.apple.CoreML/model.mlmodel"
    of_a_run = {"report.md", "report.html", "bom.json", "model.mlpackage/Manifest.json", "model.xml", ml_program}
    assert {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)} <= of_a_run
    if target == "openvino-int8":
        graphs = [made.bundle.artifact.read_text(encoding="utf-8") for made in (fixed, done)]
        first, second = (re.sub(r"_\d+(?=[\"/,])", "", graph) for graph in graphs)
        assert first == second
    if target == "coreml-int8":
        from coremltools.proto import Model_pb2

        first, second = (
            Model_pb2.Model.FromString((made.bundle.path / ml_program).read_bytes()) for made in (fixed, done)
        )
        assert first == second


def test_manifest_is_the_report_and_the_hashes(exports: Exports) -> None:
    done = exports("openvino-int8")
    manifest = dict(edgepath.open_bundle(done.bundle.path).manifest)
    del manifest["files"]
    assert manifest == json.loads(json.dumps(done.report))


def test_report_says_what_it_was_made_of(exports: Exports) -> None:
    done = exports("openvino-int8")
    report, page = done.report, (done.bundle.path / "report.md").read_text()
    assert page.startswith("# tiny-openvino-int8: passed, 1 of 3 gates inconclusive\n")  # 24 tiles, no 1st percentile
    assert report["verdict"] == "inconclusive"
    assert "> Weights: random, seed 0." in page
    assert "> Calibrated on synthetic tiles" in page
    assert report["weights"]["random"] is True
    assert report["calibration"]["count"] == 32
    assert (report["held_out"]["count"], len(report["held_out"]["keys"])) == (24, 24)
    assert report["versions"]["torch"].startswith("2.14")
    assert report["cost"]["peak_memory_bytes"] > 100e6
    stages = report["cost"]["seconds"].keys()
    assert {"load weights", "reference", "lower", "run artifact"} <= stages
    assert ("calibrate" in stages) != ("known ranges" in stages)  # another target was calibrated before


def test_figures_are_those_of_the_stored_embeddings(exports: Exports) -> None:
    done = exports("onnx-int8")
    drift = done.report["drift"]
    tiles, reference = done.bundle.golden()
    program = done.bundle.golden_embeddings("program")
    with done.bundle.runner(threads=2) as runner:
        artifact = np.concatenate([runner(tiles[i : i + 8]) for i in range(0, len(tiles), 8)])
    keys = done.report["held_out"]["keys"]
    assert drift["quantization"] == measure(reference, program, keys).to_json()
    # A runtime may sum in another order the next time, and rounding to 8 bits amplifies that.
    for name, one in (("lowering", program), ("total", reference)):
        assert measure(one, artifact).cosine_mean == pytest.approx(drift[name]["cosine_mean"], abs=1e-4)
    assert drift["quantization"]["cosine_mean"] < 1 - 1e-6, "nothing was quantized"


def test_lowering_itself_costs_no_more_than_rounding(exports: Exports) -> None:
    """Run as written, without a runtime's own fusions, the INT8 graph lies as near the program as rounding allows."""
    import onnxruntime

    bundle = exports("onnx-int8").bundle
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(bundle.artifact, options, providers=["CPUExecutionProvider"])
    tiles, _ = bundle.golden()
    floor = bundle.manifest["drift"]["noise_floor"]["cosine_mean"]
    artifact = session.run(["embedding"], {"tiles": tiles})[0]
    # The floor is measured with one nudge of 1e-6; another order of sums is another nudge of about that size.
    assert 1 - measure(bundle.golden_embeddings("program"), artifact).cosine_mean <= 3 * (1 - floor)


def test_calibration_and_golden_tiles_do_not_overlap(exports: Exports) -> None:
    done = exports("openvino-int8")
    with open(done.bundle.path / "calibration.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    source = open_tiles("synthetic:96")
    pixels = {key: source.load(key) for key in source.keys}
    assert len(rows) == 32
    assert not {row["tile"] for row in rows} & set(done.report["held_out"]["keys"])
    from edgepath.tiles.images import tile_sha256

    assert all(row["sha256_pixels"] == tile_sha256(pixels[row["tile"]]) for row in rows)
    golden, _ = done.bundle.golden()
    np.testing.assert_array_equal(golden, np.stack([pixels[key] for key in done.report["held_out"]["keys"]]))


def test_nothing_in_a_bundle_names_this_machine(exports: Exports, checkout: Path) -> None:
    for target in ("openvino-int8", "jetson-int8", "coreml-int8"):
        bundle = exports(target).bundle
        for name in bundle.manifest["files"]:
            data = (bundle.path / name).read_bytes()
            for path in (checkout, bundle.path.parent, Path(sys.prefix)):
                assert str(path).encode() not in data, f"{target}: {name} holds {path}"


def test_same_input_gives_the_same_artifact(exports: Exports, tmp_path: Path, known_tiny: object) -> None:
    again = edgepath.export(
        "jetson-int8", model="tiny", calibration="synthetic:96", calibration_tiles=32, out=tmp_path, device="cpu"
    )
    first = exports("jetson-int8")
    for name in ("model.onnx", "plan.json", "ranges.npz", "calibration.csv", "golden/tiles.npz", "golden/program.npz"):
        assert again.bundle.manifest["files"][name] == first.bundle.manifest["files"][name], name


def test_patch_tokens_and_mean_are_kept_when_asked_for(tmp_path: Path, known_tiny: object) -> None:
    done = edgepath.export(
        "onnx-fp32",
        model="tiny",
        calibration="synthetic:32",
        calibration_tiles=16,
        embedding="cls+mean",
        tokens=True,
        out=tmp_path,
    )
    tiles, reference = done.bundle.golden()
    with done.bundle.runner() as runner:
        outputs = runner.outputs(tiles[:2])
    assert {name: value.shape for name, value in outputs.items()} == {"embedding": (2, 192), "tokens": (2, 256, 96)}
    np.testing.assert_allclose(outputs["embedding"], reference[:2], atol=2e-5)
    # The second half of the embedding is the mean of those tokens.
    np.testing.assert_allclose(outputs["tokens"].mean(axis=1), outputs["embedding"][:, 96:], atol=2e-5)


@pytest.mark.slow
def test_gelu_model_of_timm_goes_all_the_way(tmp_path: Path) -> None:
    done = edgepath.export(
        "openvino-int8",
        model="timm:vit_tiny_patch16_224",
        weights="random",
        calibration="synthetic:32",
        calibration_tiles=16,
        out=tmp_path,
    )
    assert done.bundle.name == "timm-vit_tiny_patch16_224-openvino-int8"
    assert done.report["drift"]["total"]["cosine_mean"] > 0.99
    with done.bundle.runner() as runner:
        assert runner.linears() == {"i8": 72}  # type: ignore[attr-defined]


def test_missed_gate_keeps_the_bundle_and_marks_it(tmp_path: Path, checkout: Path, known_tiny: object) -> None:
    text = (checkout / "export" / "onnx" / "onnx-int8.toml").read_text()
    (tmp_path / "strict.toml").write_text(text.replace("cosine_mean = 0.995", "cosine_mean = 1.0"))
    done = edgepath.export(
        str(tmp_path / "strict.toml"), model="tiny", calibration="synthetic:32", calibration_tiles=16, out=tmp_path
    )
    assert not done.passed
    kept = edgepath.open_bundle(tmp_path / "tiny-onnx-int8")
    assert kept.manifest["passed"] is False
    assert [gate["passed"] for gate in kept.manifest["gates"]] == [False, True, True]
    assert (kept.path / "report.md").read_text().startswith("# tiny-onnx-int8: FAILED")


# --- what stops an export


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 tiles, one of them cut off."""
    (tmp_path / "tiles").mkdir()
    for index, tile in enumerate(synthesize(40, seed=3)):
        Image.fromarray(tile).save(tmp_path / "tiles" / f"{index:02d}.png")
    broken = tmp_path / "tiles" / "07.png"
    broken.write_bytes(broken.read_bytes()[:5000])
    return tmp_path / "tiles"


def test_bad_tile_stops_the_export_and_is_named(folder: Path, tmp_path: Path, known_tiny: object) -> None:
    with pytest.raises(TileError, match=r"07\.png"):
        edgepath.export("onnx-int8", model="tiny", calibration=folder, calibration_tiles=30, out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_bad_tile_is_skipped_and_listed_when_asked_for(folder: Path, tmp_path: Path, known_tiny: object) -> None:
    done = edgepath.export(
        "onnx-int8", model="tiny", calibration=folder, calibration_tiles=30, skip_bad=True, out=tmp_path / "out"
    )
    ((name, reason),) = done.report["skipped"]
    assert name == "07.png"
    assert "cannot be read" in reason
    assert "| 07.png |" in (done.bundle.path / "report.md").read_text()


@pytest.mark.parametrize(("count", "wanted"), [(20, 128), (100, 15), (1, 1)])
def test_too_few_tiles_are_refused(count: int, wanted: int) -> None:
    with pytest.raises(UsageError, match=f"has {count} tiles, {wanted} were asked for; at least 16"):
        split(open_tiles(f"synthetic:{count}"), wanted)


@pytest.mark.parametrize(("count", "wanted"), [(22, 128), (64, 16), (300, 64), (1000, 512)])
def test_split_is_spread_and_disjoint(count: int, wanted: int) -> None:
    source = open_tiles(f"synthetic:{count}")
    chosen, held_out = split(source, wanted)
    assert not set(chosen.keys) & set(held_out.keys)
    assert len(held_out) == min(32, count // 4)
    assert len(chosen) == min(wanted, count - len(held_out))
    for part in (chosen, held_out):
        places = [source.keys.index(key) for key in part.keys]
        assert places == sorted(places)
        assert max(np.diff([-1, *places, count])) <= 2 * count / len(part) + 2, "a stretch of the source is left out"


def test_copies_of_calibration_tiles_are_not_held_out(tmp_path: Path) -> None:
    for index, tile in enumerate(synthesize(30, seed=3)):
        for name in (f"{index:02d}a.png", f"{index:02d}b.png") if index < 25 else (f"{index:02d}.png",):
            Image.fromarray(tile).save(tmp_path / name)
    chosen, held_out = apart(*split(open_tiles(tmp_path), 30))
    seen = {chosen.digests[key] for key in chosen.keys}
    assert len(held_out) > 0
    assert not seen & {held_out.digests[key] for key in held_out.keys}


@pytest.mark.parametrize("qad", [0, 2])
def test_every_tile_is_read_once(qad: int, known_tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tiles"
    folder.mkdir()
    for number, tile in enumerate(synthesize(24)):
        Image.fromarray(tile).save(folder / f"{number}.png")
    read: list[str] = []

    def counted(path: Path, *arguments: Any) -> np.ndarray:
        read.append(path.name)
        return read_image(path, *arguments)

    monkeypatch.setattr("edgepath.tiles.opening.read_image", counted)
    edgepath.export("onnx-int8", model=known_tiny.name, calibration=folder, qad=qad, out=tmp_path, device="cpu")
    assert sorted(read) == sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"calibration": ""}, 'tiles "": give a folder'),
        ({"weights": ""}, 'weights "": give a file'),
        ({"target": "openvino-int4"}, 'target "openvino-int4" is not known; did you mean "openvino-int8"'),
        ({"model": "h0-mimi"}, 'model "h0-mimi" is not known; did you mean "h0-mini"'),
        ({"calibration": "nowhere"}, "no such file or folder"),
        ({"weights": "nowhere.safetensors"}, "no such file or folder"),
        ({"device": "gpu"}, "--device gpu: give auto, cpu, cuda"),
        ({"resize": "stretch"}, 'resize "stretch"'),
        ({"embedding": "mean"}, 'embedding "mean" is not known; choose cls or cls+mean'),
    ],
)
def test_what_does_not_exist_is_named(tmp_path: Path, arguments: dict[str, str], said: str) -> None:
    given = {"target": "onnx-int8", "model": "demo"} | arguments
    with pytest.raises(EdgepathError) as caught:
        edgepath.export(given.pop("target"), out=tmp_path, **given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_refused_before_any_work(exports: Exports) -> None:
    bundle = exports("onnx-fp32").bundle
    said: list[tuple[str, int, int]] = []
    with pytest.raises(UsageError, match="exists; give --force"):
        edgepath.export("onnx-fp32", model="tiny", out=bundle.path.parent, progress=lambda *now: said.append(now))
    assert said == []
    assert edgepath.open_bundle(bundle.path).digest == bundle.digest


EXPORT = """
import sys
from dataclasses import replace
import edgepath
from edgepath.models import catalogue as models

def progress(stage, done, total):
    print(stage, flush=True)

h0_mini = models.find_model("h0-mini")
arguments = {**h0_mini.timm_args, "embed_dim": 96, "num_heads": 3, "depth": 2}
models._SPECS = (replace(h0_mini, name="tiny", hub="", timm_args=arguments),)
options = {"calibration": "synthetic:32", "calibration_tiles": 16, "out": sys.argv[1], "progress": progress}
try:
    edgepath.export("onnx-int8", model="tiny", **options)
except edgepath.EdgepathError as error:
    print("refused:", error)
"""


def until(process: subprocess.Popen[str], stage: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(stage):
            return
    raise AssertionError(f"the export ended before {stage}: {process.communicate()}")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_export_that_is_cut_off_leaves_no_half_bundle(tmp_path: Path, how: signal.Signals, known_tiny: object) -> None:
    command = [sys.executable, "-c", EXPORT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until(process, "lower")
        process.send_signal(how)
        process.wait()
    assert process.returncode in (-how, 128 + how)
    assert not (tmp_path / "tiny-onnx-int8").exists()
    left = [path.name for path in tmp_path.iterdir()]
    if how is signal.SIGTERM:
        assert left == []
    with pytest.raises(BundleError, match="no such folder"):
        edgepath.open_bundle(tmp_path / "tiny-onnx-int8")
    done = edgepath.export("onnx-int8", model="tiny", calibration="synthetic:32", calibration_tiles=16, out=tmp_path)
    assert edgepath.open_bundle(done.bundle.path).digest == done.bundle.digest
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-onnx-int8"]


@pytest.mark.slow
def test_full_disk_in_the_middle_is_one_line(small_disk: Path) -> None:
    command = [sys.executable, "-c", EXPORT, str(small_disk)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "refused: disk full while writing" in said
    assert list(small_disk.iterdir()) == []


def test_program_that_training_changed_is_kept_and_verified(known_tiny: object, tmp_path: Path) -> None:
    done = edgepath.export(
        "onnx-int8", model="tiny", calibration="synthetic:96", calibration_tiles=32, qad=30, out=tmp_path, device="cpu"
    )
    trained = done.report["qad"]
    assert (trained["steps"], trained["trained_on"], trained["validated_on"]) == (30, 28, 4)
    assert 0 < trained["best_step"] <= 30
    assert trained["drift_after"] < trained["drift_before"]
    assert (done.bundle.path / "program.safetensors").exists()
    assert "then trained" in (done.bundle.path / "report.md").read_text()
    # The program is rebuilt from its own numbers; from the ranges it would be another one.
    result = edgepath.verify(done.bundle, tiles="synthetic:8:5", device="cpu")
    assert result["passed"]
    lowering = result["tiles"]["drift"]["lowering"]["cosine_mean"]
    assert lowering == pytest.approx(done.report["drift"]["lowering"]["cosine_mean"], abs=2e-3)


@pytest.mark.parametrize(("target", "steps"), [("onnx-fp32", 5), ("onnx-int8", -1)])
def test_training_of_what_is_not_quantized_is_refused(
    known_tiny: object, tmp_path: Path, target: str, steps: int
) -> None:
    with pytest.raises(UsageError, match=rf"qad of {steps} steps; give 0 or more, and for an INT8 target only"):
        edgepath.export(target, model="tiny", qad=steps, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx-int8", "jetson-int8"])
def test_onnx_graphs_name_their_batch_model_and_licence(exports: Callable[[str], Exported], target: str) -> None:
    import onnx

    bundle = exports(target).bundle
    graph = onnx.load(bundle.artifact)
    for value in (graph.graph.input[0], graph.graph.output[0]):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    said = {entry.key: entry.value for entry in graph.metadata_props}
    assert said["model"] == "tiny"
    assert said["licence"] == "Apache-2.0"
    assert said["weights_sha256"] == bundle.weights.sha256
    assert said["preprocessing"].startswith("none: takes raw RGB tiles of 224 x 224")


@pytest.mark.slow
def test_ml_programs_name_their_licence_and_hold_nothing_that_no_manifest_names(
    exports: Callable[[str], Exported],
) -> None:
    import coremltools

    bundle = exports("coreml-int8").bundle
    spec = coremltools.models.MLModel(str(bundle.artifact), skip_model_load=True).get_spec()
    assert spec.description.metadata.license == "Apache-2.0"
    assert spec.description.metadata.versionString == edgepath.__version__
    assert spec.description.metadata.userDefined["weights_sha256"] == bundle.weights.sha256
    assert sorted(path.name for path in bundle.artifact.iterdir()) == ["Data", "Manifest.json"]

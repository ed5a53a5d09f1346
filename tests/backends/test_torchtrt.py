"""Torch-TensorRT's front end: one engine that keeps INT8, from a program that PyTorch alone runs, too."""

from __future__ import annotations

import importlib.util
import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import edgepath.torchtrt
from edgepath.backends import find
from edgepath.backends.runners.exported import Runner, load_program
from edgepath.backends.torchtrt_process import convert_apart
from edgepath.bundle.bundle import Bundle
from edgepath.checks.debugging import debug
from edgepath.checks.parts import differences
from edgepath.errors import BundleError, MissingRuntime, UsageError
from edgepath.exporting import Exported
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program.calibrate import calibrate
from edgepath.program.decomposed import capture_typed
from edgepath.program.fold import EdgeModel, fold
from edgepath.program.forms import Program
from edgepath.program.linear import quantize
from edgepath.program.rebuilding import rebuild, same_weights
from edgepath.program.smooth import smooth

needs_torchtrt = pytest.mark.skipif(
    importlib.util.find_spec("torch_tensorrt") is None or importlib.util.find_spec("tensorrt_rtx_bindings") is None,
    reason="needs the extra torchtrt",
)
Exports = Callable[[str], Exported]
SHAPES = {"min": [1, 224, 224, 3], "opt": [1, 224, 224, 3], "max": [16, 224, 224, 3]}


@pytest.fixture(scope="module")
def net(tiny: ModelSpec, tiles: np.ndarray) -> EdgeModel:
    model = fold(random_model(tiny), tiny, embedding="cls+mean", tokens=True)
    return quantize(model, smooth(model, calibrate(model, [tiles[:4]])))


@pytest.fixture(scope="module")
def saved(net: EdgeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    torch.export.save(capture_typed(net, torch.float16), path)
    return path


# --- the program


def test_program_reloads_to_the_bit(net: EdgeModel, saved: Path, tiles: np.ndarray) -> None:
    given = torch.from_numpy(tiles[:2])
    with torch.inference_mode():
        wanted = capture_typed(net, torch.float16).module()(given)
        found = load_program(saved).module()(given)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


def test_program_in_fp32_is_the_model_in_other_operations(net: EdgeModel, tiles: np.ndarray) -> None:
    given = torch.from_numpy(tiles[:2])
    with torch.inference_mode():
        for one, other in zip(capture_typed(net, torch.float32).module()(given), net(given), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_program_names_no_file_of_this_machine(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        whole = b"".join(archive.read(name) for name in archive.namelist())
    for folder in (Path(__file__).parents[2], Path(torch.__file__).parent, saved.parent):
        assert str(folder).encode() not in whole


def test_runner_rounds_as_pytorch_does(saved: Path, tiles: np.ndarray) -> None:
    with Runner(saved, threads=1) as run:
        outputs = run.outputs(tiles[:2])
    with torch.inference_mode():
        eager = load_program(saved).module()(torch.from_numpy(tiles[:2]))
    assert list(outputs) == ["embedding", "tokens"]
    # Sums in another order; values on the edge of two integers fall either way. Measured 2e-5.
    for found, wanted in zip(outputs.values(), eager, strict=True):
        a, b = found.ravel().astype(np.float64), wanted.numpy().ravel().astype(np.float64)
        assert 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) < 1e-3
    with Runner(saved) as run, pytest.raises(ValueError, match="tiles are float32"):
        run(tiles.astype(np.float32))
    with pytest.raises(ValueError, match="threads is -1"):
        Runner(saved, threads=-1)


def test_runner_overflows_where_fp16_does(tiny: ModelSpec, tiles: np.ndarray, tmp_path: Path) -> None:
    net = fold(random_model(tiny), tiny)
    with torch.no_grad():
        net.vit.blocks[0].ls1.gamma.fill_(6e4)  # type: ignore[union-attr,operator]
    torch.export.save(capture_typed(net, torch.float16), tmp_path / "model.pt2")
    with Runner(tmp_path / "model.pt2") as run:
        assert not np.isfinite(run(tiles[:1])).all()
    assert np.isfinite(net(torch.from_numpy(tiles[:1])).detach().numpy()).all()


# --- a file that loading would run


class Runs:
    """What a pickle would make when it is loaded."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path, ("ran",)


def rewritten(saved: Path, path: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A program whose entries are changed; None leaves one out."""
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            if (data := change(name, source.read(name))) is not None:
                target.writestr(name, data)
    return path


def in_model(old: str, new: str) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        assert old.encode() in data
        return data.replace(old.encode(), new.encode(), 1)

    return change


def pickled_sample(name: str, data: bytes) -> bytes:
    if not name.endswith("sample_inputs/model.pt"):
        return data
    buffer = io.BytesIO()
    torch.save(((Runs(),), {}), buffer)
    return buffer.getvalue()


def pickled_weight(name: str, data: bytes) -> bytes:
    if name.endswith("weight_0"):
        return pickle.dumps(Runs())
    if not name.endswith("model_weights_config.json"):
        return data
    config = json.loads(data)
    next(iter(config["config"].values()))["use_pickle"] = True
    return json.dumps(config).encode()


HOSTILE = {
    "sample": (pickled_sample, "is no whole exported program"),
    "weight": (pickled_weight, "holds a pickle"),
    "function": (in_model("torch.ops.aten.silu.default", "torch.os.system"), "holds the function 'torch.os.system'"),
    "expression": (
        in_model("Symbol('", "__import__('os').system('"),
        r"holds the expression .__import__",
    ),
    "truncated": (lambda name, data: data[: len(data) // 2] if name.endswith(".json") else data, "is no whole"),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_program_that_would_run_something_is_refused(saved: Path, tmp_path: Path, how: str) -> None:
    change, said = HOSTILE[how]
    path = rewritten(saved, tmp_path / "model.pt2", change)
    with pytest.raises(RuntimeError, match=said):
        load_program(path)
    with pytest.raises(BundleError, match=said) as caught:
        edgepath.torchtrt.load_program(path)
    assert "\n" not in str(caught.value)


def test_an_entry_too_many_and_half_a_file_are_refused(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "more.pt2").write_bytes(saved.read_bytes())
    with zipfile.ZipFile(tmp_path / "more.pt2", "a") as archive:
        archive.writestr("model/data/constants/custom_obj_0", b"x")
    with pytest.raises(RuntimeError, match="holds 'model/data/constants/custom_obj_0'"):
        load_program(tmp_path / "more.pt2")
    (tmp_path / "half.pt2").write_bytes(saved.read_bytes()[:100_000])
    with pytest.raises(RuntimeError, match=r"half\.pt2 is no whole exported program"):
        load_program(tmp_path / "half.pt2")
    assert load_program(rewritten(saved, tmp_path / "same.pt2", lambda name, data: data)) is not None


def test_one_bit_of_a_weight_is_seen(saved: Path, tmp_path: Path) -> None:
    data = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        weights = [entry for entry in archive.infolist() if "/weights/weight_" in entry.filename]
        largest = max(weights, key=lambda entry: entry.file_size)
    data[largest.header_offset + largest.file_size // 2] ^= 1
    (tmp_path / "model.pt2").write_bytes(data)
    with pytest.raises(BundleError, match=r"^model\.pt2 is no whole exported program \(.*weight_\d+ is damaged\)"):
        edgepath.torchtrt.load_program(tmp_path / "model.pt2")


# --- the engine


@needs_torchtrt
def test_one_engine_holds_every_integer(exports: Exports, tiles: np.ndarray) -> None:
    bundle = exports("torchtrt-int8").bundle
    assert {path.name for path in bundle.path.iterdir()} >= {"model.pt2", "model.engine", "plan.json"}
    assert {path.name for path in (bundle.path / "kit").iterdir()} >= {"runner.py", "exported.py", "torchtrt.py"}
    looked = debug(bundle, tiles="synthetic:2")
    assert looked["parts"]["differences"] == looked["unproved"] == []
    network = looked["network"]
    assert network is not None
    assert (network["int8"], network["float"], network["differ"], network["finite"]) == (9, 0, 0, True)
    assert network["cosine_min"] is not None
    assert network["cosine_min"] > 0.999
    assert sum(row["proof"] is not None for row in looked["layers"]) == 9


def program_of(bundle: Bundle) -> EdgeModel:
    vit, spec, _ = same_weights(bundle, None)
    return Program(rebuild(bundle, bundle.recipe, vit, spec), bundle.recipe).lowered


def flipped(name: str, data: bytes) -> bytes:
    """Change one of the largest INT8 weights in its last bit."""
    if not name.endswith("weight_19"):
        return data
    return data[:17] + bytes([data[17] ^ 1]) + data[18:]


def of_first(kind: str, old: float, new: float) -> Callable[[str, bytes], bytes]:
    """Change a number among the inputs of the first operation of a kind."""

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        model = json.loads(data)
        node = next(one for one in model["graph_module"]["graph"]["nodes"] if f".{kind}." in one["target"])
        (held,) = [one["arg"] for one in node["inputs"] if "as_float" in one["arg"]]
        assert old == 0 or held["as_float"] == old
        held["as_float"] = new or held["as_float"] * 1.01
        return json.dumps(model).encode()

    return change


FAULTS: dict[str, tuple[Callable[[str, bytes], bytes], str]] = {
    "integer": (flipped, "1 of "),
    "epsilon": (of_first("layer_norm", 1e-6, 1e-5), "vit.blocks.0.norm1: epsilon 1e-05, the program's is 1e-06"),
    "scale": (of_first("quantize_per_tensor", 0, 0), "vit.blocks.0.attn.qkv: its input is quantized with"),
}


@needs_torchtrt
@pytest.mark.parametrize("how", FAULTS)
def test_what_is_not_the_programs_is_named(
    altered: Callable[[str, Callable[[Path], object]], Bundle], tmp_path: Path, how: str
) -> None:
    change, said = FAULTS[how]

    def alter(folder: Path) -> None:
        rewritten(folder / "model.pt2", tmp_path / "other.pt2", change).replace(folder / "model.pt2")

    bundle = altered("torchtrt-int8", alter)
    found = list(map(str, differences(program_of(bundle), bundle.artifact)))
    assert len(found) == 1
    assert said in found[0]


@needs_torchtrt
def test_several_outputs_keep_their_names(saved: Path) -> None:
    network = convert_apart(saved, SHAPES, ["embedding", "tokens"], ["SM86"]).network
    assert dict(network.outputs) == {"embedding": ("FLOAT", (-1, 192)), "tokens": ("FLOAT", (-1, 256, 96))}


@needs_torchtrt
def test_a_rounding_that_tensorrt_does_not_have_is_not_converted(net: EdgeModel, tmp_path: Path) -> None:
    program = capture_typed(net, torch.float16)
    rounding = next(node for node in program.graph.nodes if "quantize_per_tensor" in str(node.target))
    rounding.args = (*rounding.args[:2], 3, *rounding.args[3:])  # a zero-point
    torch.export.save(program, tmp_path / "model.pt2")
    with pytest.raises(UsageError, match=r"^Torch-TensorRT did not convert model\.pt2: .*") as caught:
        convert_apart(tmp_path / "model.pt2", SHAPES, ["embedding", "tokens"], ["SM86"])
    assert "\n" not in str(caught.value)


@needs_torchtrt
def test_a_capability_that_it_does_not_build_for_is_one_line(saved: Path) -> None:
    with pytest.raises(UsageError, match="builds for no SM87 here"):
        convert_apart(saved, SHAPES, ["embedding", "tokens"], ["SM87"])


@needs_torchtrt
def test_register_names_the_gpu_it_needs() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    script = (
        "import edgepath.torchtrt\nfrom edgepath.errors import MissingRuntime\n"
        "try: edgepath.torchtrt.register()\nexcept MissingRuntime as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].endswith("; it needs a GPU")


def test_register_names_the_extra_where_nothing_is_installed() -> None:
    script = (
        "import sys; sys.modules['torch_tensorrt'] = None\nimport edgepath.torchtrt\n"
        "from edgepath.errors import MissingRuntime\n"
        "try: edgepath.torchtrt.register()\nexcept MissingRuntime as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("pip install 'edgepath[torchtrt]'")


def test_doctor_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def versions(rtx: str | None, front: str | None) -> None:
        monkeypatch.setattr("edgepath.backends.torchtrt.version_of", lambda name: front)
        monkeypatch.setattr("edgepath.backends.backend.version_of", lambda name: rtx)

    versions("1.6.1.120", "2.14.0")
    assert find("torchtrt").availability().usable
    versions("1.7.1.116", "2.14.0")
    found = find("torchtrt").availability()
    assert not found.usable
    assert "TensorRT-RTX 1.7.1.116" in found.detail
    assert "edgepath[torchtrt]" in found.install
    assert "1.6" in found.install
    versions(None, None)
    assert find("torchtrt").availability().detail == "not installed; TensorRT-RTX not installed"


def test_without_a_gpu_another_release_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepath.backends import torchtrt_without_gpu

    monkeypatch.setattr(torchtrt_without_gpu, "version_of", lambda name: "2.15.0")
    with pytest.raises(MissingRuntime, match=r"torch-tensorrt-rtx 2\.15\.0; without a GPU, 2\.14\.\* is needed"):
        torchtrt_without_gpu.stand_in(["SM86"], lambda *_: None)

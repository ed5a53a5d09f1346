"""What runs on the device: in an environment without edgepath and PyTorch, in one command, with a verdict."""

from __future__ import annotations

import ast
import ctypes
import hashlib
import importlib.util
import json
import os
import py_compile
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image
from test_bundle import NOISE_FLOOR

import edgepath
from edgepath.backends import tensorrt as backend
from edgepath.backends.runners import exported, tensorrt, tensorrt_rtx, torchtrt
from edgepath.bundle.bundle import open_bundle
from edgepath.bundle.kit import write_kit
from edgepath.bundle.writer import BundleWriter
from edgepath.checks import drift
from edgepath.machine.leftovers import is_leftover
from edgepath.machine.shipped import data_folder
from edgepath.models.catalogue import ModelSpec
from edgepath.recipes.recipe import find_recipe, recipes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FAMILIES = ("coreml", "executorch", "jetson", "onnx", "openvino", "rtx", "torchtrt")
Export = Callable[[str], Path]


@pytest.fixture(scope="session")
def export(known_tiny: ModelSpec, tiles: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Exports of the tiny model calibrated on 18 synthetic tiles, one a target; what uses one leaves it as it was."""
    folder, made = tmp_path_factory.mktemp("kit"), {}
    (folder / "tiles").mkdir()
    for i, tile in enumerate(tiles):
        Image.fromarray(tile).save(folder / "tiles" / f"{i:02}.png")

    def exported(target: str) -> Path:
        if target not in made:
            made[target] = edgepath.export(
                target,
                model=known_tiny.name,
                weights="random",
                calibration=folder / "tiles",
                calibration_tiles=16,
                out=folder / Path(target).stem,
            ).bundle.path
        return made[target]

    return exported


@pytest.fixture(scope="session")
def device_python(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with what the ONNX and OpenVINO kits ask for, and nothing else."""
    folder = tmp_path_factory.mktemp("device")
    python = folder / "bin" / "python"
    kits = [data_folder("export") / family / "kit" / "requirements.txt" for family in ("onnx", "openvino")]
    install = [python, "-m", "pip", "install", "--quiet", "-c", checkout / "constraints.txt"]
    for command in ([sys.executable, "-m", "venv", folder], [*install, "-r", kits[0], "-r", kits[1]]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}:\n{done.stderr}"
    for name in ("edgepath", "torch", "timm"):
        assert subprocess.run([python, "-c", f"import {name}"], cwd=folder, capture_output=True).returncode == 1
    return python


@pytest.fixture
def check() -> Iterator[ModuleType]:
    """kit/check.py as a module, without leaving a `__pycache__` in the folder that kits are copied from."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    yield load(data_folder("export") / "kit" / "check.py")
    sys.dont_write_bytecode = before


@pytest.fixture
def copy(export: Export, tmp_path: Path) -> Path:
    """A bundle to tamper with."""
    return shutil.copytree(export("onnx-int8"), tmp_path / "copy")


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"kit_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(python: str | Path, script: Path, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [python, script, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def refused(bundle: Path, cwd: Path, *arguments: str | Path, script: str = "check.py", python: str | Path = "") -> str:
    """Run a kit's script that has to end in one line and exit status 2; return the line."""
    done = run(python or sys.executable, bundle / "kit" / script, *arguments, cwd=cwd)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done
    assert done.stderr.startswith(f"{script}: ")
    return done.stderr.strip()


def state(folder: Path) -> dict[str, str]:
    """Every path below `folder`, and the hash of every file."""
    paths = sorted(folder.rglob("*"))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in paths}


# --- the self-test where edgepath is not installed


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx-int8", "openvino-int8"])
def test_kit_passes_without_edgepath(export: Export, device_python: Path, tmp_path: Path, target: str) -> None:
    bundle = export(target)
    before = state(bundle)
    done = run(device_python, bundle / "kit/check.py", "--set", "threads=1", "--runs", "20", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "wrote device-report.json\n"), done
    assert done.stdout.splitlines()[-1] == f"tiny-{target}: passed"
    assert state(bundle) == before
    assert [path.name for path in tmp_path.iterdir()] == ["device-report.json"]

    report = json.loads((tmp_path / "device-report.json").read_text())
    opened = open_bundle(bundle)
    assert report["schema"] == 1
    assert report["bundle"] == {"name": opened.name, "target": target, "sha256": opened.digest}
    assert report["passed"] is True
    assert report["ran_with"].startswith({"onnx-int8": "ONNX Runtime 1.", "openvino-int8": "OpenVINO 20"}[target])
    assert report["options"]["threads"] == 1
    assert report["versions"].keys() >= {"python", "numpy", "openvino", "onnxruntime"}
    assert report["device"].keys() >= {"system", "machine", "cores", "memory"}
    assert report["reference"] == opened.manifest["reference"]
    assert any("random" in caution for caution in report["cautions"])

    latency = report["latency"]
    assert (latency["batch"], latency["warm_up"], latency["n"], len(latency["all_ms"])) == (1, 10, 20, 20)
    for q in (50, 90, 95, 99):
        assert latency[f"p{q}_ms"] == np.percentile(latency["all_ms"], q)

    tiles, reference = opened.golden()
    with opened.runner(threads=1) as runner:
        artifact = runner(tiles)
    program = np.load(bundle / "golden" / "program.npz")["embeddings"]
    pairs = {
        "quantization": (reference, program),
        "lowering": (program, artifact),
        "total": (reference, artifact),
    }
    assert report["drift"].keys() == {*pairs, "noise_floor"}
    assert report["drift"]["noise_floor"] == opened.manifest["drift"]["noise_floor"]
    for name, pair in pairs.items():
        expected = drift.measure(*pair, opened.manifest["held_out"]["keys"]).to_json()
        # One runtime, version, thread and batch in both environments: the embeddings are the same to the bit.
        assert report["drift"][name] == {key: expected[key] for key in report["drift"][name]}
    assert report["gates"] == [
        {"gate": key, "of": "total", "measured": report["drift"]["total"][key], "required": required, "passed": True}
        for key, required in opened.manifest["recipe"]["accept"].items()
        if not isinstance(required, dict)
    ]


@pytest.mark.slow
def test_gate_that_cannot_be_reached_fails(export: Export, device_python: Path, tmp_path: Path) -> None:
    recipe = (data_folder("export") / "onnx" / "onnx-int8.toml").read_text()
    strict = recipe.replace("cosine_mean = 0.995", "cosine_mean = 1.0")
    assert strict != recipe
    (tmp_path / "strict.toml").write_text(strict)
    bundle = export(str(tmp_path / "strict.toml"))
    done = run(device_python, bundle / "kit/check.py", "--runs", "1", "--json", cwd=tmp_path)
    assert done.returncode == 1, done
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "device-report.json").read_text())
    assert report["passed"] is False
    assert [gate["passed"] for gate in report["gates"]] == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx-int8", "openvino-int8"])
def test_readme_embeds_tiles_in_five_lines(export: Export, device_python: Path, target: str) -> None:
    bundle = export(target)
    (snippet,) = [block for block in blocks(bundle / "kit/README.md") if block.startswith("import sys")]
    before = state(bundle)
    given = "import numpy; tiles = numpy.load('golden/tiles.npz')['tiles']"
    script = [given, snippet, "print(embeddings.dtype, *embeddings.shape)"]
    done = subprocess.run([device_python, "-c", "\n".join(script)], cwd=bundle, capture_output=True, text=True)
    assert done.stdout == "float32 6 96\n", done
    assert state(bundle) == before


@pytest.mark.parametrize(
    "name", [".DS_Store", "kit/._check.py", "golden/Thumbs.db", "@eaDir/x", "__MACOSX/._bundle.json"]
)
def test_what_systems_leave_is_no_damage(check: ModuleType, tmp_path: Path, name: str) -> None:
    for kept in ("model.onnx", name):
        (tmp_path / kept).parent.mkdir(exist_ok=True)
        (tmp_path / kept).write_bytes(b"x")
    files = {"model.onnx": {"sha256": hashlib.sha256(b"x").hexdigest(), "size_bytes": 1}}
    check._check_files(tmp_path, files)
    assert is_leftover(name.split("/")[-1]) or is_leftover(name.split("/")[0])
    (tmp_path / "more").write_bytes(b"x")
    with pytest.raises(check.CannotRun, match=r"more is not in bundle\.json"):
        check._check_files(tmp_path, files)


# --- what it refuses


def flip(bundle: Path) -> None:
    data = bytearray((bundle / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(data)


def with_schema(bundle: Path, schema: object) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps({**manifest, "schema": schema}))


def to_link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def compiled(bundle: Path) -> None:
    (bundle / "kit/__pycache__").mkdir()
    (bundle / "kit/__pycache__/runner.cpython-310.pyc").write_bytes(b"")


TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "altered": (flip, "model.onnx was altered"),
    "altered code": (lambda b: (b / "kit/runner.py").write_text("raise SystemExit(0)"), "kit/runner.py was altered"),
    "missing": (lambda b: (b / "golden/tiles.npz").unlink(), "golden/tiles.npz is missing"),
    "extra": (lambda b: (b / "kit/numpy.py").write_text("raise SystemExit(0)"), "kit/numpy.py is not in bundle.json"),
    "compiled": (compiled, "Python wrote it: remove that folder"),
    "linked": (lambda b: to_link(b / "model.onnx"), "model.onnx is a symbolic link"),
    "linked manifest": (lambda b: to_link(b / "bundle.json"), "holds no bundle.json"),
    "no manifest": (lambda b: (b / "bundle.json").unlink(), "holds no bundle.json"),
    "newer": (lambda b: with_schema(b, 2), "schema = 2; this kit reads schema 1"),
    "schema true": (lambda b: with_schema(b, True), "schema = True"),
    "not JSON": (lambda b: (b / "bundle.json").write_bytes(b"\xff"), "not valid JSON"),
    "a list": (lambda b: (b / "bundle.json").write_text("[]"), "schema = None"),
    "nothing else": (lambda b: (b / "bundle.json").write_text('{"schema": 1}'), "does not say what every bundle says"),
}


@pytest.mark.parametrize("script", ["check.py", "build.py"])
def test_what_is_planted_beside_a_script_is_not_run(export: Export, tmp_path: Path, script: str) -> None:
    copy = shutil.copytree(export("jetson-int8"), tmp_path / "copy")
    for name in ("json", "argparse", "os", "typing", "importlib", "tempfile", "numpy", "device"):
        (copy / "kit" / f"{name}_.py").write_text("")
        (copy / "kit" / f"{name}_.py").rename(copy / "kit" / f"{name}.py")
        if name != "device":
            (copy / "kit" / f"{name}.py").write_text("print('planted')\nraise SystemExit(0)\n")
    for where in (tmp_path, copy / "kit"):
        done = run(sys.executable, copy / "kit" / script, cwd=where)
        assert (done.returncode, done.stdout) == (2, ""), done
        assert "kit/argparse.py is not in bundle.json" in done.stderr


def test_bytecode_planted_beside_the_self_test_is_not_run(export: Export, tmp_path: Path) -> None:
    copy = shutil.copytree(export("jetson-int8"), tmp_path / "copy")
    check, planted = copy / "kit/check.py", tmp_path / "planted.py"
    planted.write_text("print('planted')\nraise SystemExit(0)\n")
    compiled = importlib.util.cache_from_source(str(check))
    py_compile.compile(str(planted), compiled, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    done = run(sys.executable, copy / "kit/build.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert "Python wrote it: remove that folder" in done.stderr


@pytest.mark.parametrize("how", TAMPERED)
def test_tampered_bundle_is_refused_before_anything_is_loaded(copy: Path, tmp_path: Path, how: str) -> None:
    tamper, message = TAMPERED[how]
    tamper(copy)
    assert message in refused(copy, tmp_path)
    assert not (tmp_path / "device-report.json").exists()


MISTAKES = {
    ("--runs", "0"): "0 is not a number of runs",
    ("--set", "device=GPU"): "the runner has no option device; known: threads",
    ("--set", "threads=many"): "that is no value for threads (default 0)",
    ("--out", "copy/report.json"): "lies in the bundle",
    ("--out", "nowhere/report.json"): "nowhere is no folder",
    ("--out", "there.json"): "there.json exists; give --force",
    ("--fast",): "unrecognized arguments: --fast",
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_mistake_ends_in_one_line(copy: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "there.json").write_text("{}")
    assert MISTAKES[arguments] in refused(copy, tmp_path, *arguments)
    assert (tmp_path / "there.json").read_text() == "{}"


def test_report_never_lands_in_the_bundle(copy: Path, tmp_path: Path) -> None:
    for where in (copy, copy / "kit"):
        done = run(sys.executable, copy / "kit/check.py", "--runs", "1", "--force", cwd=where)
        assert done.returncode == 0, done
        assert open_bundle(copy).path == copy
        (tmp_path / "device-report.json").unlink()


def with_runner(bundle: Path, body: str) -> None:
    """Give a bundle another runner, hashed as it should be."""
    source = f"""
import numpy as np
class Runner:
    runtime = "none"
    def __init__(self, artifact): pass
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def __call__(self, tiles):
        {body}
"""
    (bundle / "kit/runner.py").write_text(source)
    manifest = json.loads((bundle / "bundle.json").read_text())
    entry = {"sha256": hashlib.sha256(source.encode()).hexdigest(), "size_bytes": len(source.encode())}
    manifest["files"]["kit/runner.py"] = entry
    (bundle / "bundle.json").write_text(json.dumps(manifest))


def test_runtime_that_fails_ends_in_one_line(copy: Path, tmp_path: Path) -> None:
    with_runner(copy, "raise RuntimeError('out of memory\\nat line 3')")
    assert "cannot run the artifact: RuntimeError: out of memory" in refused(copy, tmp_path)
    with_runner(copy, "return np.full((len(tiles), 96), np.nan, np.float32)")
    assert "is not finite or zero (6 such tiles)" in refused(copy, tmp_path, "--runs", "1")
    with_runner(copy, "return np.ones((len(tiles), 5), np.float32)")
    assert "returned float32 (6, 5), not float32 (6, 96)" in refused(copy, tmp_path)


def rehashed(bundle: Path, **changes: object) -> None:
    """Have a manifest say of every file what it is by now, and `changes` of its own."""
    manifest = json.loads((bundle / "bundle.json").read_text()) | changes
    for name in manifest["files"]:
        data = (bundle / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    (bundle / "bundle.json").write_text(json.dumps(manifest))


def huge(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("tiles.npy", "w") as member:
        header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 32,)}
        np.lib.format.write_array_header_1_0(member, header)
        for _ in range(64):  # 64 MiB: what it declares is refused before it is read
            member.write(bytes(1 << 20))


def encrypted(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    for at in (raw.index(b"PK\x03\x04") + 6, raw.index(b"PK\x01\x02") + 8):
        raw[at] |= 1
    path.write_bytes(raw)


def others(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no array")


def not_a_number(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiles.npy", b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 118)


@pytest.mark.parametrize("damage", [huge, encrypted, others, not_a_number, lambda path: path.write_bytes(b"PK")])
def test_golden_tiles_that_are_none_end_in_one_line(copy: Path, tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    damage(copy / "golden/tiles.npz")
    rehashed(copy)
    assert "golden/tiles.npz is not what bundle.json says of it" in refused(copy, tmp_path)


def test_report_that_cannot_be_written_is_not_lost(
    copy: Path, check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(check, "__file__", str(copy / "kit/check.py"))
    monkeypatch.setattr(check.os, "replace", full)
    assert check.main(["--runs", "1", "--out", str(tmp_path / "report.json")]) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["passed"] in (True, False)
    assert "No space left on device" in said.err
    assert not list(tmp_path.glob("*report.json*"))


def test_folder_that_nothing_can_be_written_in_is_told_before_the_work(
    copy: Path, check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_only(dir: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(check, "__file__", str(copy / "kit/check.py"))
    monkeypatch.setattr(check.tempfile, "TemporaryFile", read_only)
    monkeypatch.setattr(check, "open_bundle", None)  # would be called first of all work
    assert check.main(["--out", str(tmp_path / "report.json")]) == 2
    assert "nothing can be written in" in capsys.readouterr().err


def test_what_a_bundle_says_reaches_no_terminal_as_it_is(copy: Path, tmp_path: Path) -> None:
    rehashed(copy, cautions=["mind\x1b[2J\nthe gap"], reference="\x1b]0;title\x07")
    with_runner(copy, "return np.ones((len(tiles), 96), np.float32)")
    done = run(sys.executable, copy / "kit/check.py", "--runs", "1", cwd=tmp_path)
    assert r"mind\x1b[2J\nthe gap" in done.stdout
    assert not set("\x1b\x07") & set(done.stdout + done.stderr)
    rehashed(copy, held_out={"keys": "tile"})
    assert "does not say what every bundle says" in refused(copy, tmp_path, "--force")
    (copy / "bundle.json").write_text((copy / "bundle.json").read_text().replace('"schema": 1', '"schema": 1e999'))
    assert "beyond the range of numbers" in refused(copy, tmp_path, "--force")


def test_artifact_that_changes_while_it_is_loaded_is_not_run(copy: Path, tmp_path: Path) -> None:
    with_runner(copy, "raise SystemExit('it was run')")
    runner = copy / "kit/runner.py"
    runner.write_text(runner.read_text().replace("artifact): pass", "artifact): artifact.write_bytes(b'other')"))
    rehashed(copy)
    assert "model.onnx changed since it was hashed" in refused(copy, tmp_path)


def test_stdout_is_the_result_whatever_a_runtime_prints(copy: Path, tmp_path: Path) -> None:
    with_runner(copy, "print('[TRT] hello'); return np.ones((len(tiles), 96), np.float32)")
    done = run(sys.executable, copy / "kit/check.py", "--runs", "1", "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["passed"]) == (1, False)
    assert "[TRT] hello" in done.stderr


def test_kit_names_what_is_missing(export: Export, device_python: Path, tmp_path: Path) -> None:
    for script in ("check.py", "build.py"):
        bundle = export("jetson-int8")
        said = refused(bundle, tmp_path, script=script, python=device_python)
        assert said == f"{script}: No module named 'tensorrt'; kit/README.md says what to install on the device"
        assert open_bundle(bundle).path == bundle


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs on macOS")
def test_core_ml_kit_names_macos(tmp_path: Path) -> None:
    recipe = find_recipe("coreml-int8")
    with BundleWriter(tmp_path / "apple") as writer:
        (writer.path / "model.mlpackage").mkdir()
        (writer.path / "model.mlpackage" / "Manifest.json").write_text("{}")
        (writer.path / "golden").mkdir()
        np.savez(writer.path / "golden/tiles.npz", tiles=np.zeros((1, 8, 8, 3), np.uint8))
        for name in ("reference", "program"):
            np.savez(writer.path / f"golden/{name}.npz", embeddings=np.ones((1, 3), np.float32))
        write_kit(writer.path / "kit", recipe, "apple", 8, 3)
        contract = {"size": 8, "dim": 3, "tokens": False, "embedding": "cls"}
        parts = {"recipe": recipe.to_json(), "contract": contract, "artifact": {"file": "model.mlpackage"}}
        parts |= {"weights": {"source": "here", "sha256": "0" * 64, "random": True}, "cautions": []}
        parts |= {"drift": {"noise_floor": NOISE_FLOOR}, "held_out": {"keys": ["a"]}}
        parts |= {"program": {}}
        writer.commit({"name": "apple", "model": {"name": "none"}, **parts})
    said = refused(tmp_path / "apple", tmp_path)
    assert said.startswith("check.py: Core ML runs only on macOS")


# --- figures and gates, apart from any bundle


def test_drift_is_the_one_edgepath_measures(check: ModuleType) -> None:
    rng = np.random.default_rng(0)
    keys = [f"tile {i}" for i in range(50)]
    for noise in (0.0, 1e-7, 0.1, 10.0):
        reference = rng.standard_normal((50, 12)).astype(np.float32)
        candidate = (reference + noise * rng.standard_normal((50, 12))).astype(np.float32)
        expected = drift.measure(reference, candidate, keys).to_json()
        found = check.drift(reference, candidate, keys)
        assert found.keys() == expected.keys() - {"neighbour_overlap", "neighbours"}
        assert found == {key: expected[key] for key in found}


def test_gate_for_something_else_is_not_measured(check: ModuleType) -> None:
    total = {"cosine_mean": 0.5}
    judged = check.judge({"cosine_mean": 0.5, "robustness": 0.9}, total)
    assert [(gate["measured"], gate["passed"]) for gate in judged] == [(0.5, True), (None, None)]
    with pytest.raises(check.CannotRun, match="no gate that can be measured here"):
        check.judge({"robustness": 0.9}, total)


def test_every_recipe_has_a_gate_that_the_kit_measures(check: ModuleType) -> None:
    for recipe in recipes().values():
        assert set(recipe.to_json()["accept"]) & set(check.GATES)


def test_jetson_tells_power_mode_and_clocks(check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = load(data_folder("export") / "kit" / "device.py")
    files = {
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "proc/cpuinfo": "processor\t: 0\n",
        "proc/meminfo": "MemTotal:        7802072 kB\nMemFree: 1 kB\n",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3\nmore\n",
        "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
        "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    }
    for core in range(2):
        cpufreq = f"sys/devices/system/cpu/cpu{core}/cpufreq"
        files |= {f"{cpufreq}/scaling_governor": "schedutil\n", f"{cpufreq}/scaling_min_freq": "115200\n"}
        files |= {f"{cpufreq}/scaling_max_freq": "1728000\n"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(device, "_output", lambda *command: "NV Power Mode: 25W\n1" if command[0] == "nvpmodel" else "")
    found = device._linux(tmp_path)
    assert found["board"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert found["release"] == "# R36 (release), REVISION: 4.3"
    assert found["memory"] == "7802072 kB"
    assert found["power_mode"] == "NV Power Mode: 25W 1"
    assert (found["cpu_governor"], found["cpu_khz"]) == ("schedutil", "115200 to 1728000")
    assert found["gpu_hz"] == "306000000 to 1020000000"


# --- the TensorRT engine


@pytest.mark.slow
@pytest.mark.parametrize(("target", "gpu"), [("jetson-int8", "SM86"), ("jetson-fp16", "SM86"), ("thor-fp8", "SM120")])
def test_tensorrt_reads_and_builds_our_graph(export: Export, target: str, gpu: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="needs TensorRT-RTX: pip install 'edgepath[rtx]'")

    def for_another_gpu(config: Any) -> None:  # there is none here, and it is not a Jetson's
        config.num_compute_capabilities = 1
        assert config.set_compute_capability(trt.ComputeCapability.__members__[gpu], 0)

    artifact = open_bundle(export(target)).artifact
    plans = tensorrt.read_plans(artifact)
    plan = tensorrt.pick_plan(plans["plans"], "11.4.1")
    engine = tensorrt.serialize(trt, artifact, plan, plans["shapes"], for_another_gpu)
    assert isinstance(engine, bytes)
    assert len(engine) > artifact.stat().st_size / 2  # holds the weights


def test_graph_that_tensorrt_does_not_read_is_named(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="needs TensorRT-RTX: pip install 'edgepath[rtx]'")
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(RuntimeError, match=r"cannot read model\.onnx: "):
        tensorrt.serialize(trt, tmp_path / "model.onnx", {"strongly_typed": True, "flags": []}, {})


PICKED = {
    "10.3.0": ("JetPack 6.1 / 6.2", ["--fp16", "--int8"], False),
    "10.11.0": ("JetPack 6.1 / 6.2", ["--fp16", "--int8"], False),
    "10.12.0": ("JetPack 7.0 / 7.1", ["--stronglyTyped"], True),
    "10.13.3.9": ("JetPack 7.0 / 7.1", ["--stronglyTyped"], True),
    "11.0.0": ("JetPack 7.2.2 and later", [], True),
    "11.4.1": ("JetPack 7.2.2 and later", [], True),
    "12.0.0": ("JetPack 7.2.2 and later", [], True),
}


@pytest.mark.parametrize("version", PICKED)
def test_plan_follows_the_tensorrt_that_is_found(tmp_path: Path, version: str) -> None:
    shapes = {"min": [1, 8, 8, 3], "opt": [1, 8, 8, 3], "max": [2, 8, 8, 3]}
    plans = [backend._plan(plan, shapes) for plan in find_recipe("jetson-int8").deploy.plan]
    plan = tensorrt.pick_plan(plans, version)
    assert (plan["release"], plan["flags"], plan["strongly_typed"]) == PICKED[version]
    with pytest.raises(OSError, match=r"TensorRT 8\.6\.1 is installed; 10\.3 or later is needed"):
        tensorrt.pick_plan(plans, "8.6.1")

    trt, flags = MagicMock(), []
    trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED = 1
    builder = trt.Builder.return_value
    builder.build_serialized_network.return_value = b"engine"
    builder.create_builder_config.return_value.set_flag.side_effect = flags.append
    assert tensorrt.serialize(trt, tmp_path / "model.onnx", plan, shapes) == b"engine"
    builder.create_network.assert_called_once_with(2 if plan["strongly_typed"] else 0)
    builder.create_optimization_profile.return_value.set_shape.assert_called_once_with(
        "tiles", (1, 8, 8, 3), (1, 8, 8, 3), (2, 8, 8, 3)
    )
    weak = [trt.BuilderFlag.FP16, trt.BuilderFlag.INT8]
    assert flags == ([] if plan["strongly_typed"] else weak)


def test_engine_is_built_once_for_graph_plan_version_and_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, cache, built = tmp_path / "model.onnx", tmp_path / "cache", []
    gpu = {"name": "Orin, sm87, 8 multiprocessors"}
    plan = {"since": [10, 3], "strongly_typed": False, "flags": []}
    artifact.write_bytes(b"graph")
    monkeypatch.setattr(tensorrt, "gpu", lambda: gpu["name"])
    monkeypatch.setattr(tensorrt, "serialize", lambda trt, *_: built.append(trt.__version__) or b"engine")

    def prepare(version: str = "10.3.0", **changes: Any) -> Path:
        (tmp_path / "plan.json").write_text(json.dumps({"plans": [{**plan, **changes}], "shapes": {}}))
        return tensorrt.prepare(MagicMock(__version__=version), artifact, cache=cache)

    first = prepare()
    assert first.read_bytes() == b"engine"
    assert first.name.endswith("-tensorrt10.3.0-Orin-sm87-8-multiprocessors.engine")
    assert prepare() == first
    assert len(built) == 1
    others = {first, prepare("10.3.1"), prepare(flags=["--fp16"])}
    artifact.write_bytes(b"another graph")
    others.add(prepare())
    gpu["name"] = "Thor, sm110, 20 multiprocessors"
    others.add(prepare())
    assert len(others) == len(built) == 5
    assert sorted(cache.iterdir()) == sorted(others)  # nothing was left aside


FP8 = {
    "Orin, sm87, 8 multiprocessors": False,
    "RTX 3060, sm86, 28 multiprocessors": False,
    "RTX 4090, sm89, 128 multiprocessors": True,
    "Thor, sm110, 20 multiprocessors": True,
}


@pytest.mark.parametrize("name", FP8)
def test_fp8_is_refused_on_a_gpu_without_it(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    artifact = open_bundle(export("thor-fp8")).artifact
    monkeypatch.setattr(tensorrt, "gpu", lambda: name)
    monkeypatch.setattr(tensorrt, "serialize", lambda *_: b"engine")
    trt = MagicMock(__version__="11.4.1")
    if FP8[name]:
        assert tensorrt.prepare(trt, artifact, cache=tmp_path).read_bytes() == b"engine"
        return
    with pytest.raises(OSError, match=r"^\w+.* has no FP8, which this bundle computes in; take .* jetson-int8$"):
        tensorrt.prepare(trt, artifact, cache=tmp_path)
    assert not list(tmp_path.iterdir())
    other = open_bundle(export("jetson-int8")).artifact  # nothing but FP8 asks for more than TensorRT does
    assert tensorrt.prepare(trt, other, cache=tmp_path).exists()


def test_engine_that_cannot_be_written_whole_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(OSError, match="disk full"):
        tensorrt._write(tmp_path / "cache" / "a.engine", b"engine")
    assert not list((tmp_path / "cache").iterdir())


def test_engine_cache_lies_with_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    (tmp_path / "plan.json").write_bytes(b"")
    monkeypatch.setenv("EDGEPATH_CACHE", str(tmp_path / "mine"))
    assert tensorrt.engine_file(tmp_path / "model.onnx", "10.3.0", "Orin").parent == tmp_path / "mine" / "engines"
    monkeypatch.delenv("EDGEPATH_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (
        tensorrt.engine_file(tmp_path / "model.onnx", "10.3.0", "Orin").parent == tmp_path / ".cache/edgepath/engines"
    )


@pytest.mark.parametrize("module", [tensorrt, tensorrt_rtx])
def test_engine_of_a_user_without_a_home_needs_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("EDGEPATH_CACHE")
    with pytest.raises(OSError, match="no home folder to keep the engine in; set EDGEPATH_CACHE to a folder"):
        module._engines()
    monkeypatch.setenv("EDGEPATH_CACHE", str(tmp_path))
    assert module._engines() == tmp_path / "engines"


class Driver:
    """libcuda of an Orin Nano, as far as it is asked."""

    def __init__(self, status: int) -> None:
        self.status = status

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGet(self, number: Any, index: int) -> int:
        number._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, length: int, number: Any) -> int:
        name.value = b"Orin"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, number: Any) -> int:
        value._obj.value = {75: 8, 76: 7, 16: 8}[attribute]
        return 0


def test_gpu_is_named_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(0))
    assert tensorrt.gpu() == "Orin, sm87, 8 multiprocessors"
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(100))
    with pytest.raises(OSError, match=r"offers no GPU to this process \(CUDA error 100\)"):
        tensorrt.gpu()


def test_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(OSError, match="no NVIDIA driver on this machine"):
        tensorrt.gpu()


# --- the TensorRT-RTX engine


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a GPU here")
def test_rtx_kit_builds_without_a_gpu_and_runs_only_beside_one(export: Export, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="needs TensorRT-RTX: pip install 'edgepath[rtx]'")
    bundle, cache = export("rtx-int8"), tmp_path / "cache"
    for script in ("check.py", "build.py"):
        said = refused(bundle, tmp_path, script=script)
        assert said.startswith(f"{script}: no NVIDIA driver on this machine")
        assert said.endswith("TensorRT-RTX runs beside an RTX GPU")
    said = refused(bundle, tmp_path, "--for", "SM1", "--cache", cache, script="build.py")
    assert said.endswith("SM1 cannot be built for here")
    before = state(bundle)
    done = run(sys.executable, bundle / "kit/build.py", "--for", "SM75", "--cache", cache, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done
    (engine,) = cache.iterdir()
    assert done.stdout.strip().endswith(str(engine))
    assert engine.stat().st_size > (bundle / "model.onnx").stat().st_size
    assert state(bundle) == before


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a GPU here")
def test_torchtrt_kit_runs_and_builds_only_beside_a_gpu(export: Export, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="needs TensorRT-RTX: pip install 'edgepath[rtx]'")
    if importlib.util.find_spec("torch_tensorrt") is None:
        pytest.skip("needs Torch-TensorRT: pip install 'edgepath[torchtrt]'")
    bundle = export("torchtrt-int8")
    before = state(bundle)
    for script in ("check.py", "build.py"):
        assert refused(bundle, tmp_path, script=script).startswith(f"{script}: no NVIDIA driver on this machine")
    assert state(bundle) == before
    for module in (exported, torchtrt):  # what builds there is what built here
        name = Path(str(module.__file__)).name
        assert (bundle / "kit" / name).read_bytes() == Path(str(module.__file__)).read_bytes()


def test_rtx_kit_names_what_is_missing(export: Export, device_python: Path, tmp_path: Path) -> None:
    for script in ("check.py", "build.py"):
        said = refused(export("rtx-int8"), tmp_path, script=script, python=device_python)
        assert said.startswith(f"{script}: No module named 'tensorrt_rtx_bindings'; kit/README.md says what")


# --- what a kit consists of


def blocks(readme: Path) -> list[str]:
    """The indented blocks of a README, without their indent."""
    parts = readme.read_text(encoding="utf-8").split("\n\n")
    return ["\n".join(line[4:] for line in part.splitlines()) for part in parts if part.startswith("    ")]


@pytest.fixture(scope="session")
def kits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each family's kit folder as an export writes it."""
    folder = tmp_path_factory.mktemp("kits")
    for family in FAMILIES:
        write_kit(folder / family, next(r for name, r in recipes().items() if name.startswith(family)), "it", 224, 8)
    return {family: folder / family for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_readme_names_every_file_and_only_these(kits: dict[str, Path], family: str) -> None:
    text = (kits[family] / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in kits[family].iterdir() if path.is_file()} - {"README.md"}
    assert {word for word in text.split("`")[1::2] if word in files} == files
    commands = [word for block in blocks(kits[family] / "README.md") for word in block.split() if "kit/" in word]
    assert set(commands) >= {"kit/check.py", "kit/requirements.txt"}
    assert {word.removeprefix("kit/") for word in commands} <= files
    assert 15 <= len(text.splitlines()) <= 32
    assert "python3 kit/check.py\n" in text
    artifact = {
        "coreml": "model.mlpackage",
        "openvino": "model.xml",
        "torchtrt": "model.pt2",
        "executorch": "model.pte",
    }.get(family, "model.onnx")
    (snippet,) = [block for block in blocks(kits[family] / "README.md") if block.startswith("import sys")]
    assert len(snippet.splitlines()) == 5
    assert f'Runner(Path("{artifact}"))' in compile_310(snippet)


@pytest.mark.parametrize("family", FAMILIES)
def test_requirements_agree_with_the_package(kits: dict[str, Path], checkout: Path, family: str) -> None:
    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    extra = {"onnx": "onnxruntime", "jetson": "tensorrt"}.get(family, family)
    known = {
        Requirement(line).name: Requirement(line)
        for line in [*project["dependencies"], *extras["export"], *extras[extra], *extras["rtx"]]
    }
    cuda = "nvidia-cuda-runtime-cu12"  # only where there is a GPU
    known[cuda] = Requirement(f"{cuda}>=12.9")
    lines = (kits[family] / "requirements.txt").read_text(encoding="utf-8").splitlines()
    named = [Requirement(line) for line in lines if not line.startswith("#")]
    for requirement in named:
        assert requirement.specifier == known[requirement.name].specifier
    runtimes = {"onnx": {"onnxruntime"}, "jetson": {"polygraphy"}, "coreml": {"coremltools"}}
    runtimes["executorch"] = {"executorch", "torch"}
    runtimes["rtx"] = {"polygraphy", cuda, "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs"}
    runtimes["torchtrt"] = {*runtimes["rtx"], "torch-tensorrt-rtx"}
    assert {requirement.name for requirement in named} - {"pillow"} == {"numpy", *runtimes.get(family, {family})}
    assert ("pillow" in {requirement.name for requirement in named}) == (family == "coreml")


def compile_310(source: str) -> str:
    ast.parse(source, feature_version=(3, 10))
    return source


@pytest.mark.parametrize("family", FAMILIES)
def test_kit_needs_python_310_numpy_and_the_runtime(kits: dict[str, Path], family: str) -> None:
    runtime = {"onnx": {"onnxruntime"}, "jetson": {"tensorrt", "polygraphy"}, "coreml": {"coremltools", "PIL"}}
    runtime["rtx"] = {"tensorrt_rtx_bindings", "polygraphy"}
    runtime["torchtrt"] = {*runtime["rtx"], "tensorrt", "torch", "torch_tensorrt"}
    runtime["executorch"] = {"executorch", "torch"}
    allowed = {*sys.stdlib_module_names, "numpy", *runtime.get(family, {family})}
    for path in kits[family].glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
        at_build = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "build"]
        skipped = {id(n) for top in at_build for n in ast.walk(top)} if path.name == "runner.py" else set()
        for node in ast.walk(tree):
            if id(node) in skipped:
                continue
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= {*allowed, "check", "cryptography", "model_signing"}, (
                path.name
            )  # the last with --trust


@pytest.mark.parametrize("script", ["check.py", "build.py"])
def test_kit_names_the_python_it_needs(kits: dict[str, Path], script: str, tmp_path: Path) -> None:
    path = kits["jetson"] / script
    # No older Python is here. One that is old enough to matter reads the file, and stops before anything else.
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
    older = f"import runpy, sys; sys.version_info = (3, 9, 18); sys.path.insert(0, {str(path.parent)!r}); "
    older += f"runpy.run_path({str(path)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-B", "-c", older], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{script}: this is Python ")
    assert done.stderr.endswith("3.10 or later is needed\n")


def test_kit_survives_tar(export: Export, device_python: Path, tmp_path: Path) -> None:
    """A bundle reaches its device in an archive; that must not change what is hashed."""
    with tarfile.open(tmp_path / "bundle.tar.gz", "w:gz") as archive:
        archive.add(export("onnx-int8"), "there")
    with tarfile.open(tmp_path / "bundle.tar.gz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # from Python 3.11.4 on
        archive.extractall(tmp_path)
    done = run(
        device_python, tmp_path / "there/kit/check.py", "--runs", "1", "--out", tmp_path / "r.json", cwd=tmp_path
    )
    assert done.returncode == 0, done

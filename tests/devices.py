"""What a device runs, on every Python it may have: the kit, then edgepath's wheel, on real bundles, without PyTorch.

Not part of the suite: `make test-devices` runs it, and needs a registry to install the runtimes from. With
EDGEPATH_BUNDLES, a folder, demo bundles that are there are taken as they are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgepath.bundle.bundle import open_bundle

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
TARGETS = ("openvino-int8", "onnx-int8")
# Two exact runs of this INT8 program lie up to 4e-4 apart (1 - cosine, its noise floor): rounding to 8 bits amplifies
# the last bit of a sum. A CPU without VNNI adds as much by saturating sums.
TOLERANCE = 1e-3
HEAVY = ("torch", "timm", "onnx", "safetensors")
EMBED_GOLDEN = """
import importlib.util, sys, numpy, edgepath
assert not [name for name in sys.argv[3:] if importlib.util.find_spec(name)], "a device has no PyTorch"
tiles, _ = (bundle := edgepath.open_bundle(sys.argv[1])).golden()
with bundle.runner(threads=1) as runner:
    numpy.save(sys.argv[2], runner(tiles))
"""


def run(*command: str | Path, cwd: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command that sees nothing of this checkout and environment, and takes every warning as an error."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    words, environment["PYTHONWARNINGS"] = [str(word) for word in command], "error"
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, f"{words} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done


def interpreter(version: str) -> str | None:
    """Return a Python of a version, from the PATH or from pyenv; None where there is none that starts."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    installed = sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"))
    for python in (shutil.which(f"python{version}"), *map(str, reversed(installed))):
        if python and subprocess.run([python, "-c", "import venv"], capture_output=True).returncode == 0:
            return python
    return None


@pytest.fixture(scope="session")
def bundles(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo model exported for each target by the environment of the checkout."""
    out = checkout / (os.environ.get("EDGEPATH_BUNDLES") or tmp_path_factory.mktemp("bundles"))
    for target in (target for target in TARGETS if not (out / f"demo-{target}").exists()):
        export = (sys.executable, "-m", "edgepath", "export", "--target", target, "--calibration-tiles", "16")
        subprocess.run([*export, "--out", out], check=True)
    return {target: out / f"demo-{target}" for target in TARGETS}


@pytest.fixture(scope="session")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, checkout, cwd=out)
    (built,) = out.glob("edgepath-*.whl")
    return built


@pytest.fixture(scope="session", params=PYTHONS)
def empty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an empty environment of one Python."""
    if (python := interpreter(request.param)) is None:
        pytest.skip(f"no Python {request.param} on the PATH or in pyenv; get it with: pyenv install {request.param}")
    folder = tmp_path_factory.mktemp(f"python{request.param}")
    run(python, "-m", "venv", folder, cwd=folder)
    return folder / "bin"


def install(device: Path, checkout: Path, *what: str | Path) -> None:
    pip = (device / "python", "-W", "ignore", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--constraint", checkout / "constraints.txt", *what, cwd=device)


@pytest.fixture(scope="session")
def runtimes(empty: Path, bundles: dict[str, Path], checkout: Path) -> Path:
    """The environment with what the kits ask for, and nothing else; `device` adds to it, so its tests come first."""
    needs = [("-r", bundle / "kit" / "requirements.txt") for bundle in bundles.values()]
    install(empty, checkout, *(word for need in needs for word in need))
    return empty


@pytest.fixture(scope="session")
def device(runtimes: Path, wheel: Path, checkout: Path) -> Path:
    """The environment with edgepath's wheel."""
    install(runtimes, checkout, f"{wheel}[openvino,onnxruntime]")
    return runtimes


@pytest.fixture(params=TARGETS)
def bundle(request: pytest.FixtureRequest, bundles: dict[str, Path]) -> Path:
    return bundles[request.param]


@pytest.fixture
def tampered(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle with one bit of its artifact's largest file turned."""
    copy = shutil.copytree(bundle, tmp_path / "tampered")
    largest = max(copy.glob("model.*"), key=lambda file: file.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    return copy


def test_kit_passes_with_the_runtime_alone(runtimes: Path, bundle: Path, tmp_path: Path) -> None:
    run(runtimes / "python", "-c", "import edgepath", cwd=tmp_path, status=1)
    report = tmp_path / "device-report.json"
    said = run(runtimes / "python", "kit/check.py", "--set", "threads=1", "--runs", "5", "--out", report, cwd=bundle)
    assert said.stdout.splitlines()[-1] == f"{bundle.name}: passed"
    opened, found = open_bundle(bundle), json.loads(report.read_text())
    assert found["bundle"]["sha256"] == opened.digest
    assert found["drift"]["lowering"]["cosine_min"] >= 1 - TOLERANCE


def test_kit_refuses_a_tampered_bundle(runtimes: Path, tampered: Path) -> None:
    said = run(runtimes / "python", "kit/check.py", cwd=tampered, status=2).stderr
    assert said.startswith("check.py: model.")
    assert "was altered" in said
    assert said.count("\n") == 1


def test_golden_tiles_embed_as_the_program_did(device: Path, bundle: Path, tmp_path: Path) -> None:
    run(device / "python", "-c", EMBED_GOLDEN, bundle, tmp_path / "found.npy", *HEAVY, cwd=tmp_path)
    found, program = np.load(tmp_path / "found.npy"), open_bundle(bundle).golden_embeddings("program")
    assert (found.dtype, found.shape) == (program.dtype, program.shape)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(program, axis=1)
    assert (np.einsum("nd,nd->n", found, program) / lengths).min() >= 1 - TOLERANCE


def test_command_verifies_and_embeds(device: Path, bundle: Path, tmp_path: Path) -> None:
    run(device / "edgepath", "verify", bundle, cwd=tmp_path)
    run(device / "edgepath", "embed", bundle, "synthetic:16", "--out", "x.npz", cwd=tmp_path)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as features:
        assert features["embeddings"].shape == (16, open_bundle(bundle).dim)
        assert np.isfinite(features["embeddings"]).all()


def test_command_refuses_a_tampered_bundle(device: Path, tampered: Path, tmp_path: Path) -> None:
    said = run(device / "edgepath", "verify", tampered, cwd=tmp_path, status=2)
    assert said.stdout == ""
    assert "was altered" in said.stderr


def test_lists_need_no_runtime(device: Path, tmp_path: Path) -> None:
    for command in ("--help", "targets", "models", "doctor"):
        assert run(device / "edgepath", command, cwd=tmp_path).stdout.strip()

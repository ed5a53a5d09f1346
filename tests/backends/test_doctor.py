"""What is here is found, what is not is named with the command that gets it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from edgepath.backends import doctor, find, targets
from edgepath.backends.backend import Found
from edgepath.backends.doctor import Diagnosis, diagnose
from edgepath.backends.runners.openvino import core
from edgepath.errors import MissingRuntime
from edgepath.machine import hardware, packages
from edgepath.machine.packages import EXTRAS, require, versions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8488C
flags\t\t: fpu vme sse4_2 avx2 avx512f avx_vnni avx512_vnni amx_bf16 amx_tile amx_int8
bugs\t\t: spectre_v1 sve

processor\t: 1
flags\t\t: fpu
"""
ARM = """processor\t: 0
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes asimddp i8mm bf16
CPU implementer\t: 0x41
"""


@pytest.fixture(scope="session")
def extras(checkout: Path) -> dict[str, list[str]]:
    """The distributions that each extra of pyproject.toml names itself, beside other extras of edgepath's."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    table = project["optional-dependencies"]
    names = {extra: [Requirement(line).name for line in lines] for extra, lines in table.items()}
    return {extra: [name for name in listed if name != "edgepath"] for extra, listed in names.items()}


@pytest.fixture(scope="session")
def here() -> Diagnosis:
    return diagnose()


def runtime(found: Diagnosis, name: str) -> Found:
    return dict(found.runtimes)[name]


# --- packages


def test_extras_are_those_of_pyproject(extras: dict[str, list[str]]) -> None:
    assert set(EXTRAS) == set(extras) - {"all", "dev", "docs"}
    for extra, names in EXTRAS.items():
        assert sorted(map(canonicalize_name, names)) == sorted(map(canonicalize_name, extras[extra])), extra


def test_each_version_is_the_installed_one(here: Diagnosis) -> None:
    assert {package.name for package in here.packages} == {name for names in EXTRAS.values() for name in names}
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in importlib.metadata.distributions()}
    for package in here.packages:
        assert package.version == installed.get(canonicalize_name(package.name))
    assert any(package.version for package in here.packages)


def test_each_package_is_got_by_an_extra_that_has_it(here: Diagnosis, extras: dict[str, list[str]]) -> None:
    for package in here.packages:
        match = re.fullmatch(r"pip install 'edgepath\[(\w+)\]'", package.install)
        assert match, package.install
        assert package.name in extras[match[1]]
        assert set(package.extras) == {extra for extra in EXTRAS if package.name in extras[extra]}
    by_name = {package.name: package for package in here.packages}
    # the smallest of the two: ONNX Runtime alone runs a bundle
    assert by_name["onnxruntime"].install == "pip install 'edgepath[onnxruntime]'"


def test_versions_are_of_what_is_installed(here: Diagnosis) -> None:
    found = versions()
    assert found["edgepath"] == importlib.metadata.version("edgepath")
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["numpy"] == importlib.metadata.version("numpy")
    assert found.items() >= {p.name: p.version for p in here.packages if p.version}.items()
    assert None not in found.values()


# --- this machine


def test_diagnosis_is_json(here: Diagnosis) -> None:
    values = here.to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert list(values) == ["machine", "runtimes", "packages"]
    assert values["machine"]["edgepath"].startswith(importlib.metadata.version("edgepath"))


def test_rows_tell_how_to_get_what_is_not_here(here: Diagnosis) -> None:
    rows = here.rows()
    assert len(rows) == len(here.runtimes) + len(here.packages)
    expected = [(name, found.usable, found.install) for name, found in here.runtimes]
    expected += [(package.name, package.version is not None, package.install) for package in here.packages]
    for (name, detail, install), (wanted, usable, remedy) in zip(rows, expected, strict=True):
        assert name == wanted
        assert detail
        assert install == ("" if usable else remedy)
    assert here.machine_rows() == list(here.machine.items())


def test_openvino_lists_its_devices(here: Diagnosis) -> None:
    pytest.importorskip("openvino", reason="needs openvino: pip install 'edgepath[openvino]'")
    found = runtime(here, "OpenVINO")
    assert found.usable
    for device in core().available_devices:
        assert f"{device} (" in found.detail


def test_memory_and_cores_are_the_systems(here: Diagnosis) -> None:
    if not Path("/proc/meminfo").is_file():
        pytest.skip("needs /proc/meminfo: Linux only")
    kib = int(re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())[1])  # type: ignore[index]
    assert here.machine["memory"] == f"{kib / 2**20:.1f} GiB"
    assert here.machine["cores"].split(",")[0] == str(os.cpu_count())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (X86, ["avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_tile", "amx_int8", "amx_bf16"]),
        (ARM, ["asimddp", "i8mm", "bf16"]),
        ("processor : 0\n", []),
        ("", []),
        (None, []),
    ],
    ids=["x86", "Arm", "no flags", "empty", "no file"],
)
def test_processor_features_are_read_from_its_first_core(tmp_path: Path, text: str | None, expected: list[str]) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text, encoding="utf-8")
    assert hardware.cpu_features(tmp_path / "cpuinfo") == expected


# --- Jetson


@pytest.mark.parametrize(
    ("release", "board", "expected"),
    [
        (
            "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8\n",
            b"NVIDIA Jetson Orin Nano Developer Kit\0",
            "NVIDIA Jetson Orin Nano Developer Kit, L4T 36.4.3",
        ),
        ("# R35 (release), REVISION: 6.0, GCID: 1", None, "Jetson, L4T 35.6.0"),
        ("something new\n", b"NVIDIA Jetson Thor\0", "NVIDIA Jetson Thor, something new"),
        (None, b"Raspberry Pi 5 Model B\0", None),
        (None, None, None),
    ],
)
def test_jetson_is_known_by_its_release_file(
    tmp_path: Path, release: str | None, board: bytes | None, expected: str | None
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    if release is not None:
        (tmp_path / "etc/nv_tegra_release").write_text(release, encoding="utf-8")
    if board is not None:
        (tmp_path / "proc/device-tree/model").write_bytes(board)
    assert hardware.jetson(tmp_path) == expected


def test_jetson_has_a_gpu_and_gets_tensorrt_from_jetpack(monkeypatch: pytest.MonkeyPatch) -> None:
    board = "NVIDIA Jetson Orin Nano, L4T 36.4.3"
    assert doctor._gpu(None, board) == Found(True, board, "")
    assert "Jetson" not in doctor._machine()
    assert "edgepath[tensorrt]" in find("tensorrt").availability().install
    monkeypatch.setattr(doctor, "jetson", lambda: board)
    monkeypatch.setattr("edgepath.backends.tensorrt.jetson", lambda: board)
    assert doctor._machine()["Jetson"] == board
    assert "apt install python3-libnvinfer" in find("tensorrt").availability().install


@pytest.mark.parametrize(
    ("polygraphy", "expected"),
    [("0.49.0", (True, "10.3.0; polygraphy 0.49.0")), (None, (False, "10.3.0; polygraphy not installed"))],
)
def test_tensorrt_needs_polygraphy_beside_it(
    polygraphy: str | None, expected: tuple[bool, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = {"tensorrt": "10.3.0", "polygraphy": polygraphy}
    monkeypatch.setattr("edgepath.backends.backend.version_of", installed.get)
    monkeypatch.setattr("edgepath.backends.tensorrt.version_of", installed.get)
    found = find("tensorrt").availability()
    assert (found.usable, found.detail) == expected


# --- nvidia-smi


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only nvidia-smi on the path: a script that a test writes, and that may take its time on a busy machine."""
    monkeypatch.setattr(doctor, "_SMI_SECONDS", 600.0)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "nvidia-smi"


def asked(smi: Path, script: str) -> Found:
    smi.write_text(script, encoding="utf-8")
    smi.chmod(0o755)
    return runtime(diagnose(), "CUDA GPU")


def test_smi_lists_each_gpu(smi: Path) -> None:
    lines = ["NVIDIA H100 80GB HBM3, 570.86.10, 81559 MiB", "Tesla T4, 570.86.10, 15360 MiB"]
    found = asked(smi, '#!/bin/sh\n[ "$1" = --query-gpu=name,driver_version,memory.total ] || exit 2\n'
                       + "".join(f"echo '{line}'\n" for line in lines))  # fmt: skip
    assert (found.usable, found.detail) == (True, "; ".join(lines))


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            '#!/bin/sh\necho "NVIDIA-SMI has failed because it couldn\'t communicate" >&2\necho more\nexit 9',
            "has failed",
        ),
        ("#!/bin/sh\nexit 1", "nvidia-smi said nothing"),
        ("#!/bin/sh\nexit 0", "nvidia-smi said nothing"),
        ("#!/bin/sh\necho No devices were found", "No devices were found"),
        ("#!/bin/sh\nprintf '\\377\\376 failed'; exit 1", "failed"),
        ("not a program", "none"),
    ],
    ids=["fails", "fails silently", "says nothing", "no devices", "not UTF-8", "no program"],
)
def test_smi_that_fails_is_quoted(smi: Path, script: str, said: str) -> None:
    found = asked(smi, script)
    assert not found.usable
    assert said in found.detail
    assert "\n" not in found.detail
    assert found.install == "an NVIDIA GPU and its driver"


# The second keeps the output open after its shell was killed, as a driver that hangs does.
@pytest.mark.parametrize("script", ["exec cat never", "cat never\nexit 0"], ids=["itself", "a child"])
def test_smi_that_hangs_is_not_waited_for(smi: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_SMI_SECONDS", 2.0)
    never = smi.parent / "never"
    os.mkfifo(never)
    found = asked(smi, f"#!/bin/sh\ncd {smi.parent}\n{script}")  # waited for, it would never end
    assert (found.usable, found.detail) == (False, "nvidia-smi gave no answer within 2.0 s")
    with suppress(OSError):  # nobody reads any more
        os.close(os.open(never, os.O_WRONLY | os.O_NONBLOCK))


def test_no_smi_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor._start_smi() is None
    assert not doctor._gpu(None, None).usable


# --- what is missing


def test_require_is_silent_for_what_is_here() -> None:
    require("onnxruntime", "onnxruntime")
    require("h5py", "features")


# Only the base dependencies can be found: as on a machine where edgepath was installed without extras.
BARE = """
import importlib.metadata, importlib.util, sys
missing = set(sys.argv[1].split(","))
spelt = lambda name: name.replace("-", "_").lower()

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if spelt(name.partition(".")[0]) in missing:
            raise ModuleNotFoundError(f"{name} is not installed in this test", name=name)

sys.meta_path.insert(0, Refuse())
version = importlib.metadata.version
def looked_up(name):
    if spelt(name) in missing:
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.metadata.version = looked_up
from edgepath.backends import find
from edgepath.backends.doctor import diagnose
from edgepath.machine.packages import require
from edgepath.errors import MissingRuntime
"""


def bare(script: str, missing: set[str]) -> str:
    names = missing | {packages._MODULES.get(name, name) for name in missing}
    spelt = ",".join(sorted(name.replace("-", "_").lower() for name in names))
    command = [sys.executable, "-W", "error", "-c", BARE + script, spelt]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_bare_machine_is_told_how_to_get_everything() -> None:
    everything = {name for names in EXTRAS.values() for name in names} | {"tensorrt"}
    found = json.loads(bare("import json; print(json.dumps(diagnose().to_json()))", everything))
    for package in found["packages"]:
        assert package["version"] is None
        assert package["install"].startswith("pip install 'edgepath[")
    installs = {entry["name"]: entry["install"] for entry in found["runtimes"] if not entry["usable"]}
    assert installs["PyTorch"] == "pip install 'edgepath[export]'"
    assert installs["ONNX Runtime"] == "pip install 'edgepath[onnxruntime]'"
    assert installs["OpenVINO"] == "pip install 'edgepath[openvino]'"
    assert installs["Core ML"] == "pip install 'edgepath[coreml]'"
    assert installs["TensorRT-RTX"] == "pip install 'edgepath[rtx]'"


@pytest.mark.parametrize(
    ("package", "extra", "said"),
    [
        ("h5py", "features", "h5py not installed; pip install 'edgepath[features]'"),
        ("torch", "export", "torch not installed; pip install 'edgepath[export]'"),
        ("onnxruntime", "onnxruntime", "onnxruntime not installed; pip install 'edgepath[onnxruntime]'"),
        ("tensorrt-rtx-cu13-bindings", "rtx",
         "tensorrt-rtx-cu13-bindings not installed; pip install 'edgepath[rtx]'"),
    ],
)  # fmt: skip
def test_require_names_what_is_missing_and_how_to_get_it(package: str, extra: str, said: str) -> None:
    script = f"try: require({package!r}, {extra!r})\nexcept MissingRuntime as error: print(error)"
    assert bare(script, {package}).strip() == said


@pytest.mark.parametrize(
    ("backend", "missing", "said"),
    [
        ("openvino", {"openvino"}, "openvino not installed; pip install 'edgepath[export,openvino]'"),
        ("onnxruntime", {"onnxruntime"}, "onnxruntime not installed; pip install 'edgepath[export]'"),
        ("tensorrt", {"onnx"}, "onnx not installed; pip install 'edgepath[export]'"),
        ("coreml", {"timm", "coremltools"}, "timm, coremltools not installed; pip install 'edgepath[coreml,export]'"),
        ("tensorrt_rtx", {"tensorrt-rtx-cu13-bindings"},
         "tensorrt-rtx-cu13-bindings not installed; pip install 'edgepath[export,rtx]'"),
    ],
)  # fmt: skip
def test_building_names_what_is_missing_and_how_to_get_it(backend: str, missing: set[str], said: str) -> None:
    script = f"try: find({backend!r}).require_to_build()\nexcept MissingRuntime as error: print(error)"
    assert bare(script, missing).strip() == said


@pytest.mark.parametrize("backend", targets())
def test_export_needs_its_whole_extra(backend: str) -> None:
    script = f"try: find({backend!r}).require_to_build()\nexcept MissingRuntime as error: print(error)"
    said = bare(script, set(EXTRAS["export"]))
    for name in EXTRAS["export"]:
        assert re.search(rf"\b{name}\b", said)


def test_require_raises_what_the_command_line_prints() -> None:
    with pytest.raises(MissingRuntime, match=r"no_such_package not installed; pip install 'edgepath\[features\]'"):
        require("no_such_package", "features")

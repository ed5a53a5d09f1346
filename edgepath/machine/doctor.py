"""What of edgepath can run on this machine, and what to install for the rest.

Versions are read from package metadata; of the runtimes only OpenVINO is imported, to list its devices.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import first_line
from .hardware import _cores, _memory, cpu_features, cpu_model
from .packages import EXTRAS, _extras, _pip, _version

_SMI = ("--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
_SMI_SECONDS = 2.0


@dataclass(frozen=True)
class Package:
    """A package edgepath can use: its version here (None: not installed), and what installs it."""

    name: str
    version: str | None
    extras: tuple[str, ...]
    install: str


@dataclass(frozen=True)
class Runtime:
    """Something that can run or build a model, whether it can do so here, and in words what is here and what is not."""

    name: str
    usable: bool
    detail: str
    install: str


@dataclass(frozen=True)
class Diagnosis:
    """What was found; `machine` maps a property to its value in words."""

    machine: dict[str, str]
    runtimes: tuple[Runtime, ...]
    packages: tuple[Package, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return {
            "machine": dict(self.machine),
            "runtimes": [asdict(runtime) for runtime in self.runtimes],
            "packages": [asdict(package) | {"extras": list(package.extras)} for package in self.packages],
        }

    def machine_rows(self) -> list[tuple[str, str]]:
        """Return (property, value) of the machine."""
        return list(self.machine.items())

    def rows(self) -> list[list[str]]:
        """Return rows of what, what is here, how to get it: runtimes first, then packages."""
        rows = [[runtime.name, runtime.detail, "" if runtime.usable else runtime.install] for runtime in self.runtimes]
        return rows + [[p.name, p.version or "not installed", "" if p.version else p.install] for p in self.packages]


def diagnose() -> Diagnosis:
    """Look at this machine; takes a second or two. A runtime that fails is reported with its own words."""
    smi = _start_smi()  # answers while the rest is looked at
    packages = tuple(_package(name) for name in dict.fromkeys(name for names in EXTRAS.values() for name in names))
    found = {package.name: package.version for package in packages}
    jetson = _jetson(Path("/"))
    runtimes = [
        _simple("PyTorch", found["torch"], "export"),
        _simple("ONNX Runtime", found["onnxruntime"], "onnxruntime"),
        _openvino(found["openvino"]),
        _coreml(found["coremltools"]),
        _tensorrt(_version("tensorrt"), found["polygraphy"], jetson),
        _simple("TensorRT-RTX, builds without a GPU", found["tensorrt-rtx-cu13-bindings"], "rtx"),
        _gpu(smi, jetson),
    ]
    return Diagnosis(_machine(jetson), tuple(runtimes), packages)


def _package(name: str) -> Package:
    # The smallest extra that has it comes last: `onnxruntime` is in `export` too.
    extras = _extras(name)
    return Package(name, _version(name), extras, _pip(extras[-1]))


def _simple(name: str, version: str | None, extra: str) -> Runtime:
    return Runtime(name, version is not None, version or "not installed", _pip(extra))


def _openvino(version: str | None) -> Runtime:
    if version is None:
        return _simple("OpenVINO", version, "openvino")
    try:
        import openvino

        core = openvino.Core()
        devices = [f"{name} ({core.get_property(name, 'FULL_DEVICE_NAME')})" for name in core.available_devices]
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: what its C++ side throws, a plugin's too
        return Runtime("OpenVINO", False, f"{version}, but it fails: {first_line(error)}", _pip("openvino"))
    return Runtime("OpenVINO", bool(devices), f"{version}; {', '.join(devices) or 'no device'}", _pip("openvino"))


def _coreml(version: str | None) -> Runtime:
    if version is None:
        return _simple("Core ML", version, "coreml")
    if platform.system() != "Darwin":
        return Runtime("Core ML", False, f"coremltools {version}: builds here", "runs only on macOS")
    return Runtime("Core ML", True, f"coremltools {version}", _pip("coreml"))


def _tensorrt(version: str | None, polygraphy: str | None, jetson: str | None) -> Runtime:
    """TensorRT itself is on no public registry: a Jetson has it from JetPack."""
    get = f"tensorrt from NVIDIA's package index, then {_pip('tensorrt')}"
    if jetson is not None:
        get = "sudo apt install python3-libnvinfer; pip install polygraphy"
    if version is None:
        return Runtime("TensorRT", False, "not installed", get)
    return Runtime("TensorRT", polygraphy is not None, f"{version}; polygraphy {polygraphy or 'not installed'}", get)


def _start_smi() -> subprocess.Popen[str] | None:
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen([command, *_SMI], stdout=pipe, stderr=subprocess.STDOUT, text=True, errors="replace")
    except OSError:  # a file of that name that is no program
        return None


def _gpu(smi: subprocess.Popen[str] | None, jetson: str | None) -> Runtime:
    if jetson is not None:  # its nvidia-smi, where it has one, does not know names and memory
        return Runtime("CUDA GPU", True, jetson, "")
    get = "an NVIDIA GPU and its driver"
    if smi is None:
        return Runtime("CUDA GPU", False, "none: no nvidia-smi", get)
    try:
        said, _ = smi.communicate(timeout=_SMI_SECONDS)
    except subprocess.TimeoutExpired:
        _abandon(smi)
        return Runtime("CUDA GPU", False, f"nvidia-smi gave no answer within {_SMI_SECONDS} s", get)
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["nvidia-smi said nothing"]
    # "Tesla T4, 550.54.14, 15360 MiB": without a GPU, some drivers' nvidia-smi says so and still exits with 0
    usable = smi.returncode == 0 and all(line.count(",") >= 2 for line in lines)
    return Runtime("CUDA GPU", usable, "; ".join(lines) if usable else lines[0], get)


def _abandon(process: subprocess.Popen[str]) -> None:
    """Kill without waiting for long: a program that hangs in the driver dies late, and its children hold its output."""
    process.kill()
    if process.stdout is not None:
        process.stdout.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)


def _jetson(root: Path) -> str | None:
    """Return a Jetson's board and Linux for Tegra release, None anywhere else."""
    release, board = root / "etc/nv_tegra_release", root / "proc/device-tree/model"
    if not release.is_file():
        return None
    said = release.read_text(encoding="utf-8").strip()
    # "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, ..."
    version = re.search(r"R(\d+) .*REVISION: ([\d.]+)", said)
    name = board.read_text(encoding="utf-8").strip("\0 \n") if board.is_file() else "Jetson"
    return f"{name}, L4T {version[1]}.{version[2]}" if version else f"{name}, {said[:60]}"


def _machine(jetson: str | None) -> dict[str, str]:
    found = {
        "edgepath": f"{__version__}, Python {platform.python_version()}",
        "system": platform.platform(),
        "processor": cpu_model(),
        "with": ", ".join(cpu_features()) or "not known",
        "cores": _cores(),
        "memory": _memory(),
    }
    return found | ({"Jetson": jetson} if jetson else {})

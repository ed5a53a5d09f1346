"""What of edgepath can run on this machine, and what to install for the rest.

Versions are read from package metadata; of the runtimes only OpenVINO is imported, to list its devices.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass

from .._version import __version__
from ..machine.hardware import cores, cpu_features, cpu_model, jetson, memory
from ..machine.packages import EXTRAS, extras_of, pip_install, version_of
from .backend import Found, every

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
class Diagnosis:
    """What was found; `machine` maps a property to its value in words."""

    machine: dict[str, str]
    runtimes: tuple[tuple[str, Found], ...]
    packages: tuple[Package, ...]

    def to_json(self) -> dict[str, object]:
        """Return everything as JSON-able values."""
        return {
            "machine": dict(self.machine),
            "runtimes": [{"name": name} | asdict(runtime) for name, runtime in self.runtimes],
            "packages": [asdict(package) | {"extras": list(package.extras)} for package in self.packages],
        }

    def machine_rows(self) -> list[tuple[str, str]]:
        """Return (property, value) of the machine."""
        return list(self.machine.items())

    def rows(self) -> list[list[str]]:
        """Return rows of what, what is here, how to get it: runtimes first, then packages."""
        rows = [[name, runtime.detail, "" if runtime.usable else runtime.install] for name, runtime in self.runtimes]
        return rows + [[p.name, p.version or "not installed", "" if p.version else p.install] for p in self.packages]


def diagnose() -> Diagnosis:
    """Look at this machine; takes a second or two. A runtime that fails is reported with its own words."""
    smi = _start_smi()  # answers while the rest is looked at
    packages = tuple(_package(name) for name in dict.fromkeys(name for names in EXTRAS.values() for name in names))
    torch = version_of("torch")
    runtimes = [
        ("PyTorch", Found(torch is not None, torch or "not installed", pip_install("export"))),
        *((backend.title, backend.availability()) for backend in every() if backend.builds is not None),
        ("CUDA GPU", _gpu(smi, jetson())),
    ]
    return Diagnosis(_machine(), tuple(runtimes), packages)


def _package(name: str) -> Package:
    # The extra to name comes last: the smallest (`onnxruntime` is in `export` too), or the one in the public registry.
    extras = extras_of(name)
    return Package(name, version_of(name), extras, pip_install(extras[-1]))


def _start_smi() -> subprocess.Popen[str] | None:
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen([command, *_SMI], stdout=pipe, stderr=subprocess.STDOUT, text=True, errors="replace")
    except OSError:  # a file of that name that is no program
        return None


def _gpu(smi: subprocess.Popen[str] | None, board: str | None) -> Found:
    if board is not None:  # its nvidia-smi, where it has one, does not know names and memory
        return Found(True, board, "")
    get = "an NVIDIA GPU and its driver"
    if smi is None:
        return Found(False, "none: no nvidia-smi", get)
    try:
        output, _ = smi.communicate(timeout=_SMI_SECONDS)
    except subprocess.TimeoutExpired:
        _abandon(smi)
        return Found(False, f"nvidia-smi gave no answer within {_SMI_SECONDS} s", get)
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["nvidia-smi said nothing"]
    # "Tesla T4, 550.54.14, 15360 MiB": without a GPU, some drivers' nvidia-smi says so and still exits with 0
    usable = smi.returncode == 0 and all(line.count(",") >= 2 for line in lines)
    return Found(usable, "; ".join(lines) if usable else lines[0], get)


def _abandon(process: subprocess.Popen[str]) -> None:
    """Kill without waiting for long: a program that hangs in the driver dies late, and its children hold its output."""
    process.kill()
    if process.stdout is not None:
        process.stdout.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)


def _machine() -> dict[str, str]:
    facts = {
        "edgepath": f"{__version__}, Python {platform.python_version()}",
        "system": platform.platform(),
        "processor": cpu_model(),
        "with": ", ".join(cpu_features()) or "not known",
        "cores": cores(),
        "memory": memory(),
    }
    board = jetson()
    return facts | ({"Jetson": board} if board else {})

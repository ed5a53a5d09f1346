"""What this device says about itself, as far as figures depend on it. The standard library only."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PACKAGES = (
    *("numpy", "pillow", "onnxruntime", "openvino", "coremltools", "executorch", "torch", "tensorrt", "polygraphy"),
    *("tensorrt-rtx-cu13-bindings", "torch-tensorrt-rtx", "coreai-core"),
)
SMI = ("--query-gpu=name,driver_version,clocks.sm,clocks.max.sm,power.limit", "--format=csv,noheader")


def device() -> dict[str, Any]:
    """Describe hardware, driver, clocks and power mode; what the system does not tell is left out."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {"system": platform.platform(), "machine": platform.machine(), "cores": cores}
    facts |= _macos() if sys.platform == "darwin" else _linux(Path("/"))
    return {key: value for key, value in facts.items() if value}


def versions() -> dict[str, str]:
    """Return the versions of Python and of what a runner can use, as far as they are installed here."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def _linux(root: Path) -> dict[str, Any]:
    """Read it from /proc, /sys and the vendors' commands; on any other system most of that is not there."""
    cpus = sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq"))
    gpus = sorted(root.glob("sys/class/devfreq/*gpu*"))  # a Jetson's
    return {
        "board": _read(root / "proc/device-tree/model"),
        "processor": _field(_read(root / "proc/cpuinfo"), "model name") or platform.processor(),
        "memory": _field(_read(root / "proc/meminfo"), "MemTotal"),
        "release": _first_line(_read(root / "etc/nv_tegra_release")),
        "power_mode": " ".join(_output("nvpmodel", "-q").split()),
        "cpu_governor": _distinct(_read(cpu / "scaling_governor") for cpu in cpus),
        "cpu_khz": _distinct(_span(cpu / "scaling_min_freq", cpu / "scaling_max_freq") for cpu in cpus),
        "gpu": "; ".join(_output("nvidia-smi", *SMI).splitlines()),
        "gpu_hz": _distinct(_span(gpu / "min_freq", gpu / "max_freq") for gpu in gpus),
        "gpu_driver": _first_line(_read(root / "proc/driver/nvidia/version")),
    }


def _macos() -> dict[str, Any]:
    power = (line.strip() for line in _output("pmset", "-g").splitlines())
    return {
        "board": _output("sysctl", "-n", "hw.model"),
        "processor": _output("sysctl", "-n", "machdep.cpu.brand_string"),
        "memory": f"{_output('sysctl', '-n', 'hw.memsize')} B",
        "release": f"{_output('sw_vers', '-productVersion')} ({_output('sw_vers', '-buildVersion')})",
        "power_mode": _distinct(line for line in power if "powermode" in line),
        "power_source": _first_line(_output("pmset", "-g", "batt")),
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""


def _span(low: Path, high: Path) -> str:
    return f"{_read(low)} to {_read(high)}"


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(sorted({value for value in values if value}))


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _field(text: str, key: str) -> str:
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(key)), "")


def _output(*command: str) -> str:
    """Return what a command printed; nothing where it is not there, fails, or takes longer than five seconds."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()

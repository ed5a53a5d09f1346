"""TODO."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from ..errors import UsageError


def device_name(device: str) -> str:
    """Name the hardware behind a torch device, for reports."""
    import torch

    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"{cpu_model()}, {torch.get_num_threads()} threads"


def cpu_model() -> str:
    """Return the processor's name as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# Instructions and units that the runtimes have faster paths for, as Linux spells them.
# fmt: off
_FEATURES = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimddp", "i8mm", "bf16", "sve", "sve2",
)
# fmt: on


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Return the instruction sets of this processor that runtimes have faster paths for, as Linux spells them."""
    if not cpuinfo.is_file():
        return []
    lines = (line.partition(":") for line in cpuinfo.read_text(encoding="utf-8").splitlines())
    flags = next((value.split() for key, _, value in lines if key.strip() in ("flags", "Features")), [])
    return [feature for feature in _FEATURES if feature in flags]


def _cores() -> str:
    cores = os.cpu_count()
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else cores
    return f"{cores}" if usable == cores else f"{cores}, {usable} of them for this process"


def _memory() -> str:
    if os.name != "posix":
        return "not known"
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"


def pick_device(device: str = "auto") -> str:
    """Return `cuda` when asked for or when it is there (`auto`), else `cpu`; UsageError for a GPU that is not there."""
    import torch

    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,4})?", device):
        raise UsageError(f'device "{device}"; give auto, cpu, cuda or cuda:INDEX')
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device {device}: PyTorch {torch.__version__} finds no CUDA GPU; give --device cpu")
    index = int(device.partition(":")[2] or 0)
    if device.startswith("cuda") and index >= torch.cuda.device_count():
        raise UsageError(f"device {device}: there are {torch.cuda.device_count()} CUDA GPUs, counted from 0")
    return device


def machine() -> dict[str, Any]:
    """Describe this machine as far as figures depend on it."""
    return {
        "cpu": cpu_model(),
        "cpu_features": list(cpu_features()),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }

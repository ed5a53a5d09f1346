"""The processor, memory and GPU of this machine, as far as figures depend on them."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import TypedDict

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


def cores() -> str:
    """Return how many cores there are and, where they are fewer, how many this process may use."""
    count = os.cpu_count()
    usable = len(usable_cores())
    return f"{count}" if usable == count else f"{count}, {usable} of them for this process"


def usable_cores() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def memory() -> str:
    """Return the size of the main memory."""
    if os.name != "posix":
        return "not known"
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"


def pick_device(device: str = "auto") -> str:
    """Return `cuda` when asked for or when it is there (`auto`), else `cpu`; UsageError for a GPU that is not there."""
    import torch

    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,4})?", device):
        raise UsageError(f"--device {device}: give auto, cpu, cuda or cuda:INDEX")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: PyTorch {torch.__version__} finds no CUDA GPU; give --device cpu")
    index = int(device.partition(":")[2] or 0)
    if device.startswith("cuda") and index >= torch.cuda.device_count():
        raise UsageError(f"device {device}: there are {torch.cuda.device_count()} CUDA GPUs, counted from 0")
    return device


class Machine(TypedDict):
    """This machine as far as figures depend on it; `cpu_features` are those of `cpu_features()`."""

    cpu: str
    cpu_features: list[str]
    cores: int | None
    system: str
    python: str


def machine() -> Machine:
    """Describe this machine as far as figures depend on it."""
    return {
        "cpu": cpu_model(),
        "cpu_features": list(cpu_features()),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def jetson(root: Path = Path("/")) -> str | None:
    """Return a Jetson's board and Linux for Tegra release, None anywhere else."""
    release, board = root / "etc/nv_tegra_release", root / "proc/device-tree/model"
    if not release.is_file():
        return None
    text = release.read_text(encoding="utf-8").strip()
    # "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, ..."
    version = re.search(r"R(\d+) .*REVISION: ([\d.]+)", text)
    name = board.read_text(encoding="utf-8").strip("\0 \n") if board.is_file() else "Jetson"
    return f"{name}, L4T {version[1]}.{version[2]}" if version else f"{name}, {text[:60]}"

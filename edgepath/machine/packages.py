"""TODO."""

from __future__ import annotations

import importlib.util
import platform

from .._version import __version__
from ..errors import MissingRuntime

# What each extra of pyproject.toml installs; a test compares.
# fmt: off
EXTRAS = {
    "export": (
        "torch", "torchvision", "timm", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "safetensors",
        "huggingface_hub",
    ),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "coreml": ("coremltools",),
    "rtx": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs", "polygraphy"),
    "tensorrt": ("polygraphy", "torch-tensorrt"),
    "features": ("h5py", "pyarrow"),
    "plots": ("matplotlib",),
    "probe": ("scikit-learn", "scipy"),
}
# fmt: on


# Where the name to import is not the distribution's with `-` as `_`.
_MODULES = {
    "tensorrt-rtx-cu13-bindings": "tensorrt_rtx_bindings",
    "tensorrt-rtx-cu13-libs": "tensorrt_rtx_libs",
    "scikit-learn": "sklearn",
}


# What building a backend's artifact takes besides the extra `export`; TensorRT's is an ONNX graph.
_BUILDS = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "coreml": "coremltools",
    "tensorrt": "onnx",
    "tensorrt_rtx": "tensorrt-rtx-cu13-bindings",
}


def require(what: str, extra: str) -> None:
    """Raise MissingRuntime with the command to install it unless `what` can be imported.

    `what` is a package that `extra` installs, or a backend: then all that exporting for it takes, `extra` included.
    """
    needed = [what] if what not in _BUILDS else [*EXTRAS[extra], _BUILDS[what]]
    missing = [name for name in dict.fromkeys(needed) if not _importable(name)]
    if missing:
        extras = {extra, *(_extras(name)[0] for name in missing if name not in EXTRAS[extra] and _extras(name))}
        raise MissingRuntime(f"{', '.join(missing)} not installed; {_pip(*sorted(extras))}")


def versions() -> dict[str, str]:
    """Return the versions of edgepath, Python and every package installed here that can change a figure."""
    names = dict.fromkeys(["numpy", "pillow", *(name for names in EXTRAS.values() for name in names), "tensorrt"])
    found = {name: _version(name) for name in names}
    mine = {"edgepath": __version__, "python": platform.python_version()}
    return mine | {name: version for name, version in found.items() if version is not None}


def _pip(*extras: str) -> str:
    return f"pip install 'edgepath[{','.join(extras)}]'"


def _extras(name: str) -> tuple[str, ...]:
    return tuple(extra for extra, names in EXTRAS.items() if name in names)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(_MODULES.get(name, name.replace("-", "_"))) is not None
    except ModuleNotFoundError:
        return False

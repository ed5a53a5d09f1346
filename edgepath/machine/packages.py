"""The packages that edgepath can use: which are installed, in what version, and what installs the others."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from collections.abc import Iterable
from functools import cache

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
    "coreai": ("coreai-torch", "coreai-core"),
    "executorch": ("executorch",),
    "tensorrt": ("polygraphy",),
    "rtx": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs", "polygraphy"),
    "torchtrt": ("torch-tensorrt-rtx",),
    "features": ("h5py", "pyarrow"),
    "plots": ("matplotlib",),
    "probe": ("scikit-learn", "scipy"),
    "nncf": ("nncf",),
    "sign": ("cryptography", "model-signing", "pyopenssl"),
    "pkcs11": ("pykcs11",),
    "ray": ("ray",),
    "slides": (
        "anndata", "h5py", "openslide-bin", "openslide-python", "pydicom", "scikit-image", "scipy", "tifffile",
        "wsidicom",
    ),
}
# fmt: on


# Where the name to import is not the distribution's with `-` as `_`.
_MODULES = {
    "coreai-core": "coreai",
    "tensorrt-rtx-cu13-bindings": "tensorrt_rtx_bindings",
    "tensorrt-rtx-cu13-libs": "tensorrt_rtx_libs",
    "openslide-python": "openslide",
    "pykcs11": "PyKCS11",
    "pyopenssl": "OpenSSL",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
    "torch-tensorrt-rtx": "torch_tensorrt",
}


def require(package: str, extra: str) -> None:
    """Raise MissingRuntime, with the command that installs it, unless a package of `extra` can be imported."""
    require_all([package], extra)


def require_all(packages: Iterable[str], extra: str) -> None:
    """Raise MissingRuntime, with the command that installs them, unless all `packages` can be imported.

    Most are of `extra`; the extras of others are named beside it.
    """
    missing = [name for name in dict.fromkeys(packages) if not _importable(name)]
    if missing:
        extras = {extra, *(extras_of(name)[0] for name in missing if name not in EXTRAS[extra] and extras_of(name))}
        raise MissingRuntime(f"{', '.join(missing)} not installed; {pip_install(*sorted(extras))}")


def versions() -> dict[str, str]:
    """Return the versions of edgepath, Python and every package installed here that can change a figure."""
    names = dict.fromkeys(
        ["numpy", "pillow", "simplejpeg", *(name for names in EXTRAS.values() for name in names), "tensorrt"]
    )
    installed = {name: version_of(name) for name in names}
    mine = {"edgepath": __version__, "python": platform.python_version()}
    return mine | {name: version for name, version in installed.items() if version is not None}


def pip_install(*extras: str) -> str:
    """Return the command that installs extras of edgepath."""
    return f"pip install 'edgepath[{','.join(extras)}]'"


def extras_of(name: str) -> tuple[str, ...]:
    """Return the extras that install a package."""
    return tuple(extra for extra, names in EXTRAS.items() if name in names)


@cache
def version_of(name: str) -> str | None:
    """Return the installed version of a distribution, None where there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(_MODULES.get(name, name.replace("-", "_"))) is not None
    except ModuleNotFoundError:
        return False

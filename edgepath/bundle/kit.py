"""TODO."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from ..machine.shipped import data_folder
from ..recipes.recipe import Recipe

# Folders of export/.
KITS = {
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "tensorrt": "jetson",
    "tensorrt_rtx": "rtx",
    "coreml": "coreml",
}


def _write_golden(folder: Path, tiles: np.ndarray, embeddings: dict[str, np.ndarray]) -> None:
    folder.mkdir()
    np.savez_compressed(folder / "tiles.npz", tiles=tiles)
    for name in ("reference", "program"):
        np.savez(folder / f"{name}.npz", embeddings=embeddings[name])


def _write_kit(folder: Path, recipe: Recipe) -> None:
    """Copy what runs on the device: the very backend module that edgepath uses, a self-test and how to start it."""
    folder.mkdir()
    shutil.copyfile(Path(__file__).parent / "backends" / f"{recipe.backend}.py", folder / "runner.py")
    for kit in (data_folder("export") / "kit", data_folder("export") / KITS[recipe.backend] / "kit"):
        for source in sorted(path for path in kit.iterdir() if path.is_file()):
            shutil.copyfile(source, folder / source.name)

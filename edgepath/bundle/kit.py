"""What a bundle carries for its device: the backend's own runner, a self-test, golden tiles and how to start."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from .. import backends
from ..machine.shipped import data_folder
from ..recipes.recipe import Recipe


def write_golden(folder: Path, tiles: np.ndarray, embeddings: dict[str, np.ndarray]) -> None:
    """Write golden tiles, and their embeddings by full precision and by the program, into a new folder."""
    folder.mkdir()
    np.savez_compressed(folder / "tiles.npz", tiles=tiles)
    for name in ("reference", "program"):
        np.savez(folder / f"{name}.npz", embeddings=embeddings[name])


def write_kit(folder: Path, recipe: Recipe) -> None:
    """Copy what runs on the device: the very runner that edgepath uses, a self-test and how to start it."""
    folder.mkdir()
    backend, builds = backends.find(recipe.backend), backends.builds_of(recipe.backend)
    own = builds.kit
    shutil.copyfile(backend.runner_file(), folder / "runner.py")
    for name in builds.kit_modules:
        source = backends.module_file(name)
        shutil.copyfile(source, folder / source.name)
    for kit in ("kit", f"{own}/kit") if own else ("kit",):
        for source in sorted(path for path in (data_folder("export") / kit).iterdir() if path.is_file()):
            shutil.copyfile(source, folder / source.name)

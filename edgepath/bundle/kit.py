"""What a bundle carries for its device: the backend's own runner, a self-test, golden tiles and how to start."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from string import Template

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


def write_kit(folder: Path, recipe: Recipe, name: str, size: int, dim: int) -> None:
    """Copy what runs on the device: the very runner that edgepath uses, a self-test and how to start it.

    Where the backend's kit has a folder `serving`, what a model server takes goes there, filled in with the
    bundle's name, the tile's size in pixels and the embedding's dimension; `web`, what a browser takes, is copied.
    """
    folder.mkdir()
    backend, own = backends.find(recipe.backend), backends.builds_of(recipe.backend).kit
    shutil.copyfile(backend.runner_file(), folder / "runner.py")
    kits = [data_folder("export") / kit for kit in (("kit", f"{own}/kit") if own else ("kit",))]
    _copy(kits, folder)
    if (kits[-1] / "serving").is_dir():
        (folder / "serving").mkdir()
        _copy([kit / "serving" for kit in kits], folder / "serving")
        for path in [path for path in (folder / "serving").iterdir() if path.suffix != ".py"]:
            filled = Template(path.read_text(encoding="utf-8")).substitute(name=name, size=size, dim=dim)
            path.write_text(filled, encoding="utf-8")
    if (kits[-1] / "web").is_dir():
        (folder / "web").mkdir()
        _copy([kits[-1] / "web"], folder / "web")


def _copy(folders: Iterable[Path], to: Path) -> None:
    """Copy the files of folders, not what lies deeper, into one."""
    for source in [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]:
        shutil.copyfile(source, to / source.name)

"""The files that other tools read, by the name of the tool: what is in them, and where they lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import anndata, clam, parquet, stamp, trident
from .features import Features as Features


@dataclass(frozen=True)
class Layout:
    """`folder` is where a slide's file lies below the output, `suffix` what its name ends in; `needs` a package."""

    folder: Callable[[Features], str]
    suffix: str
    write: Callable[[Path, Features], None]
    needs: tuple[str, ...]


LAYOUTS = {
    "trident": Layout(trident.folder, ".h5", trident.write, ("h5py",)),
    "clam": Layout(lambda _: "h5_files", ".h5", clam.write, ("h5py", "torch")),
    "stamp": Layout(lambda _: "", ".h5", stamp.write, ("h5py",)),
    "parquet": Layout(lambda _: "", ".parquet", parquet.write, ("pyarrow",)),
    "anndata": Layout(lambda _: "", ".h5ad", anndata.write, ("anndata",)),
}

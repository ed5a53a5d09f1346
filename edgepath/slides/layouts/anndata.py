"""As scanpy, squidpy and LazySlide's users read it: `<id>.h5ad`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...machine.hdf5_writing import new_hdf5
from .features import Features


def write(path: Path, features: Features) -> None:
    """Write embeddings as `X`, float32 (N, D), and places as `obsm["spatial"]`, int64 (N, 2), finest level's pixels."""
    import anndata

    names = [f"{features.id}_{x}_{y}" for x, y in features.coords.tolist()]
    table = anndata.AnnData(features.embeddings.astype(np.float32))
    table.obs_names = names
    table.obsm["spatial"] = features.coords.astype(np.int64)
    table.uns["edgepath"] = {
        "encoder": features.encoder,
        "slide": features.id,
        "tile_size": features.scale.size,
        "mpp": features.scale.mpp,
        "tile_size_level0": features.scale.width,
    }
    with new_hdf5(path) as (file, _):
        anndata.io.write_elem(file, "/", table)

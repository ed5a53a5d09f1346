"""As STAMP's data sets read it: `<id>.h5` with coordinates in um."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...machine.hdf5_writing import new_hdf5
from .features import Features


def write(path: Path, features: Features) -> None:
    """Write `feats`, float16 (N, D), and `coords`, float32 (N, 2), in um."""
    with new_hdf5(path) as (file, _):
        file.create_dataset("feats", data=features.embeddings.astype(np.float16))
        file.create_dataset("coords", data=(features.coords * np.array(features.scale.slide_mpp)).astype(np.float32))
        file.attrs.update(
            extractor=features.encoder,
            unit="um",
            tile_size_um=features.scale.size * features.scale.mpp,
            tile_size_px=features.scale.size,
            feat_type="tile",
        )

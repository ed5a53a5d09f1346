"""As TRIDENT's slide encoders read it: `<mag>x_<px>px_<overlap>px_overlap/features_<encoder>/<id>.h5`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...machine.hdf5_writing import new_hdf5
from .features import Features


def folder(features: Features) -> str:
    """Return where the file lies below the output."""
    return f"{features.magnification}x_{features.scale.size}px_{features.overlap}px_overlap/features_{features.encoder}"


def write(path: Path, features: Features) -> None:
    """Write `features`, float32 (N, D), and `coords`, int64 (N, 2), in pixels of the finest level."""
    with new_hdf5(path) as (file, _):
        dataset = file.create_dataset("features", data=features.embeddings.astype(np.float32))
        dataset.attrs.update(encoder=features.encoder, name=features.id)
        coords = file.create_dataset("coords", data=features.coords.astype(np.int64))
        coords.attrs.update(
            name=features.id,
            patch_size=features.scale.size,
            patch_size_level0=round(features.scale.width),
            overlap=features.overlap,
            target_magnification=features.magnification,
            level0_magnification=features.slide_magnification,
            level0_width=features.width,
            level0_height=features.height,
            target_mpp=features.scale.mpp,
            level0_mpp=features.scale.slide_mpp[0],
        )

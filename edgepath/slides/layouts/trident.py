"""As TRIDENT's slide encoders read it: `<mag>x_<px>px_<overlap>px_overlap/features_<encoder>/<id>.h5`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...machine.hdf5_writing import new_hdf5
from .features import Features


def folder(found: Features) -> str:
    """Return where the file lies below the output."""
    return f"{found.magnification}x_{found.scale.size}px_{found.overlap}px_overlap/features_{found.encoder}"


def write(path: Path, found: Features) -> None:
    """Write `features`, float32 (N, D), and `coords`, int64 (N, 2), in pixels of the finest level."""
    with new_hdf5(path) as (file, _):
        features = file.create_dataset("features", data=found.embeddings.astype(np.float32))
        features.attrs.update(encoder=found.encoder, name=found.id)
        coords = file.create_dataset("coords", data=found.coords.astype(np.int64))
        coords.attrs.update(
            name=found.id,
            patch_size=found.scale.size,
            patch_size_level0=round(found.scale.width),
            overlap=found.overlap,
            target_magnification=found.magnification,
            level0_magnification=found.slide_magnification,
            level0_width=found.width,
            level0_height=found.height,
            target_mpp=found.scale.mpp,
            level0_mpp=found.scale.found[0],
        )

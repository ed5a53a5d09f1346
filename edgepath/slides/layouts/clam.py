"""As CLAM and what grew from it read it: `h5_files/<id>.h5`, and `pt_files/<id>.pt` with the features alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...machine.hdf5_writing import new_hdf5
from ...machine.writing import replacing
from .features import Features


def write(path: Path, features: Features) -> None:
    """Write `features`, float32 (N, D), and `coords`, int32 (N, 2), in pixels of the finest level; and the tensor."""
    import torch

    with new_hdf5(path) as (file, _):
        file.create_dataset("features", data=features.embeddings.astype(np.float32))
        coords = file.create_dataset("coords", data=features.coords.astype(np.int32))
        coords.attrs.update(name=features.id, patch_size=round(features.scale.width), patch_level=0)
    # `path` lies in the workspace of `h5_files/<id>.h5`.
    tensor = path.parents[2] / "pt_files" / f"{features.id}.pt"
    tensor.parent.mkdir(exist_ok=True)
    with replacing(tensor, "features") as partial, open(partial, "wb") as file:
        torch.save(torch.from_numpy(np.ascontiguousarray(features.embeddings, np.float32)), file)

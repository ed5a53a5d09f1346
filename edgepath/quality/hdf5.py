"""HDF5 files that others wrote: what a dataset declares is held against the file before memory is taken for it."""

from __future__ import annotations

from typing import Any

_DEFLATE = 1032  # bytes that one byte of a deflated chunk holds at most (zlib's technical details)


def check_declared(*datasets: Any) -> None:
    """Raise OSError for a dataset of h5py's that declares more than its bytes in the file can hold.

    TypeError for what is no dataset.
    """
    import h5py

    for dataset in datasets:
        if not isinstance(dataset, h5py.Dataset):
            raise TypeError(f"{dataset.name} is a group, a dataset is needed")
        stored = min(dataset.id.get_storage_size(), dataset.file.id.get_filesize())
        declared = dataset.size * dataset.dtype.itemsize
        if declared > _DEFLATE * stored:
            raise OSError(f"{dataset.name} declares {declared} bytes, of which the file holds {stored}")

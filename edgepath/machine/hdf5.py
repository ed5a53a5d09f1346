"""HDF5 files from strangers: what a dataset declares is held against the file before memory is taken for it.

A file can name others: links and datasets that lie in other files would read whatever the user may read, so they are
refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

_DEFLATE = 1032  # bytes that one byte of a deflated chunk holds at most (zlib's technical details)
_USUAL, _MUCH = 100, 64 << 20  # what is larger than the second and packed more tightly than the first is a bomb
_TEXT = 64 << 20  # bytes of all names in a dataset
_CHUNK = 256 << 20


def dataset(parent: Any, path: str) -> Any:
    """Return a dataset of h5py's by its path below a group, held against the file.

    Raises KeyError where there is none, TypeError for what is no dataset, OSError for one that lies in another file or
    declares more than its bytes in this one can hold.
    """
    import h5py

    values = inside(parent, path)
    if not isinstance(values, h5py.Dataset):
        raise TypeError(f"{values.name} is a group, a dataset is needed")
    if values.external or values.is_virtual:
        raise OSError(f"{values.name} lies in other files than its own")
    stored = min(values.id.get_storage_size(), values.file.id.get_filesize())
    declared, chunk = values.size * values.dtype.itemsize, math.prod(values.chunks or ()) * values.dtype.itemsize
    if declared > _DEFLATE * stored or declared > max(_MUCH, _USUAL * stored):
        raise OSError(f"{values.name} declares {declared} bytes, of which the file holds {stored}")
    if chunk > max(_CHUNK, declared):
        raise OSError(f"{values.name} declares {declared} bytes in chunks of {chunk}")
    return values


def inside(parent: Any, path: str) -> Any:
    """Return a group or dataset by its path. KeyError where there is none, OSError for a link to another file."""
    import h5py

    item = parent
    for name in filter(None, path.split("/")):
        if isinstance(item.get(name, getlink=True), h5py.ExternalLink):
            raise OSError(f"{name} is a link to another file")
        item = item[name]
        if item.file.filename != parent.file.filename:  # a soft link through one
            raise OSError(f"{name} is a link to another file")
    return item


def texts(values: Any) -> Iterator[list[str]]:
    """Yield a dataset's strings, flat, some at a time: many may be one long text.

    Raises OSError for more text than names have, TypeError for no strings.
    """
    flat, total, step = values.asstr(), 0, 64
    for start in range(0, len(values), step):
        part = [str(name) for name in flat[start : start + step].reshape(-1)]
        total += sum(map(len, part))
        if total > _TEXT:
            raise OSError(f"{values.name} holds more than {_TEXT} letters")
        yield part

"""The expression of some spots and genes, out of an AnnData file (`.h5ad`), by its published on-disk format.

Read with h5py: the matrix `X`, dense or sparse, and the names of its rows (`obs`) and columns (`var`). The anndata
package would bring 12 packages (130 MB) for it, and reads all of `obs` and `uns` before their sizes can be held against
the file's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError, first_line
from ...machine.hdf5 import dataset, inside
from ...machine.hdf5_texts import read_attributes, read_texts

_BLOCK = 64 << 20  # bytes of a dense matrix held at once
_SPARSE = ("csr_matrix", "csc_matrix")


def read_expression(path: Path, barcodes: Sequence[str], genes: Sequence[str]) -> np.ndarray:
    """Return what the file holds of `barcodes` (rows, in their order) and `genes` (columns): float64 (N, genes).

    Raises UsageError for a file that is no AnnData file, and for barcodes or genes that it lacks or holds twice.
    """
    import h5py

    try:
        spots, known = read_texts(path, "obs"), read_texts(path, "var")
        rows, columns = _find(barcodes, spots, path, "barcode"), _find(genes, known, path, "gene")
        with h5py.File(path, "r") as file:
            return _matrix(file, path, (len(spots), len(known)), rows, columns)
    except (OSError, KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise UsageError(f"HEST {path}: cannot be read as AnnData ({first_line(error)}); fetch it again") from None


def _find(wanted: Sequence[str], names: Sequence[str], path: Path, what: str) -> np.ndarray:
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    if missing := [name for name in wanted if name not in places]:
        raise UsageError(
            f"HEST {path}: lacks {len(missing)} of {len(wanted)} {what}s asked for, the first is {missing[0]}; "
            "fetch the task again"
        )
    if double := [name for name in wanted if len(places[name]) > 1]:
        raise UsageError(f"HEST {path}: {what} {double[0]} stands in it twice; which one is meant cannot be known")
    return np.array([places[name][0] for name in wanted])


def _matrix(file: Any, path: Path, shape: tuple[int, int], rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    import h5py

    stored = inside(file, "X")
    dense = isinstance(stored, h5py.Dataset)
    stated_in = {} if dense else read_attributes(path, "X")
    kind = "dense" if dense else str(stated_in.get("encoding-type", "nothing that is known"))
    if not dense and kind not in _SPARSE:
        raise ValueError(f"X is {kind}; a dense matrix, {' or '.join(_SPARSE)} is needed")
    stated = tuple(map(int, stored.shape if dense else stated_in["shape"]))
    if stated != shape:
        raise ValueError(f"X is {stated}; {shape[0]} rows of obs and {shape[1]} of var are named")
    if dense:
        stored = dataset(file, "X")
        rows_at_once = max(1, _BLOCK // (stored.dtype.itemsize * max(1, shape[1])))
        blocks = [stored[start : start + rows_at_once][:, columns] for start in range(0, len(stored), rows_at_once)]
        return np.asarray(np.concatenate(blocks)[rows], np.float64)
    from scipy import sparse

    parts = [dataset(stored, name) for name in ("data", "indices", "indptr")]
    matrix = getattr(sparse, kind)(tuple(part[:] for part in parts), shape=shape)
    matrix.check_format(full_check=True)  # SciPy takes indices as they are, and reads wherever they point
    return np.asarray(matrix[rows][:, columns].toarray(), np.float64)

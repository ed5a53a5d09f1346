"""The expression of some spots and genes, out of an AnnData file (`.h5ad`).

Read with h5py by AnnData's published on-disk format: the matrix `X`, dense or sparse, and the names of its rows (`obs`)
and columns (`var`). Nothing else of the file is needed, and the anndata package would bring pandas, zarr and a dozen
more for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError

_BLOCK = 4096  # rows of a dense matrix held at once
_SPARSE = ("csr_matrix", "csc_matrix")


def read_expression(path: Path, barcodes: Sequence[str], genes: Sequence[str]) -> np.ndarray:
    """Return what the file holds of `barcodes` (rows, in their order) and `genes` (columns): float64 (N, genes).

    Raises UsageError for a file that is no AnnData file, and for barcodes or genes that it lacks or holds twice.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            spots, all_genes = _names(file, "obs"), _names(file, "var")
            rows, columns = _find(barcodes, spots, path, "barcode"), _find(genes, all_genes, path, "gene")
            return _matrix(file["X"], (len(spots), len(all_genes)), rows, columns, path)
    except (OSError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise UsageError(f"HEST {path}: cannot be read as AnnData ({error}); fetch it again") from None


def _names(file: Any, table: str) -> list[str]:
    """Return the index of a table: strings, or since anndata 0.11 strings with a mask of missing ones."""
    import h5py

    stored = file[table]
    index = stored[stored.attrs["_index"]]
    values = index["values"] if isinstance(index, h5py.Group) else index
    return [str(name) for name in values.asstr()[:]]


def _find(wanted: Sequence[str], names: Sequence[str], path: Path, what: str) -> np.ndarray:
    places = {name: place for place, name in enumerate(names)}
    if missing := [name for name in wanted if name not in places]:
        raise UsageError(
            f"HEST {path}: lacks {len(missing)} of {len(wanted)} {what}s asked for, the first is {missing[0]}; "
            "fetch the task again"
        )
    if len(places) < len(names):
        twice = {name for place, name in enumerate(names) if places[name] != place}
        if double := [name for name in wanted if name in twice]:
            raise UsageError(f"HEST {path}: {what} {double[0]} stands in it twice; which one is meant cannot be known")
    return np.array([places[name] for name in wanted])


def _matrix(stored: Any, shape: tuple[int, int], rows: np.ndarray, columns: np.ndarray, path: Path) -> np.ndarray:
    import h5py

    if isinstance(stored, h5py.Dataset):
        _check_shape(stored.shape, shape, path)
        blocks = (stored[start : start + _BLOCK][:, columns] for start in range(0, len(stored), _BLOCK))
        dense = np.concatenate(list(blocks))[rows]
        return np.asarray(dense, np.float64)
    kind = str(stored.attrs.get("encoding-type", "nothing that is known"))
    if kind not in _SPARSE:
        raise UsageError(f"HEST {path}: X is {kind}; a dense matrix, {' or '.join(_SPARSE)} is needed")
    _check_shape(stored.attrs["shape"], shape, path)
    from scipy import sparse

    parts = tuple(stored[name][:] for name in ("data", "indices", "indptr"))
    matrix = getattr(sparse, kind)(parts, shape=shape)
    matrix.check_format(full_check=True)  # SciPy takes indices as they are, and reads wherever they point
    return np.asarray(matrix[rows][:, columns].toarray(), np.float64)


def _check_shape(found: Sequence[int], wanted: tuple[int, int], path: Path) -> None:
    if tuple(map(int, found)) != wanted:
        raise UsageError(
            f"HEST {path}: X is {tuple(map(int, found))}; {wanted[0]} rows of obs and {wanted[1]} of var are named: "
            "fetch it again"
        )

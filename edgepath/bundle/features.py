"""Embeddings to one file, row by row as they are made: `.npz`, `.h5` or `.parquet`.

Every format holds `embeddings`, float32 (N, D), `paths`, N strings in the same order, and the metadata as JSON: member
`metadata` of an `.npz`, attribute `metadata` of an `.h5`, key `edgepath` of a Parquet schema's metadata. An `.h5` (or
`.hdf5`) has the embeddings as `features`, too, and where all places are known `coords`, int64 (N, 2), x and y.

No more than `_BLOCK_BYTES` of rows are held, however many there are. The file is written aside, and renamed when
it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import EdgepathError, MissingRuntime, UsageError
from ..machine.hdf5_writing import new_hdf5
from ..machine.workspace import workspace
from ..machine.writing import disk_full, disk_full_message

Batch = tuple[Sequence[str], np.ndarray]
_BLOCK_BYTES = 4 << 20
HDF5 = (".h5", ".hdf5")
_NEEDS = {".npz": "numpy", ".h5": "h5py", ".hdf5": "h5py", ".parquet": "pyarrow"}


def write_features(
    path: str | Path,
    batches: Iterable[Batch],
    *,
    dim: int,
    count: int,
    metadata: Mapping[str, object],
    force: bool = False,
    coords: Mapping[str, tuple[int, int]] | None = None,
) -> int:
    """Write (keys, embeddings float32 (n, `dim`)) batches to `path`, and return how many rows there were.

    `coords` are places of tiles by key, for HDF5, which holds them where every row has one. `count` is the most rows
    that may come; fewer are fine (tiles that were skipped), none are not. `metadata` is JSON-able. Raises UsageError
    for a suffix that is not known, an output in the way or a full disk, MissingRuntime where the suffix needs a package
    that is not here, EdgepathError naming a tile whose embedding is not finite.
    """
    path = Path(path)
    check_features_path(path, force=force)
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = stack.enter_context(workspace(path)).new
            aside.touch(exist_ok=False)
        except OSError as error:
            raise UsageError(f"features {path}: cannot be written ({error.strerror}: {error.filename})") from error
        try:
            _refuse_too_small_a_disk(path, count * dim * 4)
            blocks, text = _blocks(batches, dim, count), json.dumps(metadata, allow_nan=False)
            if path.suffix.lower() in HDF5:
                rows = _write_h5(aside, blocks, dim, text, coords or {})
            else:
                rows = (_write_npz if path.suffix.lower() == ".npz" else _write_parquet)(aside, blocks, dim, text)
            if not rows:
                raise EdgepathError(f"features {path}: not one tile could be embedded; nothing was written")
            with open(aside, "rb+") as file:
                os.fsync(file.fileno())
            check_features_path(path, force=force)  # again: it may have been written by someone else meanwhile
            os.replace(aside, path)
        except Exception as error:
            if disk_full(error, path.parent):
                written = aside.stat().st_size if aside.exists() else 0
                aside.unlink(missing_ok=True)
                raise UsageError(disk_full_message(path, written)) from error
            raise
    return rows


def check_features_path(path: Path, *, force: bool = False) -> None:
    """Raise UsageError or MissingRuntime where `write_features` could not write to `path`; call it before long work."""
    if path.suffix.lower() not in _NEEDS:
        raise UsageError(f'features {path}: suffix "{path.suffix}" is not known; known: {", ".join(_NEEDS)}')
    package = _NEEDS[path.suffix.lower()]
    if find_spec(package) is None:
        raise MissingRuntime(f"features {path}: {path.suffix} needs {package}; pip install 'edgepath[features]'")
    if path.exists() and not path.is_file():
        raise UsageError(f"features {path}: exists and is not a file; give another name")
    if path.exists() and not force:
        raise UsageError(f"features {path}: exists; give --force to replace it, or another name")


def _refuse_too_small_a_disk(path: Path, need: int) -> None:
    """Say so before hours of embedding, not after; a `.npz` stands twice on the disk while it is put together."""
    need *= 2 if path.suffix.lower() == ".npz" else 1
    free = shutil.disk_usage(path.parent).free
    if need > free:
        raise UsageError(
            f"features {path}: needs about {need / 1e6:.1f} MB, {free / 1e6:.1f} MB are free there; write elsewhere"
        )


def _blocks(batches: Iterable[Batch], dim: int, count: int) -> Iterator[Batch]:
    """Check every batch and join them to blocks: a file of eight rows a chunk would be slow to read."""
    keys: list[str] = []
    parts: list[np.ndarray] = []
    wanted, rows = max(1, _BLOCK_BYTES // (4 * dim)), 0
    for names, embeddings in batches:
        with np.errstate(over="ignore"):  # of a wider type: what float32 cannot hold becomes infinite, and is refused
            narrow = embeddings.astype(np.float32)
        _check(names, narrow, dim)
        rows += len(names)
        if rows > count:
            raise ValueError(f"{count} rows were announced, {rows} came")
        keys += names
        parts.append(narrow)
        if len(keys) >= wanted:
            yield keys, np.concatenate(parts)
            keys, parts = [], []
    if keys:
        yield keys, np.concatenate(parts)


def _check(names: Sequence[str], embeddings: np.ndarray, dim: int) -> None:
    if embeddings.shape != (len(names), dim):
        raise ValueError(f"embeddings of shape {embeddings.shape} for {len(names)} tiles of {dim} numbers")
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise EdgepathError(
            f"features: the embedding of {names[bad[0]]} is not finite (NaN or infinite); "
            "check the bundle with `edgepath verify`"
        )
    for name in names:
        if not name.isascii() and name != name.encode("utf-8", "replace").decode("utf-8"):
            raise EdgepathError(f"features: the name {name!a} is not UTF-8, which every format here wants; rename it")


def _write_h5(
    path: Path, blocks: Iterator[Batch], dim: int, metadata: str, coords: Mapping[str, tuple[int, int]]
) -> int:
    """Write `embeddings` and `paths`; `features`, as slide tools call them, is a second name for the first."""
    import h5py

    rows = 0
    places: list[tuple[int, int]] | None = [] if coords else None
    with new_hdf5(path) as (file, sink):
        chunk = max(1, min(256, _BLOCK_BYTES // (4 * dim)))
        embeddings = file.create_dataset("embeddings", (0, dim), "float32", maxshape=(None, dim), chunks=(chunk, dim))
        paths = file.create_dataset("paths", (0,), h5py.string_dtype(), maxshape=(None,), chunks=(4096,))
        file.attrs["metadata"] = metadata
        for keys, block in blocks:
            embeddings.resize(rows + len(keys), axis=0)
            paths.resize(rows + len(keys), axis=0)
            embeddings[rows:], paths[rows:] = block, np.array(keys, dtype=object)
            rows += len(keys)
            if places is not None:
                part = [coords[key] for key in keys if key in coords]
                places = places + part if len(part) == len(keys) else None
            sink.check()
        file["features"] = embeddings
        if places:
            file.create_dataset("coords", data=np.array(places, np.int64))
    return rows


def _write_parquet(path: Path, blocks: Iterator[Batch], dim: int, metadata: str) -> int:
    import pyarrow
    import pyarrow.parquet

    columns = [("embeddings", pyarrow.list_(pyarrow.float32(), dim)), ("paths", pyarrow.string())]
    schema = pyarrow.schema(columns, metadata={"edgepath": metadata})
    rows = 0
    # A dictionary of floats that never repeat would only cost time.
    with pyarrow.parquet.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for keys, block in blocks:
            vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(block.reshape(-1)), dim)
            writer.write_table(pyarrow.table([vectors, pyarrow.array(keys, pyarrow.string())], schema))
            rows += len(keys)
    return rows


def _write_npz(path: Path, blocks: Iterator[Batch], dim: int, metadata: str) -> int:
    """Gather rows and names in unnamed files, which vanish with the process; their headers need the final numbers."""
    with tempfile.TemporaryFile(dir=path.parent) as floats, tempfile.TemporaryFile(dir=path.parent) as names:
        rows, longest = 0, 1
        for keys, block in blocks:
            floats.write(block.data)
            names.writelines(json.dumps(key).encode() + b"\n" for key in keys)
            rows, longest = rows + len(keys), max(longest, *map(len, keys))
        floats.seek(0)
        names.seek(0)
        text = np.dtype(f"<U{longest}")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            _add(archive, "embeddings", np.dtype("<f4"), (rows, dim), lambda member: shutil.copyfileobj(floats, member))
            _add(archive, "paths", text, (rows,), lambda member: _copy_names(names, member, text))
            with archive.open("metadata.npy", "w") as member:
                np.lib.format.write_array(member, np.array(metadata), allow_pickle=False)
    return rows


def _add(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], fill: Callable[[IO[bytes]], None]
) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        fill(member)


def _copy_names(source: IO[bytes], member: IO[bytes], text: np.dtype[Any]) -> None:
    at_once = max(1, _BLOCK_BYTES // text.itemsize)
    while names := [json.loads(line) for line in islice(source, at_once)]:
        member.write(np.array(names, dtype=text).tobytes())

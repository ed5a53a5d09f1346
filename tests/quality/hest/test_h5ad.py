"""Files written by the anndata package (0.12.19) are read as it reads them; other files are refused in one line."""

from __future__ import annotations

import gzip
from pathlib import Path

import h5py
import numpy as np
import pytest
from benchmark_folder import write_h5ad

from edgepath.errors import UsageError
from edgepath.quality.hest.h5ad import read_expression

WRITTEN = Path(__file__).parent / "h5ad_files"
SPOTS = ["000x1-1", "001x2-1", "002x3-1", "003x4-1", "004x5-1", "005x6-1"]
GENES = ["EPCAM", "ERBB2", "KRT8", "CD3E", "ACTA2"]
COUNTS = np.array(
    [[1, 0, 0, 4, 2], [1, 1, 2, 1, 0], [3, 5, 0, 2, 3], [1, 1, 2, 1, 2], [1, 1, 2, 0, 1], [0, 1, 1, 2, 4]]
)


@pytest.mark.parametrize("kind", ["dense", "csc", "nullable"])  # nullable: CSR, with names that could be missing
def test_files_of_anndata_are_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "sample.h5ad"
    path.write_bytes(gzip.decompress((WRITTEN / f"{kind}.h5ad.gz").read_bytes()))
    found = read_expression(path, SPOTS, GENES)
    assert found.dtype == np.float64
    assert np.array_equal(found, COUNTS)
    some = read_expression(path, [SPOTS[i] for i in (4, 0, 2)], [GENES[i] for i in (3, 0)])
    assert np.array_equal(some, COUNTS[[4, 0, 2]][:, [3, 0]])


@pytest.mark.parametrize(
    ("spots", "genes", "said"),
    [
        (["000x1-1", "9-1", "8-1"], ["EPCAM"], "lacks 2 of 3 barcodes asked for, the first is 9-1"),
        (["000x1-1"], ["EPCAM", "PTEN"], "lacks 1 of 2 genes asked for, the first is PTEN"),
    ],
)
def test_names_that_are_not_there_are_named(spots: list[str], genes: list[str], said: str, tmp_path: Path) -> None:
    write_h5ad(tmp_path / "s.h5ad", COUNTS, SPOTS, GENES)
    with pytest.raises(UsageError, match=said):
        read_expression(tmp_path / "s.h5ad", spots, genes)


def test_a_name_that_is_there_twice_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    write_h5ad(tmp_path / "s.h5ad", COUNTS, SPOTS, ["EPCAM", "ERBB2", "KRT8", "CD3E", "EPCAM"])
    assert np.array_equal(read_expression(tmp_path / "s.h5ad", SPOTS, ["KRT8"]), COUNTS[:, [2]])
    with pytest.raises(UsageError, match="gene EPCAM stands in it twice"):
        read_expression(tmp_path / "s.h5ad", SPOTS, ["EPCAM"])


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5ad").write_text("no HDF5")
    with h5py.File(tmp_path / "empty.h5ad", "w"):
        pass
    write_h5ad(tmp_path / "odd.h5ad", COUNTS, SPOTS, GENES)
    with h5py.File(tmp_path / "odd.h5ad", "a") as file:
        del file["X"]
        file.create_group("X").attrs["encoding-type"] = "awkward-array"
    write_h5ad(tmp_path / "short.h5ad", COUNTS[:3], SPOTS, GENES)
    for name, said in (
        ("text", "cannot be read as AnnData"),
        ("empty", "cannot be read as AnnData"),
        ("odd", "X is awkward-array; a dense matrix, csr_matrix or csc_matrix is needed"),
        ("short", r"X is \(3, 5\); 6 rows of obs and 5 of var are named"),
    ):
        with pytest.raises(UsageError, match=said):
            read_expression(tmp_path / f"{name}.h5ad", SPOTS, GENES)


@pytest.mark.parametrize("kind", ["csc", "nullable"])
@pytest.mark.parametrize(
    ("part", "place", "value"), [("indices", 0, 99), ("indices", 1, -7), ("indptr", 2, 99), ("indptr", -1, 900)]
)
def test_a_wrong_index_of_a_sparse_matrix_is_one_line(
    kind: str, part: str, place: int, value: int, tmp_path: Path
) -> None:
    path = tmp_path / "sample.h5ad"
    path.write_bytes(gzip.decompress((WRITTEN / f"{kind}.h5ad.gz").read_bytes()))
    with h5py.File(path, "a") as file:
        file["X"][part][place] = value
    with pytest.raises(UsageError, match="cannot be read as AnnData"):
        read_expression(path, SPOTS, GENES)


@pytest.mark.parametrize(("kind", "part"), [("csc", "obs"), ("csc", "X/data"), ("csc", "X/indptr"), ("dense", "X")])
def test_a_size_that_the_file_does_not_hold_is_refused_before_memory_is_taken(
    kind: str, part: str, tmp_path: Path
) -> None:
    path = tmp_path / "sample.h5ad"
    path.write_bytes(gzip.decompress((WRITTEN / f"{kind}.h5ad.gz").read_bytes()))
    with h5py.File(path, "a") as file:
        name = f"obs/{file['obs'].attrs['_index']}" if part == "obs" else part
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        # Nothing is ever written: 16 GiB of numbers or more, or 6 x 5 of them that take 1 GiB each.
        wide = part == "X"
        file.create_dataset(
            name, shape if wide else 2**32, f"V{2**30}" if wide else dtype, chunks=None if wide else (8,)
        )
    with pytest.raises(UsageError, match=rf"/{name} declares \d+ bytes, of which the file holds 0\); fetch it again"):
        read_expression(path, SPOTS, GENES)


def test_a_file_that_hdf5_does_not_come_to_an_end_with_is_refused(tmp_path: Path) -> None:
    # Damaged by a seed of tests/fuzz: its library (2.0) loops in the heap of an attribute's text.
    path = tmp_path / "sample.h5ad"
    path.write_bytes(gzip.decompress((WRITTEN / "endless.h5.gz").read_bytes()))
    with pytest.raises(UsageError, match=r"cannot be read as AnnData \(HDF5's library ends with signal"):
        read_expression(path, SPOTS, GENES)

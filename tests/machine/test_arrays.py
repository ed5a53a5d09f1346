"""NumPy's files are read as they declare themselves, when the file can hold that, and refused in one line else."""

from __future__ import annotations

import io
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgepath.machine.arrays import map_npy, read_npz

ARRAYS = {
    "floats": np.arange(12, dtype=np.float32).reshape(3, 4),
    "columns": np.asfortranarray(np.arange(12, dtype="<i8").reshape(3, 4)),
    "scalar": np.float64(2.5),
    "text": np.array(["a", "längste"]),
    "one text": np.array('{"a": 1}'),
    "empty": np.empty((0, 5), np.uint8),
    "truth": np.array([True, False]),
    "big-endian": np.arange(3, dtype=">f2"),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_are_read_as_numpy_reads_them(save: object) -> None:
    file = io.BytesIO()
    save(file, **ARRAYS)  # type: ignore[operator]
    found = read_npz(file)
    assert found.keys() == ARRAYS.keys()
    for name, values in ARRAYS.items():
        assert found[name].dtype == np.asarray(values).dtype
        assert np.array_equal(found[name], values)
        assert found[name].shape == np.shape(values)
    assert read_npz(file, ["text"]).keys() == {"text"}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_mapped_as_numpy_maps_them(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "a.npy", ARRAYS[name])
    found = map_npy(tmp_path / "a.npy")
    assert found.dtype == np.asarray(ARRAYS[name]).dtype
    assert np.array_equal(found, ARRAYS[name])


def npy(descr: str, shape: str, data: bytes = b"", order: str = "False") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    header += b" " * (64 - (len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


BAD = {
    "2^60 rows": (npy("'<f4'", f"({1 << 60},)", bytes(16)), "declares .* bytes and holds"),
    "no item": (npy("'<U0'", f"({1 << 60},)"), "it is <U0"),
    "objects": (npy("'|O'", "(1,)", bytes(8)), "none of a plain array"),
    "fields": (npy("[('a', '<f4')]", "(1,)", bytes(4)), "none of a plain array"),
    "no type": (npy("'<f3'", "(1,)", bytes(3)), "type <f3"),
    "negative": (npy("'<f4'", "(-1,)", bytes(4)), "none of a plain array"),
    "Python": (npy("'<f4'", "(__import__('os'),)", bytes(4)), "none of a plain array"),
    "deep": (npy("'<f4'", "(" * 3000), "none of a plain array"),
    "dimensions": (npy("'<f4'", "(" + "1, " * 40 + ")", bytes(4)), "40 dimensions"),
    "cut off": (npy("'<f4'", "(2,)", bytes(7)), "declares 8 bytes and holds"),
    "empty": (b"", "no NumPy array"),
    "something else": (b"hello" * 9, "no NumPy array"),
}


@pytest.mark.parametrize("name", BAD)
def test_arrays_that_are_none_are_refused(tmp_path: Path, name: str) -> None:
    raw, said = BAD[name]
    (tmp_path / "a.npy").write_bytes(raw)
    with pytest.raises(ValueError, match=said):
        map_npy(tmp_path / "a.npy")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", raw)
    with pytest.raises(ValueError, match=said):
        read_npz(file)


def test_archive_for_an_array_and_an_array_for_an_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.arange(3))
    with pytest.raises(ValueError, match="an archive of arrays, not an array"):
        map_npy(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="not a zip file"):
        read_npz(io.BytesIO(npy("'<f4'", "(1,)", bytes(4))))
    with pytest.raises(ValueError, match="No such file"):
        map_npy(tmp_path / "nowhere.npy")
    with pytest.raises(ValueError, match="it holds no b"):
        read_npz(io.BytesIO((tmp_path / "a.npz").read_bytes()), ["b"])


def archive_of(raw: bytes) -> bytearray:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", raw)
    return bytearray(file.getvalue())


def test_zeros_without_end_take_no_memory() -> None:
    raw = archive_of(npy("'<f4'", f"({1 << 24},)", bytes(1 << 26)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="are read at most"):
        read_npz(io.BytesIO(raw), largest=1 << 20)
    at = raw.index(b"PK\x01\x02") + 24
    raw[at : at + 4] = (0xFFFFFFF0).to_bytes(4, "little")  # the directory says 4 GB
    with pytest.raises(ValueError, match="declares 4294967280 bytes, of which"):
        read_npz(io.BytesIO(raw))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KiB


@pytest.mark.parametrize("place", ["encrypted", "check sum", "method"])
def test_damaged_archives_are_refused(place: str) -> None:
    raw = archive_of(npy("'<f4'", "(4,)", bytes(range(16))))
    local, central = raw.index(b"PK\x03\x04"), raw.index(b"PK\x01\x02")
    if place == "encrypted":
        raw[local + 6] |= 1
        raw[central + 8] |= 1
    elif place == "check sum":
        raw[local + 14] ^= 1
        raw[central + 16] ^= 1
    else:
        raw[local + 8] = raw[central + 10] = 99
    with pytest.raises(ValueError, match=r"encrypted|CRC|compression"):
        read_npz(io.BytesIO(raw))

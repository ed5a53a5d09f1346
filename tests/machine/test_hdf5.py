"""An HDF5 file reads itself and nothing else, and no more than it holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepath.machine.hdf5 import dataset, texts

h5py = pytest.importorskip("h5py")


def external(file: Any, secret: Path) -> None:
    file.create_dataset("x", (6,), "u1", external=[(str(secret), 0, 6)])


def linked(file: Any, secret: Path) -> None:
    file["x"] = h5py.ExternalLink(secret.with_name("other.h5"), "x")


def linked_twice(file: Any, secret: Path) -> None:
    file["y"] = h5py.ExternalLink(secret.with_name("other.h5"), "/")
    file["x"] = h5py.SoftLink("/y/x")


def virtual(file: Any, secret: Path) -> None:
    layout = h5py.VirtualLayout((3,), "u1")
    layout[:] = h5py.VirtualSource(secret.with_name("other.h5"), "x", (3,))
    file.create_virtual_dataset("x", layout)


def unwritten(file: Any, secret: Path) -> None:
    file.create_dataset("x", (1 << 31,), "u1", chunks=(1 << 20,))


def packed(file: Any, secret: Path) -> None:
    file.create_dataset("x", data=np.zeros(1 << 27, np.uint8), chunks=(1 << 26,), compression="gzip")


def one_chunk(file: Any, secret: Path) -> None:
    file.create_dataset("x", (1,), "u1", maxshape=(None,), chunks=((1 << 32) - 1,))


def group(file: Any, secret: Path) -> None:
    file.create_group("x")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (external, "other files than its own"),
        (linked, "a link to another file"),
        (linked_twice, "a link to another file"),
        (virtual, "other files than its own"),
        (unwritten, "declares 2147483648 bytes"),
        (packed, "declares 134217728 bytes"),
        (one_chunk, "declares 1 bytes, of which the file holds 0"),
        (group, "a dataset is needed"),
    ],
)
def test_what_is_not_in_the_file_is_not_read(tmp_path: Path, make: Callable[[Any, Path], None], said: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.arange(3, dtype=np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        make(file, tmp_path / "secret")
    with h5py.File(tmp_path / "a.h5") as file, pytest.raises((OSError, TypeError), match=said):
        dataset(file, "x")


def test_what_is_in_the_file_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["group/x"] = ["a", "bä"]
        file["link"] = h5py.SoftLink("/group")
        file.create_dataset("zeros", data=np.zeros(1 << 20), compression="gzip")
    with h5py.File(tmp_path / "a.h5") as file:
        assert list(texts(dataset(file, "group/x"))) == list(texts(dataset(file, "link/x"))) == [["a", "bä"]]
        assert not dataset(file, "zeros")[:].any()
        with pytest.raises(KeyError):
            dataset(file, "y")


def test_one_long_text_named_often_takes_no_memory(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        values = file.create_dataset("x", (1000,), h5py.string_dtype())
        values[:] = ["a" * (1 << 20)] * 64 + [""] * 936
    with h5py.File(tmp_path / "a.h5") as file:
        assert sum(len("".join(part)) for part in texts(file["x"])) == 64 << 20
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["x"][99] = "one more"
    with h5py.File(tmp_path / "a.h5") as file, pytest.raises(OSError, match="letters"):
        list(texts(file["x"]))

"""NumPy's files from strangers: what an array declares is held against its file before memory is taken for it.

Headers are parsed as NumPy writes them (NEP 1), not evaluated; types are plain numbers, truth values and text.
"""

from __future__ import annotations

import math
import os
import re
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ..errors import first_line

LARGEST = 1 << 30  # bytes of all arrays read out of one archive
_DEFLATE = 1032  # bytes that one byte of a deflated member holds at most (zlib's technical details)
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '([<>|=]?[biufU]\d{1,9})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,20}, ?)*(?:\d{1,20})?)\),? ?\} *\n"
)


class _Declared(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    columns: bool  # Fortran's order
    start: int

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_npz(file: IO[bytes], names: Collection[str] = (), *, largest: int = LARGEST) -> dict[str, np.ndarray]:
    """Return the arrays of an `.npz`, those of `names` or all of them. Raises ValueError, saying what is wrong."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if missing := sorted(set(names) - members.keys()):
                raise ValueError(f"it holds no {missing[0]}")
            chosen = {name: members[name] for name in (names or members)}
            _check_sizes(list(chosen.values()), largest)
            return {name: _read(archive, info) for name, info in chosen.items()}
    except ValueError:
        raise
    except Exception as error:  # zip, its decompressors and the file each have errors of their own for damaged bytes
        raise ValueError(first_line(error)) from None


def map_npy(path: Path) -> np.ndarray:
    """Return the array in a `.npy` file, mapped, not read. Raises ValueError for a file that holds none."""
    try:
        with open(path, "rb") as file:
            declared = _header(file)
            held = os.fstat(file.fileno()).st_size - declared.start
        if declared.size > held:
            raise ValueError(f"it declares {declared.size} bytes and holds {held}")
        if not declared.size:
            return np.empty(declared.shape, declared.dtype)
        order: Any = "F" if declared.columns else "C"
        return np.memmap(path, declared.dtype, "r", declared.start, declared.shape, order)
    except OSError as error:
        raise ValueError(error.strerror or first_line(error)) from None


def _check_sizes(members: list[zipfile.ZipInfo], largest: int) -> None:
    for info in members:
        if info.flag_bits & 1:
            raise ValueError(f"{info.filename!a} is encrypted")
        if info.file_size > _DEFLATE * info.compress_size:
            held = info.compress_size
            raise ValueError(f"{info.filename!a} declares {info.file_size} bytes, of which {held} are there")
    if (total := sum(info.file_size for info in members)) > largest:
        raise ValueError(f"its arrays have {total} bytes; {largest} are read at most")


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        declared = _header(member)
        if declared.start + declared.size != info.file_size:
            raise ValueError(f"{info.filename!a} declares {declared.size} bytes and holds {info.file_size}")
        flat = np.empty(math.prod(declared.shape), declared.dtype)
        rest = flat.view(np.uint8).data
        while len(rest):
            if not (part := member.read(min(len(rest), 1 << 20))):
                raise ValueError(f"{info.filename!a} ends early")
            rest[: len(part)] = part
            rest = rest[len(part) :]
        member.read(1)  # its check sum is looked at when nothing is left
    if declared.dtype.kind == "U" and flat.size and flat.view(f"{declared.dtype.byteorder}u4").max() > 0x10FFFF:
        raise ValueError(f"{info.filename!a} holds what is no text")
    return flat.reshape(declared.shape, order="F" if declared.columns else "C")


def _header(file: IO[bytes]) -> _Declared:
    start = file.read(len(_MAGIC) + 2)
    size = int.from_bytes(start[-2:], "little")
    if len(start) < len(_MAGIC) + 2 or not start.startswith(_MAGIC):
        raise ValueError("an archive of arrays, not an array" if start.startswith(b"PK") else "it is no NumPy array")
    match = _HEADER.fullmatch(file.read(size))
    if not match:
        raise ValueError("its header is none of a plain array")
    try:
        dtype = np.dtype(match[1].decode())
    except TypeError:
        raise ValueError(f"it holds numbers of a type {match[1].decode()}") from None
    shape = tuple(int(side) for side in re.findall(rb"\d+", match[3]))
    if not dtype.itemsize or len(shape) > 32:
        raise ValueError(f"it is {dtype} in {len(shape)} dimensions")
    return _Declared(dtype, shape, match[2] == b"True", len(start) + size)

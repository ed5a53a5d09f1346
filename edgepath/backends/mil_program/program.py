"""A saved `.mlpackage` as a small value: its operations, inputs, outputs and constants, read from disk.

The specification is a protobuf (`Model.proto`, `MIL.proto`; their classes come with coremltools); weights lie in a file
beside it, and only their headers are coremltools' format (MILBlob/Blob/StorageFormat.hpp): read here without it.
"""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...errors import BundleError
from ...machine.tables import read_json

# MIL.proto's DataType by number: our name, NumPy's dtype of one element (of its container where elements are packed),
# bits of an element. The names are those MIL itself uses in `cast` and `quantize`.
_TYPES: dict[int, tuple[str, str, int]] = {
    1: ("bool", "?", 8),
    2: ("string", "U", 0),
    10: ("fp16", "<f2", 16),
    11: ("fp32", "<f4", 32),
    12: ("fp64", "<f8", 64),
    21: ("int8", "i1", 8),
    22: ("int16", "<i2", 16),
    23: ("int32", "<i4", 32),
    24: ("int64", "<i8", 64),
    25: ("int4", "i1", 4),
    31: ("uint8", "u1", 8),
    32: ("uint16", "<u2", 16),
    33: ("uint32", "<u4", 32),
    35: ("uint4", "u1", 4),
    36: ("uint2", "u1", 2),
    37: ("uint1", "u1", 1),
    38: ("uint6", "u1", 6),
    39: ("uint3", "u1", 3),
}
_DTYPES = {name: (dtype, bits) for name, dtype, bits in _TYPES.values()}
# MILBlob's BlobDataType; the writer that comes with coremltools is what a test compares it with.
_BLOB_TYPES = dict(
    enumerate(
        (
            *("fp16", "fp32", "uint8", "int8", "bf16", "int16", "uint16", "int4", "uint1", "uint2", "uint4", "uint3"),
            *("uint6", "int32", "uint32"),
        ),
        start=1,
    )
)
_BLOB_HEADER = struct.Struct("<IIQQ")  # sentinel, type, bytes, offset of the data
_BLOB_SENTINEL = 0xDEADBEEF
_MODEL_PATH = "@model_path/"
_LARGEST_MANIFEST = 1 << 20


@dataclass(frozen=True)
class Type:
    """What a value is declared as: `dtype` in MIL's words (`fp16`, `int8`, `string`), `shape` with () for a scalar."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Constant:
    """A constant of the program, its value not read yet: from `file` at `offset`, or else from the specification."""

    type: Type
    where: str
    value: Any = None
    file: Path | None = None
    offset: int = 0

    def read(self) -> np.ndarray | str:
        """Return the value: an array of the declared shape (elements of under 8 bits one a byte), or a text.

        Raises BundleError where the weights file holds something else than the specification declares.
        """
        if self.file is None:
            return _immediate(self.value, self.type, self.where)
        return _blob(self.file, self.offset, self.type, self.where)


@dataclass(frozen=True)
class Operation:
    """One step: `inputs` by parameter, each the names of values; `outputs` by name, with what they are declared as."""

    kind: str
    place: int
    inputs: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, Type]

    @property
    def name(self) -> str:
        return next(iter(self.outputs), "no name")


@dataclass(frozen=True)
class Program:
    """The `main` function of an ML program. `size` is the side of the square RGB image it takes as `image`."""

    path: Path
    image: str
    size: int
    inputs: Mapping[str, Type]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]
    constants: Mapping[str, Constant]

    def where(self, operation: Operation) -> str:
        """Name an operation for an error: its kind, its output and its place."""
        place = f"operation {operation.place} of {len(self.operations)}"
        return f'{self.path.name}: "{operation.kind}" ({operation.name}, {place})'

    @cached_property
    def made_by(self) -> Mapping[str, Operation]:
        """The operation that makes each value; constants and inputs are made by none."""
        return {name: operation for operation in self.operations for name in operation.outputs}


def load_program(path: Path) -> Program:
    """Read a package from disk; weights are read when they are asked for.

    Raises BundleError, naming the first thing that is wrong, for what is no ML program with one square RGB image.
    """
    from google.protobuf.message import DecodeError

    spec = _protobuf().Model()
    model = _model_file(path)
    try:
        spec.ParseFromString(model.read_bytes())
    except (OSError, DecodeError) as error:
        raise BundleError(f"{path.name}: its specification cannot be read ({error})") from error
    if spec.WhichOneof("Type") != "mlProgram" or "main" not in spec.mlProgram.functions:
        raise BundleError(f"{path.name}: is no ML program with a function main")
    image, size = _image(spec, path)
    function = spec.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    operations, constants = _operations(block, path, model.parent)
    return Program(
        path=path,
        image=image,
        size=size,
        inputs={value.name: _type(value.type, f"{path.name}: {value.name}") for value in function.inputs},
        outputs=tuple(block.outputs),
        operations=operations,
        constants=constants,
    )


def _protobuf() -> Any:
    """Import the specification's classes; coremltools tells whoever imports it without a Mac what it cannot do."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        from coremltools.proto import Model_pb2
    finally:
        logging.disable(before)
    return Model_pb2


def _model_file(path: Path) -> Path:
    """Return the specification's file, as the package's manifest names it."""
    try:
        manifest = read_json(path / "Manifest.json", _LARGEST_MANIFEST)
        item = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise BundleError(f"{path.name}: is no Core ML package (Manifest.json: {error!r})") from error
    return _inside(path / "Data", str(item), path.name)


def _inside(folder: Path, name: str, who: str) -> Path:
    plain = PurePosixPath(name)
    if plain.is_absolute() or ".." in plain.parts or "\0" in name:
        raise BundleError(f"{who}: {name!r} leads out of the package")
    return folder / plain


def _image(spec: Any, path: Path) -> tuple[str, int]:
    """Return the name and the side of the one image input; its pixels reach the program as 0..255, (1, 3, S, S)."""
    (given, *others) = spec.description.input or [None]
    kind = given.type.imageType if given is not None and given.type.WhichOneof("Type") == "imageType" else None
    if kind is None or others or kind.colorSpace != kind.ColorSpace.Value("RGB") or kind.width != kind.height:
        raise BundleError(
            f"{path.name}: needs one input, a square RGB image; found {[i.name for i in spec.description.input]}"
        )
    return str(given.name), int(kind.width)


def _operations(block: Any, path: Path, folder: Path) -> tuple[tuple[Operation, ...], dict[str, Constant]]:
    """Part a block into what is computed and what is constant; those inside an operation get a name of their own."""
    constants: dict[str, Constant] = {}
    operations: list[Operation] = []
    for given in block.operations:
        where = f'{path.name}: "{given.type}" ({given.outputs[0].name if given.outputs else "no output"})'
        if given.blocks:
            raise BundleError(f"{where} has blocks of its own; control flow is not evaluated")
        if given.type == "const":
            constants[given.outputs[0].name] = _constant(given.attributes["val"], where, folder)
            continue
        inputs = {}
        for parameter, argument in given.inputs.items():
            names = []
            for index, binding in enumerate(argument.arguments):
                name = binding.name
                if binding.WhichOneof("binding") == "value":
                    name = f"{given.outputs[0].name}/{parameter}/{index}"
                    constants[name] = _constant(binding.value, f"{where}, {parameter}", folder)
                names.append(name)
            inputs[parameter] = tuple(names)
        outputs = {value.name: _type(value.type, where) for value in given.outputs}
        operations.append(Operation(given.type, len(operations) + 1, inputs, outputs))
    return tuple(operations), constants


def _constant(value: Any, where: str, folder: Path) -> Constant:
    kind = _type(value.type, where)
    if value.WhichOneof("value") == "immediateValue":
        return Constant(kind, where, value=value.immediateValue)
    blob = value.blobFileValue
    if not blob.fileName.startswith(_MODEL_PATH):
        raise BundleError(f"{where}: its weights lie in {blob.fileName!r}; {_MODEL_PATH}... was expected")
    file = _inside(folder, blob.fileName[len(_MODEL_PATH) :], where)
    return Constant(kind, where, file=file, offset=int(blob.offset))


def _type(value: Any, where: str) -> Type:
    tensor = value.tensorType
    if value.WhichOneof("type") != "tensorType" or tensor.dataType not in _TYPES:
        raise BundleError(f"{where}: is of a type that is not evaluated ({value.WhichOneof('type')} {tensor.dataType})")
    if any(dimension.WhichOneof("dimension") != "constant" for dimension in tensor.dimensions):
        raise BundleError(f"{where}: has a flexible shape; fixed shapes are evaluated")
    return Type(_TYPES[tensor.dataType][0], tuple(int(dimension.constant.size) for dimension in tensor.dimensions))


def _immediate(value: Any, kind: Type, where: str) -> np.ndarray | str:
    field = value.tensor.WhichOneof("value") if value.WhichOneof("value") == "tensor" else None
    if field is None:
        raise BundleError(f"{where}: holds a {value.WhichOneof('value')}; a tensor was expected")
    content = getattr(value.tensor, field).values
    if kind.dtype == "string":
        return str(content[0])
    dtype, bits = _DTYPES[kind.dtype]
    flat = _elements(content, kind, bits) if field == "bytes" else np.array(content, dtype)
    return _shaped(flat, kind, where)


def _blob(file: Path, offset: int, kind: Type, where: str) -> np.ndarray:
    _, bits = _DTYPES[kind.dtype]
    try:
        with open(file, "rb") as data:
            data.seek(offset)
            sentinel, number, size, start = _BLOB_HEADER.unpack(data.read(_BLOB_HEADER.size))
            stored, wanted = _BLOB_TYPES.get(number, f"type {number}"), math.ceil(math.prod(kind.shape) * bits / 8)
            if sentinel != _BLOB_SENTINEL or (stored, size) != (kind.dtype, wanted):
                raise BundleError(
                    f"{where}: {file.name} at {offset} holds {size} bytes of {stored}; "
                    f"{wanted} bytes of {kind.dtype} {kind.shape} were expected"
                )
            data.seek(start)
            content = data.read(size)
    except (OSError, struct.error, ValueError, OverflowError) as error:  # the last two: no file has such an offset
        raise BundleError(f"{where}: {file.name} at {offset} cannot be read ({error})") from error
    if len(content) != size:
        raise BundleError(f"{where}: {file.name} ends at {start + len(content)}, in the middle of a weight")
    return _shaped(_elements(content, kind, bits), kind, where)


def _elements(content: bytes, kind: Type, bits: int) -> np.ndarray:
    """Return the elements of packed bytes, the first element in the lowest bits, as MIL packs them."""
    if bits >= 8:
        return np.frombuffer(content, _DTYPES[kind.dtype][0])
    ones = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")[: math.prod(kind.shape) * bits]
    values = ones.reshape(-1, bits).astype(np.int16) @ (1 << np.arange(bits, dtype=np.int16))
    if not kind.dtype.startswith("u"):
        values = np.where(values >= 1 << (bits - 1), values - (1 << bits), values)
    unpacked: np.ndarray = values.astype(_DTYPES[kind.dtype][0])
    return unpacked


def _shaped(flat: np.ndarray, kind: Type, where: str) -> np.ndarray:
    if flat.size != math.prod(kind.shape):
        raise BundleError(f"{where}: holds {flat.size} values; its shape {kind.shape} needs {math.prod(kind.shape)}")
    return flat.reshape(kind.shape)

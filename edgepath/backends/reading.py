"""An artifact's files read back, whatever backend built them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..machine.packages import require
from .backend import Builds, builds_of, every
from .contents import Layer, Parts, Product


def require_reader(artifact: Path, backend: str = "") -> None:
    """Raise MissingRuntime unless what reads an artifact's files is here."""
    require(*_reader(artifact, backend).reads_with)


def read_parts(artifact: Path, backend: str = "") -> Parts:
    """Return the contents of an artifact's files. Raises BundleError for what cannot be read."""
    require_reader(artifact, backend)
    return _reader(artifact, backend).read(artifact)


def read_layers(artifact: Path, backend: str = "") -> Mapping[int, Layer]:
    """Return the quantized layers of an artifact, each to be run alone, by their place among its products."""
    return _reader(artifact, backend).layers(artifact)


def missing_from_engine(artifact: Path, products: Mapping[str, Product]) -> list[str]:
    """Return the names of quantized products whose integers an engine beside `artifact` does not hold.

    The format of TensorRT-RTX's engines is not documented; weights stand in it as bytes. TensorRT-RTX 1.6.1 and 1.7.1
    keep those of INT8 products as the graph has them, row by row, (in, out) in an ONNX graph and (out, in) in an
    exported program, and rearrange some of FP16, so only integers are looked for. What the engine does with them, and
    all scales, are not seen: they are checked in the graph beside it.
    """
    engine = artifact.with_suffix(".engine")
    if not engine.exists():
        return []
    data = engine.read_bytes()
    return [
        name
        for name, product in products.items()
        if product.scale is not None and not any(rows.tobytes() in data for rows in (product.weight.T, product.weight))
    ]


def _reader(artifact: Path, backend: str) -> Builds:
    """Return what reads an artifact: the backend that built it or, where none is named, all that build such files."""
    if backend:
        return builds_of(backend)
    readers = [
        candidate.builds
        for candidate in every()
        if candidate.builds is not None and candidate.builds.suffix == artifact.suffix
    ]
    if not readers:
        raise ValueError(f"{artifact}: no backend writes such files")
    if len({(reader.read, reader.layers) for reader in readers}) > 1:
        raise ValueError(f"{artifact}: several backends write such files, and read them each in its own way; name one")
    return readers[0]

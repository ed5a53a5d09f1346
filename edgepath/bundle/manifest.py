"""`bundle.json`: read, parsed and checked before anything else of a bundle is believed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypedDict

from msgspec import Meta

from ..errors import BundleError
from ..machine.tables import Line, parse_json, plain, read_facts, shown
from .drift import Drift

SCHEMA = 1
MANIFEST = "bundle.json"
_LARGEST_MANIFEST = 64 << 20
AboveZero = Annotated[int, Meta(ge=1, description="a number above 0 is needed")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="expected a sha256, 64 hexadecimal digits")]


class FileEntry(TypedDict):
    """What a manifest says of a file."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Contract:
    """What goes in, RGB tiles of `size` x `size`, and what comes out: `dim` numbers, and patch tokens if `tokens`."""

    size: AboveZero
    embedding: Literal["cls", "cls+mean"]
    dim: AboveZero
    tokens: bool


@dataclass(frozen=True)
class WeightsUsed:
    """The weights that the bundle was made from."""

    source: str
    sha256: Sha256
    random: bool


@dataclass(frozen=True)
class Contents:
    """What running, verifying and rebuilding a bundle need of its manifest; what else that holds is for people.

    `file` is the artifact, `held_out` names the golden tiles, `program` has the scales of each INT8 layer;
    `noise_floor` is how far the program lies from itself on nudged tiles.
    """

    name: Annotated[str, Meta(pattern=r"^[\w.:@+-]+\Z", description="it names a folder: letters, digits, . _ -")]
    model: Line
    target: Line
    backend: Line
    file: str
    contract: Contract
    weights: WeightsUsed
    held_out: tuple[str, ...]
    program: dict[str, tuple[float, ...]]
    noise_floor: Drift
    cautions: tuple[Line, ...]


_PLACES = {
    "model": "model.name",
    "target": "recipe.target",
    "backend": "recipe.backend",
    "file": "artifact.file",
    "held_out": "held_out.keys",
    "noise_floor": "drift.noise_floor",
}


def read_manifest(path: Path) -> bytes:
    """Return a bundle's manifest as it lies on disk. Raises BundleError, saying what the folder is instead."""
    manifest = path / MANIFEST
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "no such folder"
        raise BundleError(f"bundle {path}: {what}; give the folder that holds {MANIFEST}")
    if not os.path.lexists(manifest):
        raise BundleError(f"bundle {path}: holds no {MANIFEST}; {_what_then(path)}")
    if manifest.is_symlink() and "blobs" in Path(os.readlink(manifest)).parts:
        how = f"copy it out of there with `cp -rL {path} FOLDER`, and give the copy"
        raise BundleError(f"bundle {path}: {MANIFEST} is a symbolic link, it lies in the Hub's cache: {how}")
    if manifest.is_symlink() or not manifest.is_file():
        raise BundleError(f"bundle {path}: {MANIFEST} is not a regular file")
    if manifest.stat().st_size > _LARGEST_MANIFEST:
        raise BundleError(f"bundle {path}: {MANIFEST} has more than {_LARGEST_MANIFEST} bytes; that is no manifest")
    return manifest.read_bytes()


def _what_then(path: Path) -> str:
    inside = sorted(entry.parent.name for entry in path.glob(f"*/{MANIFEST}"))
    if inside:
        return f"it is a folder of bundles: give one of {', '.join(inside[:3])}"
    if (path / "pack.toml").exists():
        return "it is a calibration pack"
    names = sorted(entry.name for entry in path.iterdir())
    return f"found {', '.join(names[:3])}{' and more' * (len(names) > 3)}" if names else "it is empty"


def parse(raw: bytes, who: str) -> dict[str, Any]:
    """Parse a manifest and check the part that does not depend on what the bundle is for: schema and files."""
    try:
        manifest = parse_json(raw)
    except ValueError as error:
        raise BundleError(f"{who}: {MANIFEST} is not valid JSON ({error})") from None
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if type(schema) is not int or schema != SCHEMA:
        newer = "; a newer edgepath wrote it: update" if isinstance(schema, int) and schema > SCHEMA else ""
        raise BundleError(f"{who}: schema = {shown(schema)}; this edgepath reads schema {SCHEMA}{newer}")
    if not isinstance(manifest.get("files"), dict):
        raise BundleError(f"{who}: {MANIFEST} lists no files")
    for name, entry in manifest["files"].items():
        check_name(name, who)
        ok = isinstance(entry, dict) and entry.keys() == {"sha256", "size_bytes"} and type(entry["size_bytes"]) is int
        if not ok or not re.fullmatch("[0-9a-f]{64}", str(entry["sha256"])):
            raise BundleError(f"{who}: {MANIFEST}: files.{plain(name)} needs sha256 and size_bytes, nothing else")
    return dict(manifest)


def contents(manifest: Mapping[str, Any], who: str) -> Contents:
    """Return what a manifest says; BundleError where it lacks what running and verifying a bundle needs."""
    facts = read_facts(Contents, manifest, lambda problem: BundleError(f"{who}: {MANIFEST}: {problem}"), _PLACES)
    if not any(name == facts.file or name.startswith(f"{facts.file}/") for name in manifest["files"]):
        raise BundleError(f"{who}: {MANIFEST}: its artifact {plain(facts.file)} is not among its files")
    return facts


def check_name(name: str, who: str) -> None:
    """Refuse what could lead out of the folder, on any system, or stand for the manifest itself."""
    plain = PurePosixPath(name)
    strange = re.search(r'[\\:*?"<>|\x00-\x1f]', name) or ".." in plain.parts or plain.is_absolute()
    if strange or str(plain) != name or name in (".", MANIFEST):
        raise BundleError(f"{who}: {shown(name)} is not a name for a file in a bundle")

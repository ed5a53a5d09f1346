"""`bundle.json`: read, parsed and checked before anything else of a bundle is believed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import BundleError

SCHEMA = 1
MANIFEST = "bundle.json"
_LARGEST_MANIFEST = 64 << 20
_NEEDED = {
    "name": str,
    "model.name": str,
    "recipe.target": str,
    "recipe.backend": str,
    "artifact.file": str,
    "contract.size": int,
    "contract.dim": int,
    "contract.tokens": bool,
    "contract.embedding": str,
    "weights.source": str,
    "weights.sha256": str,
    "weights.random": bool,
    "held_out.keys": list,
    "program": dict,
    "drift.noise_floor.cosine_mean": float,
    "drift.noise_floor.cosine_p01": float,
    "cautions": list,
}


def read_manifest(path: Path) -> bytes:
    """Return a bundle's manifest as it lies on disk. Raises BundleError, saying what the folder is instead."""
    manifest = path / MANIFEST
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "no such folder"
        raise BundleError(f"bundle {path}: {what}; give the folder that holds {MANIFEST}")
    if not os.path.lexists(manifest):
        raise BundleError(f"bundle {path}: holds no {MANIFEST}; {_what_then(path)}")
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

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(keys := {key for key, _ in pairs}) < len(pairs):
            raise ValueError(f"a key stands twice among {', '.join(sorted(keys))[:80]}")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        manifest = json.loads(raw.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{who}: {MANIFEST} is not valid JSON ({error})") from None
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if type(schema) is not int or schema != SCHEMA:
        newer = "; a newer edgepath wrote it: update" if isinstance(schema, int) and schema > SCHEMA else ""
        raise BundleError(f"{who}: schema = {schema!r}; this edgepath reads schema {SCHEMA}{newer}")
    if not isinstance(manifest.get("files"), dict):
        raise BundleError(f"{who}: {MANIFEST} lists no files")
    for name, entry in manifest["files"].items():
        check_name(name, who)
        ok = isinstance(entry, dict) and entry.keys() == {"sha256", "size_bytes"} and type(entry["size_bytes"]) is int
        if not ok or not re.fullmatch("[0-9a-f]{64}", str(entry["sha256"])):
            raise BundleError(f"{who}: {MANIFEST}: files.{name} needs sha256 and size_bytes, nothing else")
    return dict(manifest)


def check_contents(manifest: Mapping[str, Any], who: str) -> None:
    """Raise BundleError for a manifest without what running and verifying a bundle needs."""
    for dotted, kind in _NEEDED.items():
        value: Any = manifest
        for key in dotted.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if type(value) is not kind:
            raise BundleError(f"{who}: {MANIFEST}: {dotted} = {value!r}; expected {kind.__name__}")
    if not re.fullmatch(r"[\w.:@+-]+", manifest["name"]):
        raise BundleError(f"{who}: {MANIFEST}: name = {manifest['name']!r}; it names a folder: letters, digits, . _ -")
    if manifest["contract"]["dim"] < 1 or manifest["contract"]["size"] < 1:
        raise BundleError(f"{who}: {MANIFEST}: contract.size and contract.dim are numbers above 0")
    artifact = manifest["artifact"]["file"]
    if not any(name == artifact or name.startswith(f"{artifact}/") for name in manifest["files"]):
        raise BundleError(f"{who}: {MANIFEST}: its artifact {artifact} is not among its files")


def check_name(name: str, who: str) -> None:
    """Refuse what could lead out of the folder, on any system, or stand for the manifest itself."""
    plain = PurePosixPath(name)
    strange = re.search(r'[\\:*?"<>|\x00-\x1f]', name) or ".." in plain.parts or plain.is_absolute()
    if strange or str(plain) != name or name in (".", MANIFEST):
        raise BundleError(f"{who}: {name!r} is not a name for a file in a bundle")

"""Bundles: a folder with an artifact, its golden tiles and its device kit; `bundle.json` holds the hash of every file.

Nothing of a bundle is loaded before its manifest and every hash were checked, and that nothing else lies in the folder.
"""

from __future__ import annotations

import csv
import hashlib
import inspect
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .. import backends
from ..errors import BundleError, EdgepathError, MissingRuntime, UsageError
from ..machine.packages import pip_install
from ..machine.tables import plain
from ..machine.writing import put_back
from ..recipes.recipe import Recipe
from ..tiles.source import TileSource
from .manifest import MANIFEST, Contents, contents, parse, read_manifest


class Runner(Protocol):
    """What runs an artifact: a context manager and a callable, `uint8 (N, S, S, 3) -> float32 (N, D)`."""

    runtime: str
    size: int

    def __call__(self, tiles: np.ndarray) -> np.ndarray: ...
    def outputs(self, tiles: np.ndarray) -> Mapping[str, np.ndarray]: ...
    def __enter__(self) -> Runner: ...
    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True)
class Bundle(Contents):
    """An opened bundle: what its manifest says, its folder, and the sha256 of `bundle.json`, so of everything in it."""

    path: Path
    manifest: Mapping[str, Any]
    digest: str

    @property
    def recipe(self) -> Recipe:
        """The recipe it was made by. Raises RecipeError for one that this edgepath cannot read."""
        return Recipe.from_json(self.manifest["recipe"])

    @property
    def artifact(self) -> Path:
        """The file (or, for Core ML, the folder) that the backend's runner loads."""
        return self.path / self.file

    @property
    def size(self) -> int:
        return self.contract.size

    @property
    def dim(self) -> int:
        return self.contract.dim

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("embedding", "tokens") if self.contract.tokens else ("embedding",)

    def golden(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the golden tiles, uint8 (N, S, S, 3), and their full-precision embeddings, float32 (N, D)."""
        tiles = _load(self, "golden/tiles.npz", "tiles")
        reference = self.golden_embeddings("reference")
        expected = ("uint8", (len(reference), self.size, self.size, 3), "float32", (len(reference), self.dim))
        found = (str(tiles.dtype), tiles.shape, str(reference.dtype), reference.shape)
        if found != expected:
            raise BundleError(f"bundle {self.path}: golden set is {found}; its contract asks for {expected}")
        return tiles, reference

    def golden_embeddings(self, of: str) -> np.ndarray:
        """Return the golden tiles' embeddings, float32 (N, D), by `reference` or `program`."""
        embeddings = _load(self, f"golden/{of}.npz", "embeddings")
        needed = (len(self.held_out), self.dim)
        if embeddings.dtype != np.float32 or embeddings.shape != needed or not len(embeddings):
            found = f"{embeddings.dtype} {embeddings.shape}"
            raise BundleError(f"bundle {self.path}: golden/{of}.npz is {found}; its manifest asks for float32 {needed}")
        return embeddings

    def runner(self, **options: Any) -> Runner:
        """Load the artifact; the options are those of `edgepath.backends.<backend>.Runner`.

        Raises UsageError for an option this backend does not have, MissingRuntime where it cannot run on this machine.
        """
        if self.backend not in backends.targets():
            known = ", ".join(backends.targets())
            raise BundleError(f'bundle {self.path}: unknown backend "{self.backend}"; known: {known}')
        return load_artifact(self, self.backend, **options)


def load_artifact(bundle: Bundle, backend: str, **options: Any) -> Runner:
    """Load a bundle's artifact with the `Runner` of a backend, its own or the one it is checked with.

    Raises UsageError for an option the backend does not have, MissingRuntime where it cannot run on this machine,
    BundleError for an artifact that it cannot load or that takes other tiles than the contract says.
    """
    row = backends.find(backend)
    kind = row.load_runner()
    known = list(inspect.signature(kind).parameters)[1:]
    for option in options.keys() - known:
        raise UsageError(f"bundle {bundle.name}: {backend} has no option {option}; known: {', '.join(known)}")
    try:
        runner: Runner = kind(bundle.artifact, **options)
    except EdgepathError:
        raise
    except ImportError as error:
        install = pip_install(row.extra)
        raise MissingRuntime(f"bundle {bundle.name} runs with {row.package} ({error}); {install}") from error
    except OSError as error:  # a host or a driver that is not here
        raise MissingRuntime(f"bundle {bundle.name}: {error}") from error
    except Exception as error:  # each runtime has errors of its own; whatever it says, it could not load the file
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BundleError(
            f"bundle {bundle.path}: {row.package} cannot load {bundle.file} ({why}); export it again"
        ) from error
    if runner.size != bundle.size:
        raise BundleError(
            f"bundle {bundle.path}: its artifact takes tiles of {runner.size} px, its contract says {bundle.size}; "
            "export it again"
        )
    return runner


def open_bundle(path: str | Path | Bundle) -> Bundle:
    """Check a bundle and return it; BundleError names the first thing that is not as its manifest says.

    One that was opened before is returned as it is.

    A bundle that is not there because its replacement was cut off is put back first.
    """
    if isinstance(path, Bundle):
        return path
    path = Path(path)
    try:
        if not path.exists():
            put_back(path)
        raw = read_manifest(path)
        manifest = parse(raw, f"bundle {path}")
        said = contents(manifest, f"bundle {path}")
        _check_files(path, manifest["files"])
    except OSError as error:
        raise BundleError(f"bundle {path}: cannot be read ({error.strerror}: {error.filename})") from error
    return Bundle(**vars(said), path=path, manifest=manifest, digest=hashlib.sha256(raw).hexdigest())


def _check_files(path: Path, files: Mapping[str, Any]) -> None:
    who = f"bundle {path}"
    present = set(_walk(path)) - {MANIFEST}
    for name in sorted(files.keys() - present):
        raise BundleError(f"{who}: {plain(name)} is missing; copy the bundle again, all of it")
    for name in sorted(present - files.keys()):
        raise BundleError(f"{who}: {plain(name)} is not in its manifest; a bundle holds nothing else: move it away")
    for name, entry in files.items():
        size = (path / name).stat().st_size
        if size != entry["size_bytes"]:
            raise BundleError(f"{who}: {name} has {size} bytes, its manifest says {entry['size_bytes']}; copy it again")
        if (found := _sha256(path / name)) != entry["sha256"]:
            raise BundleError(
                f"{who}: {name} was altered (sha256 {found[:12]}, its manifest says {entry['sha256'][:12]}); "
                "copy the bundle again, or export it again"
            )


def _walk(root: Path, prefix: str = "") -> Iterator[str]:
    """Yield every file's relative name; BundleError for a link, socket, pipe or device."""
    with os.scandir(root / prefix) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, f"{name}/")
            elif entry.is_file(follow_symlinks=False):
                yield name
            else:
                what = "a symbolic link" if entry.is_symlink() else "not a regular file"
                raise BundleError(f"bundle {root}: {name} is {what}; a bundle holds files only")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _load(bundle: Bundle, name: str, key: str) -> np.ndarray:
    try:
        with np.load(bundle.path / name, allow_pickle=False) as file:
            values: np.ndarray = file[key]
            return values
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise BundleError(f"bundle {bundle.path}: {name} cannot be read ({error})") from error


def seen_in_calibration(bundle: Bundle, source: TileSource) -> int:
    """Count the tiles of `source` whose pixels the bundle was calibrated on."""
    calibrated = calibrated_on(bundle)
    return sum(source.digests.get(key) in calibrated for key in source.keys)


def calibrated_on(bundle: Bundle) -> set[str]:
    """Return the sha256 of the pixels of every tile a bundle was calibrated on."""
    listed = bundle.path / "calibration.csv"
    if not listed.exists():  # nothing was calibrated
        return set()
    try:
        with open(listed, encoding="utf-8", newline="") as file:
            return {row["sha256_pixels"] for row in csv.DictReader(file)}
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise BundleError(f"bundle {bundle.path}: calibration.csv cannot be read ({error}); export it again") from None

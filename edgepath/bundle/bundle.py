"""Bundles: a folder with an artifact, its golden tiles and its device kit; `bundle.json` holds the hash of every file.

Nothing of a bundle is loaded before its manifest and every hash were checked, and that nothing else lies in the folder.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import inspect
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .. import backends
from ..errors import BundleError, EdgepathError, MissingRuntime, UsageError, first_line
from ..machine.arrays import read_npz
from ..machine.leftovers import is_leftover
from ..machine.packages import pip_install
from ..machine.tables import plain
from ..machine.workspace import clear
from ..recipes.recipe import Recipe
from ..tiles.source import TileSource
from .manifest import MANIFEST, Contents, FileEntry, contents, parse, read_manifest
from .signatures import check_signature


class Runner(Protocol):
    """What runs an artifact: a context manager and a callable, `uint8 (N, S, S, 3) -> float32 (N, D)`.

    Any number of threads may call one at the same time. Pickled or copied, it is opened again by `reopen`: one of a
    bundle checks the bundle again, and that it is the same.
    """

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
    seen: Mapping[str, Stamp] = field(default_factory=dict, repr=False, compare=False)

    @property
    def recipe(self) -> Recipe:
        """The recipe it was made by. Raises RecipeError for one that this edgepath cannot read."""
        return Recipe.from_json(self.manifest["recipe"])

    @property
    def artifact(self) -> Path:
        """The file (or, for Core ML, the folder) that the backend's runner loads. Raises as `unchanged` does."""
        for name in self.manifest["files"]:
            if name.partition("/")[0] not in ("golden", "kit"):  # whatever a runtime reads beside it
                self.unchanged(name)
        return self.path / self.file

    def unchanged(self, name: str) -> Path:
        """Return the path of a file of the bundle, if there is one, that is what it was when the bundle was opened.

        Raises BundleError for one that was written to or replaced by other contents meanwhile.
        """
        path, entry = self.path / name, self.manifest["files"].get(name)
        try:
            if entry is not None and stamp(path) != self.seen.get(name) and sha256(path) != entry["sha256"]:
                raise BundleError(f"bundle {self.path}: {plain(name)} changed since it was opened; open it again")
        except OSError as error:
            raise BundleError(f"bundle {self.path}: {plain(name)} is gone ({error.strerror}); open it again") from None
        return path

    def read(self, name: str) -> bytes:
        """Return a file's bytes, those that its hash is of. Raises BundleError where they changed since."""
        try:
            raw = (self.path / name).read_bytes()
        except OSError as error:
            raise BundleError(f"bundle {self.path}: {plain(name)} cannot be read ({error.strerror})") from None
        if hashlib.sha256(raw).hexdigest() != self.manifest["files"].get(name, {}).get("sha256"):
            raise BundleError(f"bundle {self.path}: {plain(name)} changed since it was opened; open it again")
        return raw

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
        actual = (str(tiles.dtype), tiles.shape, str(reference.dtype), reference.shape)
        if actual != expected:
            raise BundleError(f"bundle {self.path}: golden set is {actual}; its contract asks for {expected}")
        return tiles, reference

    def golden_embeddings(self, of: str) -> np.ndarray:
        """Return the golden tiles' embeddings, float32 (N, D), by `reference` or `program`."""
        embeddings = _load(self, f"golden/{of}.npz", "embeddings")
        needed = (len(self.held_out), self.dim)
        if embeddings.dtype != np.float32 or embeddings.shape != needed or not len(embeddings):
            kind = f"{embeddings.dtype} {embeddings.shape}"
            raise BundleError(f"bundle {self.path}: golden/{of}.npz is {kind}; its manifest asks for float32 {needed}")
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
    if str(bundle.path) != str(bundle.path).encode(errors="replace").decode():
        where = ascii(str(bundle.path))
        raise UsageError(f"bundle {where}: no text in UTF-8, as runtimes need it; move it, or set PYTHONUTF8=1")
    kind = row.load_runner()
    known = list(inspect.signature(kind).parameters)[1:]
    for option in options.keys() - known:
        raise UsageError(f"bundle {bundle.name}: {backend} has no option {option}; known: {', '.join(known)}")
    try:
        runner = kind(bundle.artifact, **options)
    except EdgepathError:
        raise
    except ImportError as error:
        install = pip_install(row.extra)
        raise MissingRuntime(f"bundle {bundle.name} runs with {row.package} ({error}); {install}") from error
    except OSError as error:  # a host or a driver that is not here
        raise MissingRuntime(f"bundle {bundle.name}: {error}") from error
    except ValueError as error:  # of an option
        raise UsageError(f"bundle {bundle.name}: {first_line(error)}") from error
    except Exception as error:  # each runtime has errors of its own; whatever it says, it could not load the file
        raise BundleError(f"bundle {bundle.path}: {_not_loaded(bundle, row, options, first_line(error))}") from error
    _ = bundle.artifact  # once more: what was loaded is what was checked
    if runner.size != bundle.size:
        raise BundleError(
            f"bundle {bundle.path}: its artifact takes tiles of {runner.size} px, its contract says {bundle.size}; "
            "export it again"
        )
    runner.reopen = functools.partial(_reopen, bundle.path.absolute(), bundle.digest, backend, options)
    opened: Runner = runner
    return opened


def _not_loaded(bundle: Bundle, row: backends.Backend, options: Mapping[str, Any], why: str) -> str:
    """Say that a runtime took no artifact. Its files are those that were exported: the rest lies here."""
    given = "".join(f" with {name}={value}" for name, value in options.items())
    made_with = bundle.manifest.get("versions", {}).get(row.distribution or row.package, row.version)
    other = f"; it was made with {made_with}, try that" if made_with != row.version else ""
    return f"{row.package} {row.version} cannot load {bundle.file}{given} ({why}); its files are whole{other}"


def _reopen(path: Path, digest: str, backend: str, options: Mapping[str, Any]) -> Runner:
    """Open a bundle, anywhere and later, as a runner's was."""
    return load_artifact(open_same(path, digest), backend, **options)


def open_same(path: Path, digest: str) -> Bundle:
    """Open a bundle again, anywhere and later. Raises BundleError where it is not the one of this digest any more."""
    bundle = open_bundle(path)
    if bundle.digest != digest:
        raise BundleError(f"bundle {path}: this is another bundle than the one that was opened before; open it anew")
    return bundle


def open_bundle(
    path: str | Path | Bundle, *, trust: str | Path | None = None, signature: str | Path | None = None
) -> Bundle:
    """Check a bundle and return it; BundleError names the first thing that is not as its manifest says.

    One that was opened before is returned as it is. A bundle that is not there because its replacement was cut off is
    put back first.

    Args:
        path: the folder.
        trust: a public key or certificate, PEM; a bundle that its owner did not sign is refused.
        signature: where the signature is, by default `<bundle>.sig` beside the bundle.

    Raises:
        BundleError: for a bundle that is incomplete, altered or, with `trust`, not signed by its owner.
        UsageError: for a key that is none, or a signature without a key.
        MissingRuntime: with `trust`, where model-signing is not installed (extra `sign`).
    """
    bundle = path if isinstance(path, Bundle) else _open(path)
    if trust is not None:
        where = None if signature is None else Path(signature)
        check_signature(bundle.path, bundle.digest, Path(trust), where)
    elif signature is not None:
        raise UsageError(f"bundle {bundle.path}: a signature says nothing without the key to trust; give that, too")
    return bundle


def _open(path: str | Path) -> Bundle:
    path = Path(path)
    try:
        if not path.exists():
            clear(path)
        raw = read_manifest(path)
        manifest = parse(raw, f"bundle {path}")
        described = contents(manifest, f"bundle {path}")
        seen = _check_files(path, manifest["files"])
    except OSError as error:
        raise BundleError(f"bundle {path}: cannot be read ({error.strerror}: {error.filename})") from error
    return Bundle(**vars(described), path=path, manifest=manifest, digest=hashlib.sha256(raw).hexdigest(), seen=seen)


def _check_files(path: Path, files: Mapping[str, FileEntry]) -> dict[str, Stamp]:
    who = f"bundle {path}"
    present = set(_walk(path)) - {MANIFEST}
    for name in sorted(files.keys() - present):
        raise BundleError(f"{who}: {plain(name)} is missing; copy the bundle again, all of it")
    for name in sorted(present - files.keys()):
        raise BundleError(f"{who}: {plain(name)} is not in its manifest; a bundle holds nothing else: move it away")
    seen = {}
    for name, entry in files.items():
        seen[name] = stamp(path / name)
        size = (path / name).stat().st_size
        if size != entry["size_bytes"]:
            raise BundleError(f"{who}: {name} has {size} bytes, its manifest says {entry['size_bytes']}; copy it again")
        if (digest := sha256(path / name)) != entry["sha256"]:
            raise BundleError(
                f"{who}: {name} was altered (sha256 {digest[:12]}, its manifest says {entry['sha256'][:12]}); "
                "copy the bundle again, or export it again"
            )
    return seen


def _walk(root: Path, prefix: str = "") -> Iterator[str]:
    """Yield every file's relative name, but leftovers of systems; BundleError for a link, socket, pipe or device."""
    with os.scandir(root / prefix) as entries:
        for entry in (entry for entry in entries if not is_leftover(entry.name)):
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, f"{name}/")
            elif entry.is_file(follow_symlinks=False):
                yield name
            else:
                what = "a symbolic link" if entry.is_symlink() else "not a regular file"
                raise BundleError(f"bundle {root}: {name} is {what}; {_instead(root, entry)}")


def _instead(root: Path, entry: os.DirEntry[str]) -> str:
    if entry.is_symlink() and "blobs" in Path(os.readlink(entry)).parts:
        return f"it lies in the Hub's cache: copy it out of there with `cp -rL {root} FOLDER`, and give the copy"
    return "a bundle holds files only"


Stamp = tuple[int, ...]
"""What changes when someone writes to a file or puts another in its place."""


def stamp(path: Path) -> Stamp:
    """Return a file's. Raises OSError."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def sha256(path: Path) -> str:
    """Return the hash of a file, read in parts. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _load(bundle: Bundle, name: str, key: str) -> np.ndarray:
    try:
        return read_npz(io.BytesIO(bundle.read(name)), [key])[key]
    except ValueError as error:
        raise BundleError(f"bundle {bundle.path}: {name} cannot be read ({error})") from error


def seen_in_calibration(bundle: Bundle, source: TileSource) -> int:
    """Count the tiles of `source` whose pixels the bundle was calibrated on."""
    calibrated = calibrated_on(bundle)
    return sum(source.digests.get(key) in calibrated for key in source.keys)


def calibrated_on(bundle: Bundle) -> set[str]:
    """Return the sha256 of the pixels of every tile a bundle was calibrated on."""
    if "calibration.csv" not in bundle.manifest["files"]:  # nothing was calibrated
        return set()
    try:
        text = bundle.read("calibration.csv").decode()
        return {row["sha256_pixels"] for row in csv.DictReader(io.StringIO(text, newline=""))}
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise BundleError(f"bundle {bundle.path}: calibration.csv cannot be read ({error}); export it again") from None

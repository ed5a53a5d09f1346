"""Bundles: a folder with an artifact, its golden tiles and its device kit; `bundle.json` holds the hash of every file.

Written as `.<name>.<pid>.partial` beside the final folder, `bundle.json` last, then renamed. To replace a bundle the
old one is set aside as `.<name>.<pid>.replaced` between two renames. A process that is killed leaves nothing but these
two names; whoever writes or opens the same bundle next puts the old one back, or removes what is left over.

Nothing of a bundle is loaded before its manifest and every hash were checked, and that nothing else lies in the folder.
"""

from __future__ import annotations

import errno
import hashlib
import inspect
import json
import os
import re
import shutil
import signal
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from .errors import BundleError, EdgepathError, MissingRuntime, UsageError

SCHEMA = 1
MANIFEST = "bundle.json"
BACKENDS = ("onnxruntime", "openvino", "tensorrt", "coreml")
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
}
_writing: set[Path] = set()  # of this process: a process id alone says nothing about its own leftovers (see `_alive`)


class Runner(Protocol):
    """What runs an artifact: a context manager and a callable, `uint8 (N, S, S, 3) -> float32 (N, D)`."""

    runtime: str

    def __call__(self, tiles: np.ndarray) -> np.ndarray: ...
    def outputs(self, tiles: np.ndarray) -> Mapping[str, np.ndarray]: ...
    def __enter__(self) -> Runner: ...
    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder, its checked manifest, and the sha256 of `bundle.json`, so of everything in it."""

    path: Path
    manifest: Mapping[str, Any]
    digest: str

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def model(self) -> str:
        return str(self.manifest["model"]["name"])

    @property
    def target(self) -> str:
        return str(self.manifest["recipe"]["target"])

    @property
    def backend(self) -> str:
        return str(self.manifest["recipe"]["backend"])

    @property
    def artifact(self) -> Path:
        """The file (or, for Core ML, the folder) that the backend's runner loads."""
        return self.path / str(self.manifest["artifact"]["file"])

    @property
    def dim(self) -> int:
        return int(self.manifest["contract"]["dim"])

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("embedding", "tokens") if self.manifest["contract"]["tokens"] else ("embedding",)

    def golden(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the golden tiles, uint8 (N, S, S, 3), and their full-precision embeddings, float32 (N, D)."""
        tiles = _load(self, "golden/tiles.npz", "tiles")
        reference = self.golden_embeddings("reference")
        size = self.manifest["contract"]["size"]
        expected = ("uint8", (len(tiles), size, size, 3), "float32", (len(tiles), self.dim))
        found = (str(tiles.dtype), tiles.shape, str(reference.dtype), reference.shape)
        if found != expected:
            raise BundleError(f"bundle {self.path}: golden set is {found}; its contract asks for {expected}")
        return tiles, reference

    def golden_embeddings(self, of: str) -> np.ndarray:
        """Return the golden tiles' embeddings, float32 (N, D), by `reference`, `program`, or the program `nudged`."""
        return _load(self, f"golden/{of}.npz", "embeddings")

    def runner(self, **options: Any) -> Runner:
        """Load the artifact; the options are those of `edgepath.backends.<backend>.Runner`.

        Raises UsageError for an option this backend does not have, MissingRuntime where it cannot run on this machine.
        """
        if self.backend not in BACKENDS:
            raise BundleError(f'bundle {self.path}: unknown backend "{self.backend}"; known: {", ".join(BACKENDS)}')
        module = import_module(f".backends.{self.backend}", __package__)
        known = list(inspect.signature(module.Runner).parameters)[1:]
        for option in options.keys() - known:
            raise UsageError(f"bundle {self.name}: {self.backend} has no option {option}; known: {', '.join(known)}")
        try:
            runner: Runner = module.Runner(self.artifact, **options)
        except ImportError as error:
            install = f"pip install 'edgepath[{module.EXTRA}]'"
            raise MissingRuntime(f"bundle {self.name} runs with {module.PACKAGE} ({error}); {install}") from error
        except OSError as error:  # a host or a driver that is not here
            raise MissingRuntime(f"bundle {self.name}: {error}") from error
        return runner


class BundleWriter:
    """Fill `path`, then `commit(manifest)`: the bundle appears under `final` complete, or not at all.

    Use it in a `with` block. Entering raises UsageError where `final` is in the way: a bundle without `force`, anything
    else also with it. A full disk raises BundleError. An exception or SIGTERM removes what was written.
    """

    def __init__(self, final: str | Path, *, force: bool = False) -> None:
        self.final, self._force, self._committed = Path(final), force, False
        if self.final.name in ("", ".."):
            raise UsageError(f'"{final}" is no name for a new bundle; give a folder that is to be made')
        self.path = beside(self.final, "partial")
        self._sigterm: Any = None

    def __enter__(self) -> BundleWriter:
        try:
            _put_back(self.final)
            for leftover in dead_leftovers(self.final, "partial"):
                shutil.rmtree(leftover)
            _refuse_in_the_way(self.final, self._force)
            self.path.mkdir(parents=True)
        except OSError as error:
            raise UsageError(f"cannot write {self.final}: {error.strerror} ({error.filename})") from error
        _writing.add(self.path)
        # Python dies of SIGTERM without unwinding; whoever has a handler already (the command line) unwinds itself.
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._sigterm = signal.signal(signal.SIGTERM, _exit_on_sigterm)
        return self

    def commit(self, manifest: Mapping[str, Any]) -> None:
        """Write `bundle.json` (`manifest`, with `schema` and `files` added), flush everything to disk, and rename."""
        files = {}
        for name in sorted(_walk(self.path)):
            _check_name(name, f"bundle {self.final}")
            files[name] = {"sha256": _sha256(self.path / name), "size_bytes": (self.path / name).stat().st_size}
            _flush(self.path / name)
        whole = {**manifest, "schema": SCHEMA, "files": files}
        _check_contents(whole, f"bundle {self.final}")
        with open(self.path / MANIFEST, "x", encoding="utf-8") as file:
            file.write(json.dumps(whole, indent=2, allow_nan=False) + "\n")
        for path in (self.path / MANIFEST, *(p for p in self.path.rglob("*") if p.is_dir()), self.path):
            _flush(path)
        self._rename()
        self._committed = True

    def _rename(self) -> None:
        _refuse_in_the_way(self.final, self._force)
        aside = beside(self.final, "replaced")
        if replaces := self.final.exists():
            os.rename(self.final, aside)
        try:
            os.rename(self.path, self.final)
        except BaseException:
            if replaces and not self.final.exists():
                os.rename(aside, self.final)
            raise
        _flush(self.final.parent)
        if replaces:
            shutil.rmtree(aside)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            full, written = disk_full(error, self.final.parent), _size(self.path)
            if self.path.exists():
                shutil.rmtree(self.path)
        finally:
            _writing.discard(self.path)
            if self._sigterm is not None:
                signal.signal(signal.SIGTERM, self._sigterm)
        if full:
            raise BundleError(disk_full_message(self.final, written)) from error
        if error is None and not self._committed:
            raise RuntimeError(f"bundle {self.final}: nothing was committed")


def open_bundle(path: str | Path) -> Bundle:
    """Check a bundle and return it; BundleError names the first thing that is not as its manifest says."""
    path = Path(path)
    try:
        if not path.exists():
            _put_back(path)
        raw = _read_manifest(path)
        manifest = _parse(raw, f"bundle {path}")
        _check_contents(manifest, f"bundle {path}")
        _check_files(path, manifest["files"])
    except OSError as error:
        raise BundleError(f"bundle {path}: cannot be read ({error.strerror}: {error.filename})") from error
    return Bundle(path, manifest, hashlib.sha256(raw).hexdigest())


def _check_files(path: Path, files: Mapping[str, Any]) -> None:
    who = f"bundle {path}"
    present = set(_walk(path)) - {MANIFEST}
    for name in sorted(files.keys() - present):
        raise BundleError(f"{who}: {name} is missing; copy the bundle again, all of it")
    for name in sorted(present - files.keys()):
        raise BundleError(f"{who}: {name} is not in its manifest; a bundle holds nothing else: move it away")
    for name, entry in files.items():
        size = (path / name).stat().st_size
        if size != entry["size_bytes"]:
            raise BundleError(f"{who}: {name} has {size} bytes, its manifest says {entry['size_bytes']}; copy it again")
        if (found := _sha256(path / name)) != entry["sha256"]:
            raise BundleError(
                f"{who}: {name} was altered (sha256 {found[:12]}, its manifest says {entry['sha256'][:12]}); "
                "copy the bundle again, or export it again"
            )


def update_bundle(bundle: Bundle, changes: Mapping[str, Any], files: Mapping[str, bytes]) -> Bundle:
    """Replace top-level keys of a bundle's manifest and add or replace `files` in it; return it opened again.

    Copy on write: a new folder of hard links takes the old one's place, so a crash leaves the old or the new bundle.
    """
    if open_bundle(bundle.path).digest != bundle.digest:
        raise BundleError(f"bundle {bundle.path}: was changed since it was opened; open it again")
    with BundleWriter(bundle.path.resolve(), force=True) as writer:
        for name in bundle.manifest["files"].keys() - files.keys():
            (writer.path / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(bundle.path / name, writer.path / name)
            except OSError:  # a file system without hard links
                shutil.copyfile(bundle.path / name, writer.path / name)
        for name, content in files.items():
            _check_name(name, f"bundle {bundle.path}")
            (writer.path / name).parent.mkdir(parents=True, exist_ok=True)
            (writer.path / name).write_bytes(content)
        writer.commit({**bundle.manifest, **changes})
    return open_bundle(bundle.path)


def beside(final: Path, kind: str) -> Path:
    """Return the name that this process writes under (`partial`) or sets aside (`replaced`) before a rename."""
    return final.with_name(f".{final.name}.{os.getpid()}.{kind}")


def dead_leftovers(final: Path, kind: str) -> list[Path]:
    """List what processes that are no more left beside `final`."""
    pattern = re.compile(re.escape(f".{final.name}.") + r"(\d+)" + re.escape(f".{kind}"))
    found = [] if not final.parent.is_dir() else sorted(final.parent.iterdir())
    matches = [(path, pattern.fullmatch(path.name)) for path in found]
    return [path for path, match in matches if match and path not in _writing and not _alive(int(match[1]))]


def disk_full(error: BaseException | None, folder: Path) -> bool:
    """Tell whether `error` came of a full disk, also where a library's own exception hides it."""
    if not isinstance(error, Exception) or isinstance(error, EdgepathError):
        return False
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    # NumPy gives no errno. OpenVINO gives no reason but a failed C++ stream, and has removed its file by now.
    return "iostream error" in str(error) or (folder.is_dir() and shutil.disk_usage(folder).free < 1 << 16)


def disk_full_message(final: Path, written: int) -> str:
    """Return the one line for a full disk; `written` bytes were there when it happened, and are removed by now."""
    free = shutil.disk_usage(final.parent).free
    return (
        f"disk full while writing {final}: need more than the {written / 1e6:.1f} MB written so far, "
        f"{free / 1e6:.1f} MB are free; nothing was kept; free some space or write elsewhere"
    )


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # in a container every process may have the same id; what this one writes is in `_writing`
    if os.name == "nt":
        return True  # no harmless way to ask there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _exit_on_sigterm(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _put_back(final: Path) -> None:
    """Undo or finish a replacement that was cut off between its renames."""
    for aside in dead_leftovers(final, "replaced"):
        if final.exists():
            shutil.rmtree(aside)
        else:
            os.rename(aside, final)


def _refuse_in_the_way(final: Path, force: bool) -> None:
    """Raise UsageError unless `final` is free or empty, or is a bundle without anything else in it and `force`."""
    if not os.path.lexists(final):
        return
    if final.is_symlink() or not final.is_dir():
        raise UsageError(f"{final} exists and is no folder; remove it, or give another name")
    if not any(final.iterdir()):
        return
    try:
        listed = _parse(_read_manifest(final), f"bundle {final}")["files"].keys() | {MANIFEST}
        foreign = sorted(set(_walk(final)) - listed)
    except BundleError as error:
        raise UsageError(f"{final} exists and is not a bundle to replace ({error}); give another name") from None
    if not force:
        raise UsageError(f"{final} exists; give --force to replace it, or another name")
    if foreign:
        raise UsageError(f"{final} holds {foreign[0]}, which is not the bundle's; move it away to replace the bundle")


def _read_manifest(path: Path) -> bytes:
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


def _parse(raw: bytes, who: str) -> dict[str, Any]:
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
        _check_name(name, who)
        ok = isinstance(entry, dict) and entry.keys() == {"sha256", "size_bytes"} and type(entry["size_bytes"]) is int
        if not ok or not re.fullmatch("[0-9a-f]{64}", str(entry["sha256"])):
            raise BundleError(f"{who}: {MANIFEST}: files.{name} needs sha256 and size_bytes, nothing else")
    return dict(manifest)


def _check_contents(manifest: Mapping[str, Any], who: str) -> None:
    for dotted, kind in _NEEDED.items():
        value: Any = manifest
        for key in dotted.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if type(value) is not kind:
            raise BundleError(f"{who}: {MANIFEST}: {dotted} = {value!r}; expected {kind.__name__}")
    artifact = manifest["artifact"]["file"]
    if not any(name == artifact or name.startswith(f"{artifact}/") for name in manifest["files"]):
        raise BundleError(f"{who}: {MANIFEST}: its artifact {artifact} is not among its files")


def _check_name(name: str, who: str) -> None:
    """Refuse what could lead out of the folder, on any system, or stand for the manifest itself."""
    plain = PurePosixPath(name)
    strange = re.search(r'[\\:*?"<>|\x00-\x1f]', name) or ".." in plain.parts or plain.is_absolute()
    if strange or str(plain) != name or name in (".", MANIFEST):
        raise BundleError(f"{who}: {name!r} is not a name for a file in a bundle")


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


def _flush(path: Path) -> None:
    """Have the disk hold `path`, a file or a folder, before a rename makes it count."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _load(bundle: Bundle, name: str, key: str) -> np.ndarray:
    try:
        with np.load(bundle.path / name, allow_pickle=False) as file:
            values: np.ndarray = file[key]
            return values
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise BundleError(f"bundle {bundle.path}: {name} cannot be read ({error})") from error

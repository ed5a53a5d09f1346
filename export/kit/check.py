"""Does this bundle work on this device? Run it there: `python3 kit/check.py`.

It checks every file against bundle.json before it loads any, runs the golden tiles through the artifact, compares the
embeddings with the full-precision reference and with the program that the artifact was lowered from, holds the recipe's
gates against that, measures latency, and writes device-report.json, never into the bundle.

Needs Python 3.10, NumPy and the device's own runtime (kit/requirements.txt), not edgepath.
Exit status: 0 passed, 1 a gate failed, 2 could not run, 70 a bug of this file.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]  # this folder: what was planted beside this file is not to pass for a module of Python's

import os

if sys.version_info < (3, 10):  # noqa: UP036 (a device may have an older one; build.py starts here, too)
    print(
        f"{os.path.basename(sys.argv[0])}: this is Python {sys.version.split()[0]}; 3.10 or later is needed",
        file=sys.stderr,
    )
    sys.exit(2)

import argparse
import base64
import hashlib
import inspect
import io
import json
import math
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

sys.dont_write_bytecode = True  # a `__pycache__` would be a file too many in the bundle

SCHEMA = 1
MANIFEST = "bundle.json"
REPORT = "device-report.json"
LEFTOVERS = {  # of systems and file servers, as edgepath knows them, and `._x`
    *(".ds_store", ".appledouble", ".apdisk", ".localized", "icon\r", "__macosx", ".spotlight-v100", ".trashes"),
    *(".fseventsd", ".temporaryitems", ".documentrevisions-v100", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    *("$recycle.bin", "system volume information", "@eadir", "#recycle", "#snapshot", "@recycle"),
    *("@recently-snapshot", "@tmp", ".@__thumb", ".snapshot", "lost+found", ".directory"),
}
BATCH = 8
WARM_UP = 10
PERCENTILES = (50, 90, 95, 99)
# Figures of which more is better: the ones that a recipe's `[accept]` can ask for and this file can measure.
GATES = ("cosine_mean", "cosine_p01", "cosine_min")
PAIRS = {
    "quantization": ("reference", "program"),
    "lowering": ("program", "artifact"),
    "total": ("reference", "artifact"),
}


class CannotRun(Exception):
    """What was asked, what was found, what to do: one line, exit status 2."""


# --- the bundle


Seen = Mapping[str, tuple[int, ...]]
"""Of every file that was hashed, what changes when someone writes to it or puts another in its place."""


def open_bundle(root: Path) -> tuple[dict[str, Any], str, Seen]:
    """Check every file of the bundle in `root`.

    Return its manifest, the sha256 of bundle.json, so of all of it, and what `check_unchanged` holds files against.
    """
    try:
        path = root / MANIFEST
        if path.is_symlink() or not path.is_file():
            raise CannotRun(f"{root} holds no {MANIFEST}; leave check.py where it is, in the kit/ folder of its bundle")
        raw = path.read_bytes()
        manifest = _parse(raw)
        seen = _check_files(root, manifest["files"])
    except OSError as error:
        raise CannotRun(f"cannot read the bundle: {error.strerror} ({error.filename})") from error
    return manifest, hashlib.sha256(raw).hexdigest(), seen


def check_unchanged(root: Path, seen: Seen, below: str) -> None:
    """Raise CannotRun if a file that is or lies in `below` was written to since it was hashed."""
    for name, before in seen.items():
        if (name == below or name.startswith(f"{below}/")) and _stamp(os.stat(root / name)) != before:
            raise CannotRun(f"{name} changed since it was hashed; start again where nobody writes to the bundle")


def read_hashed(root: Path, manifest: Mapping[str, Any], name: str) -> bytes:
    """Return a file's bytes, which are those that its hash is of, whatever happened since all were hashed."""
    raw = (root / name).read_bytes()
    if name not in manifest["files"] or hashlib.sha256(raw).hexdigest() != manifest["files"][name]["sha256"]:
        raise CannotRun(f"{name} changed since it was hashed; start again where nobody writes to the bundle")
    return raw


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is beyond the range of numbers")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(raw.decode("utf-8"), parse_float=_finite, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise CannotRun(f"{MANIFEST} is not valid JSON ({error}); copy the bundle again") from None
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if type(schema) is not int or schema != SCHEMA:
        raise CannotRun(
            f"{MANIFEST}: schema = {schema!r}; this kit reads schema {SCHEMA}: use the kit the bundle came with"
        )
    try:
        artifact, files = manifest["artifact"]["file"], manifest["files"]
        complete = all(isinstance(entry["sha256"], str) for entry in files.values())
        complete &= any(name == artifact or name.startswith(f"{artifact}/") for name in files)
        complete &= all(type(manifest["contract"][key]) is int for key in ("size", "dim"))
        complete &= all(isinstance(required, (int, float, dict)) for required in manifest["recipe"]["accept"].values())
        complete &= _texts(manifest["held_out"]["keys"]) and _texts(manifest.get("cautions", []))
        floor = manifest["drift"]["noise_floor"]
        complete &= all(type(floor[key]) in (int, float) for key in ("tiles", *GATES, "relative_l2"))
        complete &= isinstance(manifest["name"], str) and isinstance(manifest["recipe"]["target"], str)
    except (KeyError, TypeError, AttributeError):
        complete = False
    if not complete:
        raise CannotRun(f"{MANIFEST} does not say what every bundle says; copy the bundle again, or export it again")
    return dict(manifest)


def check_signature(root: Path, digest: str, trust: Path, signature: Path | None) -> None:
    """See that the owner of `trust`, a public key or certificate (PEM), signed the bundle.json of this sha256.

    Raises CannotRun for a bundle that is not signed or by another or by a certificate that is not valid today, and
    where model-signing is not installed.
    """
    path = signature or root.resolve().with_name(f"{root.resolve().name}.sig")
    try:
        from model_signing import verifying
    except ImportError as error:
        raise CannotRun(
            f"--trust needs model-signing ({error}): pip install model-signing pyopenssl, or verify it elsewhere"
        ) from None
    if not trust.is_file():
        raise CannotRun(f"--trust {trust}: no such file; give a public key or certificate (PEM)")
    if not path.is_file():
        raise CannotRun(f"the bundle is not signed ({path} is not there); get its signature, or leave out --trust")
    try:
        config = verifying.Config().set_ignore_unsigned_files(True)
        if by_certificate := b"CERTIFICATE" in trust.read_bytes():
            config.use_certificate_verifier(certificate_chain=[trust])
        else:
            config.use_elliptic_key_verifier(public_key=trust)
        content = json.loads(path.read_bytes())
        statement = json.loads(base64.b64decode(content["dsseEnvelope"]["payload"]))
        config.verify(root, path)
        resources = statement["predicate"]["resources"]
        signed = next(resource["digest"] for resource in resources if resource["name"] == MANIFEST)
    except Exception as error:  # of cryptography, OpenSSL and whatever a file that is no signature leads to
        raise CannotRun(f"the bundle's signature is not by {trust.name} ({type(error).__name__}: {error})") from None
    if signed != digest:
        raise CannotRun(f"the signature is of another {MANIFEST} ({str(signed)[:12]}, this is {digest[:12]})")
    if by_certificate:
        _check_dates(content["verificationMaterial"]["x509CertificateChain"]["certificates"])


def _check_dates(certificates: list[dict[str, str]]) -> None:
    """See that all certificates of a signature are valid today: it holds no time that tells when it was made."""
    from cryptography import x509

    today = datetime.now(timezone.utc)
    for raw in certificates:
        certificate = x509.load_der_x509_certificate(base64.b64decode(raw["rawBytes"]))
        first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not first <= today <= last:
            dates = f"{first:%Y-%m-%d} to {last:%Y-%m-%d}, this device's clock says {today:%Y-%m-%d}"
            raise CannotRun(f"the bundle was signed by a certificate that is valid from {dates}; have it signed again")


def _texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _check_files(root: Path, files: Mapping[str, Any]) -> Seen:
    present = set(_walk(root)) - {MANIFEST}
    for name in sorted(files.keys() - present):
        raise CannotRun(f"{name} is missing; copy the bundle again, all of it")
    for name in sorted(present - files.keys()):
        what = (
            "Python wrote it: remove that folder"
            if "__pycache__" in name
            else "a bundle holds nothing else: move it away"
        )
        raise CannotRun(f"{name} is not in {MANIFEST}; {what}")
    seen = {}
    for name, entry in files.items():
        seen[name] = _stamp(os.stat(root / name))
        if (digest := _sha256(root / name)) != entry["sha256"]:
            listed = entry["sha256"][:12]
            raise CannotRun(
                f"{name} was altered (sha256 {digest[:12]}, {MANIFEST} says {listed}); copy the bundle again"
            )
    return seen


def _walk(root: Path, prefix: str = "") -> Iterator[str]:
    with os.scandir(root / prefix) as entries:
        for entry in entries:
            if entry.name.startswith("._") or entry.name.lower() in LEFTOVERS:
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, f"{prefix}{entry.name}/")
            elif entry.is_file(follow_symlinks=False):
                yield prefix + entry.name
            else:
                what = "a symbolic link" if entry.is_symlink() else "not a regular file"
                raise CannotRun(f"{prefix}{entry.name} is {what}; a bundle holds files only")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def load_kit_module(root: Path, manifest: Mapping[str, Any], name: str) -> Any:
    """Run `kit/<name>.py` of a checked bundle as a module; ImportError where NumPy is missing."""
    path = root / "kit" / f"{name}.py"
    module = ModuleType(name)
    module.__file__ = str(path)
    exec(compile(read_hashed(root, manifest, f"kit/{name}.py"), path, "exec"), module.__dict__)
    return module


def golden(root: Path, manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Load the golden tiles, uint8 (N, S, S, 3), and their embeddings, float32 (N, D), all by name."""
    count, size, dim = len(manifest["held_out"]["keys"]), manifest["contract"]["size"], manifest["contract"]["dim"]
    tiles, embeddings = ("|u1", (count, size, size, 3)), ("<f4", (count, dim))
    arrays = {}
    for name, kind in (("tiles", tiles), ("reference", embeddings), ("program", embeddings)):
        key = "tiles" if name == "tiles" else "embeddings"
        file = f"golden/{name}.npz"
        try:
            arrays[name] = _array(read_hashed(root, manifest, file), key, *kind)
        except CannotRun:
            raise
        except Exception as error:  # zip, zlib and NumPy each have errors of their own for damaged bytes
            raise CannotRun(f"{file} is not what {MANIFEST} says of it ({error}); export the bundle again") from error
    return arrays


def _array(raw: bytes, key: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of a `.npz` that is to be of this type and shape; another that is declared is not read."""
    import numpy as np

    size = math.prod(shape) * np.dtype(dtype).itemsize
    with zipfile.ZipFile(io.BytesIO(raw)) as archive, archive.open(f"{key}.npy") as member:
        if np.lib.format.read_magic(member) != (1, 0):
            raise ValueError("an array of another version")
        declared, columns, kind = np.lib.format.read_array_header_1_0(member)
        if not size or (kind.str, declared, columns) != (dtype, shape, False):
            raise ValueError(f"{kind} {declared}, expected {np.dtype(dtype)} {shape}")
        data = member.read(size + 1)
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes of {size}")
    return np.frombuffer(data, dtype).reshape(shape)


# --- the figures


def embed(run: Callable[[np.ndarray], np.ndarray], tiles: np.ndarray, dim: int) -> np.ndarray:
    """Embed tiles, uint8 (N, S, S, 3), a few at a time: float32 (N, D)."""
    import numpy as np

    rows = [run(tiles[start : start + BATCH]) for start in range(0, len(tiles), BATCH)]
    embeddings: np.ndarray = np.concatenate(rows)
    if (str(embeddings.dtype), embeddings.shape) != ("float32", (len(tiles), dim)):
        raise CannotRun(f"the artifact returned {embeddings.dtype} {embeddings.shape}, not float32 {(len(tiles), dim)}")
    return embeddings


def drift(reference: np.ndarray, candidate: np.ndarray, keys: Sequence[str]) -> dict[str, Any]:
    """Compare two sets of embeddings, float32 (N, D), tile by tile; figures as in `edgepath.drift.measure`."""
    import numpy as np

    sides = [values.astype(np.float64) for values in (reference, candidate)]
    norms = [np.linalg.norm(values, axis=1, keepdims=True) for values in sides]
    for norm in norms:
        bad = np.flatnonzero(~np.isfinite(norm) | (norm == 0))
        if len(bad):
            raise CannotRun(f"the embedding of {keys[bad[0]]} is not finite or zero ({len(bad)} such tiles)")
    cosines = np.einsum("nd,nd->n", sides[0] / norms[0], sides[1] / norms[1]).clip(-1.0, 1.0)
    relative = np.linalg.norm(sides[1] - sides[0], axis=1) / norms[0][:, 0]
    return {
        "tiles": len(cosines),
        "cosine_mean": float(cosines.mean()),
        "cosine_p01": float(np.quantile(cosines, 0.01)),
        "cosine_min": float(cosines.min()),
        "relative_l2": float(relative.mean()),
        "worst": [keys[i] for i in np.argsort(cosines, kind="stable")[:5]],
    }


def judge(accept: Mapping[str, Any], total: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hold the recipe's `[accept]` against the total drift; a gate for something else is kept as not measured.

    Its tables, `[accept.robustness]` and `[accept.probe]`, take the full-precision model and are not for a device.
    """
    judged = []
    for gate, required in accept.items():
        if isinstance(required, dict):
            continue
        measured = total[gate] if gate in GATES else None
        passed = None if measured is None else measured >= required
        judged.append({"gate": gate, "of": "total", "measured": measured, "required": required, "passed": passed})
    if all(gate["passed"] is None for gate in judged):
        raise CannotRun(f"the recipe has no gate that can be measured here; known: {', '.join(GATES)}")
    return judged


def time_runs(run: Callable[[np.ndarray], np.ndarray], tiles: np.ndarray, runs: int) -> dict[str, Any]:
    """Time one tile at a time, from uint8 pixels in memory to the embedding in memory, in milliseconds."""
    import numpy as np

    every = []
    for i in range(WARM_UP + runs):
        tile = tiles[i % len(tiles)][None]
        start = time.perf_counter()
        run(tile)
        every.append(1e3 * (time.perf_counter() - start))
    kept = every[WARM_UP:]
    percentiles = {f"p{q}_ms": float(np.percentile(kept, q)) for q in PERCENTILES}
    return {"batch": 1, "warm_up": WARM_UP, "n": runs, **percentiles, "all_ms": kept}


# --- the command


def check(
    root: Path,
    settings: Sequence[str],
    runs: int,
    trust: Path | None = None,
    signature: Path | None = None,
    server: str | None = None,
) -> dict[str, Any]:
    """Run the whole check on the bundle in `root` and return the device report, JSON-able.

    With `server`, the address of one that serves this bundle's artifact, what it answers is checked.
    """
    if str(root) != str(root).encode(errors="replace").decode():
        raise CannotRun(f"{str(root)!a} is no text in UTF-8, as runtimes need it; move it, or set PYTHONUTF8=1")
    say(f"hashing the files of {root.name}")
    manifest, digest, seen = open_bundle(root)
    if trust is not None:
        check_signature(root, digest, trust, signature)
    with vendor("cannot load kit/"):
        names = ("device", "runner" if server is None else _client(manifest))
        system, runner_class = (load_kit_module(root, manifest, name) for name in names)
    runner_class = runner_class.Runner
    options = runner_options(runner_class, settings if server is None else [f"url={server}", *settings])
    data = golden(root, manifest)
    tiles = data.pop("tiles")
    keys = manifest["held_out"]["keys"]
    say(f"loading {manifest['artifact']['file']}")
    start = time.perf_counter()
    with vendor("cannot run the artifact"), runner_class(root / manifest["artifact"]["file"], **options) as runner:
        load_seconds = time.perf_counter() - start
        check_unchanged(root, seen, manifest["artifact"]["file"].partition("/")[0])
        say(f"embedding {len(tiles)} golden tiles")
        data["artifact"] = embed(runner, tiles, manifest["contract"]["dim"])
        ran_with, latency = runner.runtime, {}
        if getattr(runner, "timed", True):  # an interpreter's speed says nothing of a device's
            say(f"timing {WARM_UP} + {runs} runs")
            latency = {"latency": time_runs(runner, tiles, runs)}
    drifts = {name: drift(data[reference], data[other], keys) for name, (reference, other) in PAIRS.items()}
    drifts["noise_floor"] = manifest["drift"]["noise_floor"]  # the program's own, wherever the artifact runs
    gates = judge(manifest["recipe"]["accept"], drifts["total"])
    chosen = [(name, value) for name, value in options.items() if value is not None]
    return {
        "schema": SCHEMA,
        "bundle": {"name": manifest["name"], "target": manifest["recipe"]["target"], "sha256": digest},
        "passed": all(gate["passed"] is not False for gate in gates),
        "cautions": manifest.get("cautions", []),
        "drift": drifts,
        "gates": gates,
        **latency,
        "load_seconds": load_seconds,
        "ran_with": ran_with,
        "options": {name: _without_folders(value) for name, value in chosen},
        "reference": manifest.get("reference", "not known"),
        "device": system.device(),
        "versions": system.versions(),
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _client(manifest: Mapping[str, Any]) -> str:
    if "kit/serving/client.py" not in manifest["files"]:
        raise CannotRun("--server: this bundle's kit has nothing for servers; those of OpenVINO and ONNX Runtime have")
    return "serving/client"


def runner_options(runner_class: Any, settings: Sequence[str]) -> dict[str, Any]:
    """Return the options of a Runner: its own defaults, where `settings` (NAME=VALUE each) gives no other."""
    options = {name: option.default for name, option in list(inspect.signature(runner_class).parameters.items())[1:]}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in options:
            raise CannotRun(f"--set {setting}: the runner has no option {name}; known: {', '.join(options)}")
        kind = _KINDS[type(options[name])]
        try:
            options[name] = kind(value)
        except (ValueError, KeyError):
            raise CannotRun(f"--set {setting}: that is no value for {name} (default {options[name]})") from None
    return options


def _without_folders(value: Any) -> Any:
    """Return an option's value for the report, which travels: of a path its last name only."""
    return Path(value).name if isinstance(value, Path) or os.path.isabs(str(value)) else value


# How a value on the command line is read, by the type of the option's default; None stands for a folder.
_KINDS: dict[type, Callable[[str], Any]] = {
    bool: {"true": True, "false": False}.__getitem__,
    int: int,
    str: str,
    type(None): Path,
}


@contextmanager
def vendor(what: str) -> Iterator[None]:
    """Turn whatever a runtime raises into one line, and have what it prints go to stderr: stdout is the result."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    except CannotRun:
        raise
    except ImportError as error:
        raise CannotRun(f"{error}; kit/README.md says what to install on the device") from error
    except Exception as error:  # every runtime has exceptions of its own
        lines = [line for line in str(error).splitlines() if line.strip()] or ["no reason given"]
        text = next((line for line in lines if not line.endswith(":")), lines[0])  # not a heading: "from core.cpp:132:"
        raise CannotRun(text if isinstance(error, OSError) else f"{what}: {type(error).__name__}: {text}") from error
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def to_text(report: Mapping[str, Any]) -> str:
    """Return the report as short tables, the verdict last."""
    name = report["bundle"]["name"]
    shown = [
        *_table(["bundle", name], _facts(report)),
        *_table(["drift", "tiles", "cosine mean", "1 %", "min", "relative L2"], _drift_rows(report["drift"])),
        *_table(["gate", "of", "measured", "required", ""], [_gate_row(gate) for gate in report["gates"]]),
        *_table(["latency, batch 1", *(f"p{q}" for q in PERCENTILES)], [_times_row(report.get("latency"))]),
        *report["cautions"],
        f"{name}: {'passed' if report['passed'] else 'FAILED'}",
    ]
    return "\n".join(map(printable, shown))


def printable(text: str) -> str:
    """Return a text as one line for a terminal: what is no character to print becomes its code, `\\x1b`."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _drift_rows(drifts: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for name, figures in drifts.items():
        cosines = [f"{figures[key]:.6f}" for key in GATES]
        rows.append([name.replace("_", " "), str(figures["tiles"]), *cosines, f"{figures['relative_l2']:.5f}"])
    return rows


def _times_row(latency: Mapping[str, Any] | None) -> list[str]:
    if latency is None:
        return ["not measured", *("-" for _ in PERCENTILES)]
    return [f"ms, n = {latency['n']} after {latency['warm_up']}", *(f"{latency[f'p{q}_ms']:.2f}" for q in PERCENTILES)]


def _facts(report: Mapping[str, Any]) -> list[list[str]]:
    options = ", ".join(f"{name} {value}" for name, value in report["options"].items())
    shown = {"ran with": report["ran_with"], "options": options, "loaded in": f"{report['load_seconds']:.1f} s"}
    shown |= {"reference": report["reference"], **report["device"]}
    return [[key.replace("_", " "), str(value)] for key, value in shown.items() if value]


def _gate_row(gate: Mapping[str, Any]) -> list[str]:
    if gate["passed"] is None:
        return [gate["gate"], "", "not measured", str(gate["required"]), "not judged"]
    verdict = "ok" if gate["passed"] else "FAILED"
    return [gate["gate"], gate["of"], f"{gate['measured']:.6f}", f">= {gate['required']}", verdict]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    return [*lines, ""]


def say(text: str) -> None:
    """Tell whoever watches what takes time."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


def where_to(out: Path | None, root: Path, force: bool) -> Path:
    """Return where the report goes: the current folder, from within the bundle the one beside it."""
    inside = Path.cwd().resolve().is_relative_to(root.resolve())
    path = out if out is not None else (root.parent if inside else Path()) / REPORT
    path = path / REPORT if path.is_dir() else path
    if path.resolve().is_relative_to(root.resolve()):
        raise CannotRun(f"{path} lies in the bundle, which stays as it was hashed; give --out FILE elsewhere")
    if not path.parent.is_dir():
        raise CannotRun(f"{path.parent} is no folder; give --out FILE in one that exists")
    try:
        with tempfile.TemporaryFile(dir=path.parent):  # tried: rights alone do not tell
            pass
    except OSError as error:
        raise CannotRun(
            f"nothing can be written in {path.parent} ({error.strerror}); give --out FILE in another folder"
        ) from None
    if os.path.lexists(path) and not force:
        raise CannotRun(f"{path} exists; give --force to replace it, or --out FILE")
    return path


def write(path: Path, text: str) -> None:
    """Write `text` beside `path`, then rename: a report is there whole, or not at all."""
    aside = path.with_name(f".{path.name}.{os.urandom(8).hex()}.partial")
    try:
        with open(aside, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise CannotRun(f"cannot write {path}: {error.strerror}") from error
    finally:
        with suppress(OSError):  # what stood in its way says more
            aside.unlink(missing_ok=True)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise CannotRun(f"{message}; --help shows the options")


def _runs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of runs from 1 on")
    return int(text)


class Talk:
    """stderr: what cannot be written to it is dropped, and the work goes on."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or see that Python does not try again when it ends."""
        try:
            self.stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status. Standard streams may be closed or full."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # what is opened next takes the lowest free number; writing to stdout is still an error
            os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (fails when it is written to)
    stream = sys.stderr
    sys.stderr = Talk(stream or open(2, "w", encoding="utf-8", closefd=False))  # noqa: SIM115 (of the process)
    try:
        return run_command(arguments)
    finally:
        sys.stderr.flush()
        sys.stderr = stream


def run_command(arguments: Sequence[str] | None) -> int:
    """Parse, check, print; return the exit status."""
    parser = Parser(
        prog="check.py",
        description="Check this bundle on this device. Exit 0: passed, 1: a gate failed, 2: could not run.",
    )
    parser.add_argument("--runs", type=_runs, default=100, metavar="N", help="runs that are timed (default 100)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of kit/runner.py's Runner, such as threads=4; with --server of kit/serving/client.py's",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"where the report goes (default {REPORT} here, beside the bundle from within it)",
    )
    parser.add_argument(
        "--server", metavar="URL", help="check the artifact as a model server serves it (kit/serving), not run here"
    )
    parser.add_argument(
        "--trust", type=Path, metavar="KEY", help="refuse a bundle that the owner of this public key did not sign"
    )
    parser.add_argument(
        "--signature", type=Path, metavar="FILE", help="its signature (default: beside the bundle, <bundle>.sig)"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing report")
    parser.add_argument("--json", action="store_true", help="print the report instead of tables")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may have letters that the terminal does not
    try:
        options = parser.parse_args(arguments)
        root = Path(__file__).absolute().parent.parent
        path = where_to(options.out, root, options.force)
        report = check(root, options.set, options.runs, options.trust, options.signature, options.server)
        text = json.dumps(report, indent=2, allow_nan=False)
        try:
            write(path, text + "\n")
        except CannotRun:
            print(text, flush=True)  # what was measured is not to be lost with the disk
            raise
        print(f"wrote {printable(str(path))}", file=sys.stderr)
        print(text if options.json else to_text(report), flush=True)
    except BrokenPipeError:  # whoever read this has seen enough; the verdict stands
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python would try again when it ends
        try:
            os.getcwd()
            problem = f"the result cannot be printed ({error.strerror})"
        except FileNotFoundError:
            problem = "the working directory is not there any more; change to one that is"
        print(f"check.py: {problem}", file=sys.stderr)
        return 2
    except CannotRun as error:
        print(f"check.py: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 2
    except Exception:  # a mistake in this file: Python's own exit status would read as a failed gate
        traceback.print_exc()
        return 70
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())

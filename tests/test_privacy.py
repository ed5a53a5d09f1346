"""Nothing phones home, and what is handed on says nothing of who made it and where.

Commands run in processes of their own that have an empty home, whose sockets are watched in Python and, where strace
works, in native code. The machine has a name of its own where that can be given.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

import edgepath
from edgepath.exporting import Exported
from edgepath.models.catalogue import ModelSpec
from edgepath.tiles.images import tile_sha256
from edgepath.tiles.synthetic import synthesize

USER, HOST = "zebulonq", "xq-secret-host"
SECRETS = [USER, "home-of-zebulon", "folder-of-zebulon", "/root", "site-packages"]

# As sitecustomize.py this is what a process imports first.
WATCH = """
import os, socket

def refuse(name, real=None):
    def call(*given, **named):
        if getattr(given[0], "family", None) == getattr(socket, "AF_UNIX", -1):
            return real(*given, **named)
        with open(os.environ["CALLS"], "a") as file:
            file.write(f"{name} {given!r}\\n")
        raise OSError("watched: no network")
    return call

for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse(name, getattr(socket.socket, name)))
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
    setattr(socket, name, refuse(name))
"""

# The command line with the tests' small model among the known ones, several commands in one process.
COMMANDS = """
import json, sys
from edgepath.cli import main
from edgepath.models import catalogue
from edgepath.models.catalogue import ModelSpec, find_model

h0 = find_model("h0-mini")
arguments = {**h0.timm_args, "embed_dim": 96, "num_heads": 3, "depth": 2}
tiny = ModelSpec("tiny", "for tests", h0.timm_name, arguments, h0.mean, h0.std, "Apache-2.0")
catalogue._SPECS = (*catalogue.model_specs(), tiny)
for words in json.load(sys.stdin):
    sys.argv = ["edgepath", *words]
    try:
        main()
    except SystemExit as end:
        if end.code:
            sys.exit(f"{words}: {end.code}")
"""


def works(*command: str) -> bool:
    return shutil.which(command[0]) is not None and not subprocess.run(command, capture_output=True).returncode


class Machine:
    """A machine with an empty home and a watched network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home, self.calls, self.trace = folder / "home-of-zebulon", folder / "calls", folder / "trace"
        for name in (self.home, folder / "watch", folder / "tmp"):
            name.mkdir(parents=True)
        (folder / "watch" / "sitecustomize.py").write_text(WATCH)
        left_out = ("EDGEPATH_CACHE", "HF_HOME", "HF_HUB_OFFLINE", "XDG_CACHE_HOME", "PYTHONWARNINGS")
        self.environment = {key: value for key, value in os.environ.items() if key not in left_out}
        self.environment |= {"HOME": str(self.home), "USER": USER, "LOGNAME": USER, "TMPDIR": str(folder / "tmp")}
        checkout = Path(__file__).resolve().parent.parent
        self.environment |= {"CALLS": str(self.calls), "PYTHONPATH": f"{folder / 'watch'}{os.pathsep}{checkout}"}
        self._before: list[str] = []
        if works("unshare", "--uts", "hostname", HOST):
            self._before += ["unshare", "--uts", "sh", "-c", f'hostname {HOST} && exec "$0" "$@"']
        trace = ["strace", "-f", "-qq", "-A", "-e", "trace=connect,sendto,sendmsg"]
        filtered = [*trace, "--seccomp-bpf"]  # stops at these calls alone; where that is not allowed, at every call
        if found := next((one for one in (filtered, trace) if works(*one, "-o", os.devnull, "true")), None):
            self._before += [*found, "-o", str(self.trace)]

    def python(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._before, sys.executable, *words],
            input=given,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=550,
        )

    def asked(self) -> list[str]:
        """Every attempt to reach another machine, as Python and as the system saw it."""
        seen = self.calls.read_text().splitlines() if self.calls.exists() else []
        traced = self.trace.read_text(errors="replace").splitlines() if self.trace.exists() else []
        return seen + [line for line in traced if "AF_INET" in line]

    def left_at_home(self) -> list[str]:
        return sorted(path.relative_to(self.home).as_posix() for path in self.home.rglob("*") if path.is_file())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "folder-of-zebulon")


IMPORTS = {
    "onnxruntime": "from edgepath.backends.runners.onnxruntime import Runner; import onnxruntime",
    "openvino": "from edgepath.backends.runners.openvino import Runner; import openvino, openvino.tools.ovc",
    "nncf": "import nncf; assert 'openvino_telemetry.main' not in sys.modules",
    "coremltools": "import coremltools",
    "torch": "import torch, torchvision, timm",
}


@pytest.mark.parametrize("name", IMPORTS)
def test_importing_a_runtime_beside_edgepath_reports_nothing(machine: Machine, name: str) -> None:
    pytest.importorskip(name)
    done = machine.python("-c", f"import sys, edgepath; {IMPORTS[name]}")
    assert done.returncode == 0, done.stderr
    assert (machine.asked(), machine.left_at_home()) == ([], [])


def test_the_hub_is_told_nothing_of_this_machine(machine: Machine) -> None:
    script = "import edgepath; from huggingface_hub import constants; assert constants.HF_HUB_DISABLE_TELEMETRY"
    done = machine.python("-c", script)
    assert done.returncode == 0, done.stderr


@functools.cache
def commands(target: str) -> list[list[str]]:
    bundle, tiles = f"build/tiny-{target}", ["tiles", "--resize", "crop"]
    every = [["export", "--target", target, "--model", "tiny", "--calibration", *tiles, "--calibration-tiles", "16"]]
    every += [["verify", bundle], ["debug", bundle], ["report", "page", bundle, "--out", "page.html"], ["doctor"]]
    every += [["reference", "capture", "--model", "tiny", "--tiles", *tiles, "--out", "golden.npz"]]
    every += [["pack", "build", *tiles, "-n", "8", "--out", "pack"]]
    if not target.startswith("coreml"):
        every += [["embed", bundle, *tiles, "--out", f"features.{kind}"] for kind in ("npz", "h5", "parquet")]
        every += [["bench", bundle, "--against", "peer", "--batch", "1", "--rounds", "3", "--out", "bench.json"]]
    return every


@pytest.mark.slow
@pytest.mark.parametrize("target", ["openvino-int8", "onnx-int8", "coreml-int8"])
def test_every_command_stays_on_this_machine_and_says_nothing_of_it(machine: Machine, target: str) -> None:
    (machine.folder / "tiles").mkdir()
    for number, tile in enumerate(synthesize(22, seed=3)):
        Image.fromarray(tile).save(machine.folder / "tiles" / f"{number:02}.png")
    done = machine.python("-c", COMMANDS, given=json.dumps(commands(target)))
    assert done.returncode == 0, done.stderr[-2000:]
    bundle = machine.folder / "build" / f"tiny-{target}"
    if not target.startswith("coreml"):
        cache = [] if target.startswith("onnx") else ["--set", f"cache={machine.folder / 'models'}"]
        words = [str(bundle / "kit" / "check.py"), "--runs", "1", "--out", "device-report.json", *cache]
        done = machine.python("-B", *words)
        assert done.returncode == 0, done.stderr
    assert machine.asked() == []
    assert {name.split("/")[1] for name in machine.left_at_home()} == {"edgepath"}  # ~/.cache/edgepath
    written = [path for path in machine.folder.iterdir() if path.name not in ("tmp", "watch", "trace", "models")]
    files = [file for path in written for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    assert bundle / "bundle.json" in files
    secrets = [*SECRETS, *({HOST, socket.gethostname()} if len(socket.gethostname()) > 6 else {HOST})]
    found = {(str(file), where, secret) for file in files for where, secret in said_in(file, secrets)}
    assert found == set()


def test_the_search_finds_what_a_file_says(tmp_path: Path) -> None:
    """Otherwise nothing above could fail."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside", f"{'x' * 500}{USER}")
    (tmp_path / "b.bin").write_bytes(b"\0" + USER.encode("utf-16-le"))
    np.savez_compressed(tmp_path / "numpy.npz", paths=np.array([USER] * 9))
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("paths", data=[USER.encode()] * 99, compression="gzip")
    table = pyarrow.table({"paths": [USER] * 99})
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet", compression="zstd")
    for file in sorted(tmp_path.iterdir()):
        assert any(secret == USER for _, secret in said_in(file, SECRETS)), file


def said_in(file: Path, secrets: list[str]) -> Iterator[tuple[str, str]]:
    """Yield where in a file which of `secrets` stands, what is compressed in it unpacked."""
    for where, data in _parts(file):
        for secret in secrets:
            if any(secret.encode(form) in data for form in ("utf-8", "utf-16-le", "utf-32-le")):
                yield where, secret


def _parts(file: Path) -> Iterator[tuple[str, bytes]]:
    data = file.read_bytes()
    yield "", data
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                yield name, archive.read(name)
    if file.suffix == ".parquet":
        table = pyarrow.parquet.read_table(file)
        yield "table", f"{table.schema.metadata} {table.to_pydict()}".encode()
    if file.suffix == ".h5":
        parts: list[str] = []
        show: Callable[[str, object], None] = lambda name, item: parts.append(  # noqa: E731
            f"{name} {dict(item.attrs)} {item[()].tolist() if isinstance(item, h5py.Dataset) else ''}"  # type: ignore[attr-defined]
        )
        with h5py.File(file) as whole:
            whole.visititems(show)
            yield "h5", f"{dict(whole.attrs)} {parts}".encode()


# --- tiles without their names


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """Tiles whose folders and files are named for patients; two are equal, one is damaged."""
    folder = tmp_path / "Quartermaine-study"
    folder.mkdir()
    for number, tile in enumerate([*synthesize(21, seed=3), synthesize(1, seed=3)[0]]):
        (folder / f"Zebulon-{number % 3}").mkdir(exist_ok=True)
        Image.fromarray(tile).save(folder / f"Zebulon-{number % 3}" / f"Quartermaine{number}_x{number}_y7.png")
    (folder / "Zebulon-0" / "Quartermaine_broken.png").write_bytes(b"nothing")
    return folder


NAMES = ["Zebulon", "Quartermaine"]


def assert_nameless(*written: Path) -> None:
    files = [file for path in written for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    assert files
    assert [(file.name, where, name) for file in files for where, name in said_in(file, NAMES)] == []


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".parquet"])
def test_anonymous_embeddings_name_tiles_by_their_pixels(
    exports: Callable[[str], Exported], patients: Path, tmp_path: Path, suffix: str
) -> None:
    bundle, named, nameless = exports("onnx-fp32").bundle, tmp_path / "named.npz", tmp_path / f"a{suffix}"
    options: dict[str, Any] = {"batch": 1, "skip_bad": True}
    edgepath.embed(bundle, patients, out=named, **options)
    assert [*said_in(named, NAMES)]
    done = edgepath.embed(bundle, patients, out=nameless, anonymous=True, **options)
    assert_nameless(nameless)
    assert [key for key, _ in done["skipped"]] == ["unreadable 1"]
    if suffix == ".npz":
        with np.load(nameless) as file, np.load(named) as known:
            rows = dict(zip(file["paths"].tolist(), file["embeddings"], strict=True))
            assert len(rows) == len(known["paths"]) == 22
            for path, row in zip(known["paths"].tolist(), known["embeddings"], strict=True):
                digest = tile_sha256(np.array(Image.open(patients / path)))
                assert np.array_equal(rows[digest[:16]], row)  # its owner finds it again
            assert [name for name in rows if name.endswith("-2")] != []


def test_anonymous_bundle_names_no_tile(known_tiny: ModelSpec, patients: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": known_tiny.name, "calibration": patients, "calibration_tiles": 17}
    options |= {"skip_bad": True, "device": "cpu", "out": tmp_path / "build"}
    done = edgepath.export("onnx-int8", anonymous=True, **options)
    assert_nameless(done.bundle.path)
    golden, _ = done.bundle.golden()
    assert [name[:16] for name in done.bundle.held_out] == [tile_sha256(tile)[:16] for tile in golden]
    assert edgepath.verify(done.bundle.path)["passed"] == done.passed


def test_anonymous_pack_names_no_tile(patients: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"skip_bad": True, "seed": 1}
    named = edgepath.build_pack(patients, tmp_path / "named", 9, **options)
    assert [*said_in(named.path / "tiles.csv", NAMES)]
    pack = edgepath.build_pack(patients, tmp_path / "pack", 9, anonymous=True, **options)
    assert_nameless(pack.path)
    edgepath.check_pack(pack.path)
    with open(tmp_path / "named" / "tiles.csv") as one, open(pack.path / "tiles.csv") as other:
        before, after = list(csv.DictReader(one)), list(csv.DictReader(other))
    for column in ("path", "sha256_pixels", "x", "y"):
        assert [row[column] for row in after] == [row[column] for row in before]
    for column in ("group", "slide"):  # tiles of one are still together
        assert len({(a[column], b[column]) for a, b in zip(before, after, strict=True)}) == len(
            {a[column] for a in before}
        )


def test_numbered_tiles_stay_as_they_are() -> None:
    source = edgepath.open_tiles("synthetic:3")
    assert source.anonymous() is source

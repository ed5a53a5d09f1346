"""Places that a machine may have: no home, nothing writable, a terminal without letters, a full stdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgepath.exporting import Exported
from edgepath.tiles.synthetic import synthesize

Exports = Callable[[str], Exported]
NAME = "Größe-日本"
NOBODY = """
import pwd
def unknown(*_):
    raise KeyError("getpwuid(): uid not found: 4242")
pwd.getpwuid = pwd.getpwnam = unknown
"""
ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
# What the two above come to where Python may not turn to UTF-8 by itself.
NO_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture
def tiles_folder(tmp_path: Path) -> Path:
    folder = tmp_path / NAME / "tiles"
    folder.mkdir(parents=True)
    for number, tile in enumerate(synthesize(2, seed=4)):
        Image.fromarray(tile).save(folder / f"ü{number}.png")
    return folder


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody can write in, root neither."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "none", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("root can write everywhere, and may not mount here")
    folder.chmod(0o555) if os.geteuid() else None
    yield folder
    folder.chmod(0o755) if os.geteuid() else subprocess.run(["umount", str(folder)], check=True)


def edgepath(*words: object, cwd: Path, stdout: str = "", **environment: str) -> tuple[int, str, list[str]]:
    """Run the command; return its exit code, stdout, and the lines of stderr without progress bars."""
    command = [sys.executable, "-m", "edgepath", *map(str, words)]
    return run(command, cwd, environment, stdout)


def run(command: list[str], cwd: Path, environment: dict[str, str], stdout: str = "") -> tuple[int, str, list[str]]:
    checkout = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (environment.pop("PYTHONPATH", ""), checkout) if part)
    given = {**os.environ, "PYTHONPATH": path, **environment}
    given = {key: value for key, value in given.items() if value != "unset"}
    with open(stdout or os.devnull, "wb") as file:
        where = file if stdout else subprocess.PIPE
        done = subprocess.run(command, cwd=cwd, env=given, stdout=where, stderr=subprocess.PIPE, timeout=300)
    said = done.stderr.decode("utf-8", "replace").replace("\r", "\n").splitlines()
    lines = [line for line in said if line.strip() and not line.endswith(("0:00:00", "-:--:--"))]
    assert "Traceback" not in done.stderr.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")[-2000:]
    return done.returncode, (done.stdout or b"").decode("utf-8", "replace"), lines


# --- no home, no name


@pytest.mark.parametrize("target", ["onnx-int8", "openvino-int8"])
def test_user_without_home_and_name_verifies(exports: Exports, target: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOBODY)
    nobody = dict.fromkeys(("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "EDGEPATH_CACHE", "HF_HOME"), "unset")
    script = "import os; assert os.path.expanduser('~') == '~'"
    assert run([sys.executable, "-c", script], tmp_path, {"PYTHONPATH": str(tmp_path), **nobody})[0] == 0
    nobody["PYTHONPATH"] = str(tmp_path)
    words = ("verify", exports(target).bundle.path, "--tiles", "synthetic:3")  # looks in the cache, and writes to it
    assert edgepath(*words, cwd=tmp_path, **nobody)[0] == 0


# --- nothing can be written


def test_bundle_is_used_where_nothing_can_be_written(exports: Exports, tmp_path: Path, read_only: Path) -> None:
    here = {"HOME": str(read_only), "TMPDIR": str(read_only), "EDGEPATH_CACHE": "unset", "HF_HOME": "unset"}
    bundle = exports("onnx-int8").bundle.path
    assert edgepath("verify", bundle, "--tiles", "synthetic:3", cwd=read_only, **here)[0] == 0
    assert edgepath("embed", bundle, "synthetic:3", "--out", tmp_path / "a.npz", cwd=read_only, **here)[0] == 0


def test_outputs_where_nothing_can_be_written_are_refused_at_once(
    exports: Exports, tmp_path: Path, read_only: Path
) -> None:
    bundle, tiles = exports("onnx-int8").bundle.path, ("--tiles", "synthetic:3")
    commands = [
        ("embed", bundle, "synthetic:3", "--out", read_only / "a.npz"),
        ("debug", bundle, "--plot", read_only / "a.png"),
        ("bench", bundle, "--out", read_only / "new" / "a.json"),
        ("report", "page", bundle, "--out", read_only / "a.html"),
        ("reference", "capture", "--model", "demo", *tiles, "--out", read_only / "a.npz"),
        ("pack", "build", "synthetic:3", "-n", "1", "--out", read_only / "pack"),
        ("export", "--target", "onnx-fp32", "--out", read_only / "build"),
    ]
    for words in commands:
        code, _, lines = edgepath(*words, cwd=tmp_path)
        assert (code, len(lines)) == (2, 1), (words, lines)
        assert "written" in lines[0] or "cannot write" in lines[0], words


def test_kit_is_refused_at_once_where_its_report_cannot_be_written(exports: Exports, read_only: Path) -> None:
    check = exports("onnx-int8").bundle.path / "kit" / "check.py"
    code, _, lines = run([sys.executable, "-B", str(check)], read_only, {})
    assert code == 2
    assert lines == ["check.py: nothing can be written in . (Read-only file system); give --out FILE in another folder"]


# --- a terminal without letters


@pytest.mark.parametrize("target", ["onnx-int8", "openvino-int8"])
def test_terminal_without_letters_shows_their_codes(
    exports: Exports, target: str, tmp_path: Path, tiles_folder: Path
) -> None:
    place = tmp_path / NAME
    os.symlink(exports(target).bundle.path, place / "bundle")
    shown = NAME.encode("ascii", "backslashreplace").decode()
    for words, last in (
        (("embed", f"{NAME}/bundle", f"{NAME}/tiles", "--out", f"{NAME}/a.npz"), f"{shown}/a.npz: 2 embeddings"),
        (("verify", f"{NAME}/bundle"), f"{shown}/bundle: passed"),
        (("report", "page", f"{NAME}/bundle", "--out", f"{NAME}/a.html"), f"{shown}/a.html: passed"),
    ):
        code, out, lines = edgepath(*words, cwd=tmp_path, **ASCII)
        assert code == 0, lines
        assert out.splitlines()[-1].startswith(last)
    with np.load(place / "a.npz") as file:
        assert file["paths"].tolist() == ["ü0.png", "ü1.png"]
    words = ("embed", f"{NAME}/bundle", f"{NAME}/tiles", "--out", f"{NAME}/b.npz", "--json")
    _, out, _ = edgepath(*words, cwd=tmp_path, **ASCII)
    assert json.loads(out)["file"] == f"{NAME}/b.npz"


def test_path_that_a_runtime_cannot_be_given_is_named(exports: Exports, tmp_path: Path) -> None:
    os.symlink(exports("onnx-int8").bundle.path, tmp_path / NAME)
    code, _, lines = edgepath("verify", NAME, cwd=tmp_path, **NO_UTF8)
    assert (code, len(lines)) == (2, 1)
    assert lines[0].endswith("no text in UTF-8, as runtimes need it; move it, or set PYTHONUTF8=1")
    code, _, lines = run([sys.executable, "-B", f"{NAME}/kit/check.py"], tmp_path, dict(NO_UTF8))
    assert (code, len(lines)) == (2, 1)
    assert lines[0].endswith("is no text in UTF-8, as runtimes need it; move it, or set PYTHONUTF8=1")


# --- what a library says


def test_what_pillow_warns_of_reaches_no_terminal(exports: Exports, tmp_path: Path) -> None:
    exif = b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(20)  # its directory lies behind its end
    (tmp_path / "tiles").mkdir()
    Image.fromarray(synthesize(1, seed=4)[0]).save(tmp_path / "tiles" / "a.jpg", exif=exif)
    command = ("embed", exports("onnx-int8").bundle.path, "tiles", "--out", "a.npz")
    code, _, lines = edgepath(*command, cwd=tmp_path, PYTHONWARNINGS="unset")
    assert (code, [line for line in lines if "Warning" in line or "warnings.warn" in line]) == (0, [])


# --- a full stdout

FULL = "/dev/full"


@pytest.mark.skipif(not os.path.exists(FULL), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_full_stdout_is_one_line(exports: Exports, tmp_path: Path, unbuffered: str) -> None:
    bundle, how = exports("onnx-int8").bundle.path, {"stdout": FULL, "PYTHONUNBUFFERED": unbuffered or "unset"}
    for words in (("targets",), ("--help",), ("models", "--json"), ("embed", bundle, "synthetic:2", "--out", "a.npz")):
        code, _, lines = edgepath(*words, cwd=tmp_path, **how)
        assert code == 2
        assert lines[-1].startswith(
            "edgepath: stdout cannot be written (No space left on device); files that the command"
        )
    with np.load(tmp_path / "a.npz") as file:
        assert len(file["embeddings"]) == 2
    check, environment = bundle / "kit" / "check.py", {"PYTHONUNBUFFERED": unbuffered or "unset"}
    code, _, lines = run([sys.executable, "-B", str(check), "--runs", "1"], tmp_path, environment, FULL)
    assert code == 2
    assert lines[-1] == "check.py: the result cannot be printed (No space left on device)"
    assert json.loads((tmp_path / "device-report.json").read_text())["passed"]


# --- closed and full streams, and a folder that is gone

PYTHON, ENVIRONMENT = sys.executable, {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def shell(script: str, cwd: Path) -> tuple[int, str]:
    """Run a line of bash; return its exit code and what it wrote to streams that are left open."""
    command = ["bash", "-o", "pipefail", "-c", script]
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"} | ENVIRONMENT
    done = subprocess.run(command, cwd=cwd, env=kept, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(not os.path.exists(FULL), reason="needs /dev/full")
@pytest.mark.parametrize("streams", ["2>/dev/full", "2>&-", "<&- 2>&-"])
def test_what_stderr_cannot_take_changes_nothing(exports: Exports, tmp_path: Path, streams: str) -> None:
    bundle = exports("onnx-int8").bundle.path
    assert shell(f"{PYTHON} -m edgepath embed {bundle} synthetic:2 --out a.npz {streams}", tmp_path)[0] == 0
    with np.load(tmp_path / "a.npz") as file:  # nothing that is talk went to a file in stderr's place
        assert len(file["embeddings"]) == 2
    assert shell(f"{PYTHON} -m edgepath embed nowhere synthetic:2 --out b.npz {streams}", tmp_path)[0] == 2
    assert shell(f"{PYTHON} -m edgepath embed --nonsense {streams}", tmp_path)[0] == 2
    check = f"{PYTHON} -B {bundle / 'kit' / 'check.py'} --runs 1 --force"
    code, said = shell(f"{check} {streams}", tmp_path)
    assert (code, said.splitlines()[-1]) == (0, f"{bundle.name}: passed")
    assert shell(f"{check} --set x {streams}", tmp_path)[0] == 2


def test_closed_stdout_is_one_line(exports: Exports, tmp_path: Path) -> None:
    bundle = exports("onnx-int8").bundle.path
    code, said = shell(f"{PYTHON} -m edgepath targets >&-", tmp_path)
    assert (code, len(said.splitlines())) == (2, 1)
    assert said.startswith("edgepath: stdout cannot be written (Bad file descriptor)")
    code, said = shell(f"{PYTHON} -B {bundle / 'kit' / 'check.py'} --runs 1 >&-", tmp_path)
    assert (code, said.splitlines()[-1]) == (2, "check.py: the result cannot be printed (Bad file descriptor)")
    assert json.loads((tmp_path / "device-report.json").read_text())["passed"]
    embed = f"{PYTHON} -m edgepath embed {bundle} synthetic:2 --out a.npz"
    assert shell(f"{embed} <&- >&- 2>&-", tmp_path)[0] == 2
    with np.load(tmp_path / "a.npz") as file:
        assert len(file["embeddings"]) == 2


def test_reader_that_has_seen_enough_is_no_failed_gate(tmp_path: Path) -> None:
    code, said = shell(f"({PYTHON} -m edgepath models --json; echo code $? >&2) | true", tmp_path)
    assert (code, said) == (0, "code 2\n")


def test_folder_that_is_gone_is_one_line(exports: Exports, tmp_path: Path) -> None:
    bundle, out = exports("onnx-int8").bundle.path, tmp_path / "a.npz"
    gone = "mkdir gone && cd gone && rmdir ../gone &&"
    code, said = shell(f"{gone} {PYTHON} -m edgepath embed {bundle} synthetic:2 --out b.npz", tmp_path)
    assert (code, said) == (2, "edgepath: the working directory is not there any more; change to one that is\n")
    assert shell(f"{gone} {PYTHON} -m edgepath embed {bundle} synthetic:2 --out {out}", tmp_path)[0] == 0
    code, said = shell(f"{gone} {PYTHON} -B {bundle / 'kit' / 'check.py'} --runs 1", tmp_path)
    assert (code, said) == (2, "check.py: the working directory is not there any more; change to one that is\n")

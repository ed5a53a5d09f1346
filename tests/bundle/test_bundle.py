"""Bundles appear whole or not at all, and nothing of an altered one is loaded."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepath.bundle.bundle import Bundle, open_bundle
from edgepath.bundle.writer import BundleWriter
from edgepath.errors import BundleError, MissingRuntime, UsageError

SIZE, DIM = 8, 3
FIGURES = ("cosine_mean", "cosine_p01", "cosine_min", "relative_l2", "neighbour_overlap")
NOISE_FLOOR = {"tiles": 4, "neighbours": 3, "worst": []} | dict.fromkeys(FIGURES, 1.0)


def manifest(backend: str = "onnxruntime", artifact: str = "model.onnx") -> dict[str, Any]:
    return {
        "name": "tiny-onnx-fp32",
        "model": {"name": "tiny"},
        "recipe": {"target": "onnx-fp32", "backend": backend},
        "artifact": {"file": artifact},
        "contract": {"size": SIZE, "dim": DIM, "tokens": False, "embedding": "cls"},
        "weights": {"source": "here", "sha256": "0" * 64, "random": True},
        "held_out": {"keys": ["a", "b", "c", "d"]},
        "drift": {"noise_floor": NOISE_FLOOR},
        "program": {},
        "cautions": [],
        "measured": {"cosine": 0.5},
    }


def fill(folder: Path) -> None:
    """An artifact that means over pixels, its golden set computed by NumPy, and a kit."""
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["tiles"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["embedding"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("tiles", TensorProto.UINT8, ["n", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", DIM])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    tiles = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    (folder / "golden").mkdir()
    np.savez(folder / "golden" / "tiles.npz", tiles=tiles)
    np.savez(folder / "golden" / "reference.npz", embeddings=tiles.mean(axis=(1, 2)).astype(np.float32))
    (folder / "kit").mkdir()
    (folder / "kit" / "check.py").write_text("print('ok')\n")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    with BundleWriter(tmp_path / "made" / "tiny-onnx-fp32") as writer:
        fill(writer.path)
        writer.commit(manifest())
    return open_bundle(tmp_path / "made" / "tiny-onnx-fp32")


def rewrite(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((bundle.path / "bundle.json").read_text())
    change(values)
    (bundle.path / "bundle.json").write_text(json.dumps(values))


def refused(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- what a bundle is


def test_opened_bundle_says_what_it_is(bundle: Bundle) -> None:
    assert (bundle.name, bundle.model, bundle.target) == ("tiny-onnx-fp32", "tiny", "onnx-fp32")
    assert (bundle.backend, bundle.dim, bundle.outputs) == ("onnxruntime", DIM, ("embedding",))
    assert bundle.artifact == bundle.path / "model.onnx"
    assert bundle.manifest["schema"] == 1
    assert bundle.manifest["measured"] == {"cosine": 0.5}
    assert bundle.digest == hashlib.sha256((bundle.path / "bundle.json").read_bytes()).hexdigest()


def test_manifest_hashes_every_file_as_sha256sum_does(bundle: Bundle) -> None:
    names = sorted(p.relative_to(bundle.path).as_posix() for p in bundle.path.rglob("*") if p.is_file())
    assert sorted([*bundle.manifest["files"], "bundle.json"]) == names
    for name, entry in bundle.manifest["files"].items():
        said = subprocess.run(["sha256sum", bundle.path / name], capture_output=True, text=True, check=True).stdout
        assert entry == {"sha256": said.split()[0], "size_bytes": (bundle.path / name).stat().st_size}


def test_runner_embeds_the_golden_tiles(bundle: Bundle) -> None:
    tiles, reference = bundle.golden()
    with bundle.runner(threads=1) as runner:
        embeddings = runner(tiles)
    assert (embeddings.dtype, embeddings.shape) == (np.float32, (4, DIM))
    # A mean of 64 integers below 256: float32 holds their sum exactly, the division rounds once.
    np.testing.assert_allclose(embeddings, reference, rtol=1e-6)


def test_runner_refuses_an_option_its_backend_does_not_have(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="onnxruntime has no option device; known: threads"):
        bundle.runner(device="NPU")


def test_runner_refuses_a_backend_it_does_not_know(bundle: Bundle) -> None:
    rewrite(bundle, lambda m: m["recipe"].update(backend="os"))
    with pytest.raises(BundleError, match='unknown backend "os"; known: openvino, onnxruntime'):
        open_bundle(bundle.path).runner()


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs on macOS")
def test_runner_names_the_host_that_is_missing(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "apple") as writer:
        fill(writer.path)
        (writer.path / "model.mlpackage" / "Data").mkdir(parents=True)
        (writer.path / "model.mlpackage" / "Data" / "weight.bin").write_bytes(b"123")
        writer.commit(manifest("coreml", "model.mlpackage"))
    opened = open_bundle(tmp_path / "apple")
    assert opened.artifact.is_dir()
    with pytest.raises(MissingRuntime, match="only on macOS"):
        opened.runner()


def test_runner_names_the_extra_that_is_missing(bundle: Bundle) -> None:
    script = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from edgepath.bundle.bundle import open_bundle\n"
        "from edgepath.errors import MissingRuntime\n"
        "try: open_bundle(sys.argv[1]).runner()\n"
        "except MissingRuntime as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", script, bundle.path], capture_output=True, text=True, check=True)
    assert "pip install 'edgepath[onnxruntime]'" in said.stdout


@pytest.mark.parametrize(
    ("name", "arrays", "said"),
    [
        ("tiles", {"tiles": np.zeros((4, SIZE, SIZE, 3), np.float32)}, "golden set is"),
        ("tiles", {"tiles": np.zeros((3, SIZE, SIZE, 3), np.uint8)}, "golden set is"),
        ("tiles", {"other": np.zeros(3)}, "tiles.npz cannot be read"),
        ("tiles", {"tiles": np.array([{}], dtype=object)}, "tiles.npz cannot be read"),
        ("reference", {"embeddings": np.zeros((4, DIM + 1), np.float32)}, r"reference.npz is float32 \(4, 4\)"),
        (
            "reference",
            {"embeddings": np.zeros((3, DIM), np.float32)},
            r"\(3, 3\); its manifest asks for float32 \(4, 3\)",
        ),
        ("reference", None, "reference.npz cannot be read"),
    ],
    ids=["dtype", "count", "key", "pickle", "dim", "not those of the manifest", "not a zip"],
)
def test_golden_set_keeps_the_contract(bundle: Bundle, name: str, arrays: dict[str, Any] | None, said: str) -> None:
    path = bundle.path / "golden" / f"{name}.npz"
    path.write_bytes(b"not a zip") if arrays is None else np.savez(path, **arrays)
    with pytest.raises(BundleError, match=f"{name}.npz changed since it was opened; open it again"):
        bundle.golden()
    data = path.read_bytes()
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    rewrite(bundle, lambda values: values["files"].update({f"golden/{name}.npz": entry}))
    bundle = open_bundle(bundle.path)
    with pytest.raises(BundleError, match=said):
        bundle.golden()


# --- what is refused


@pytest.mark.parametrize("name", ["model.onnx", "golden/tiles.npz", "golden/reference.npz", "kit/check.py"])
def test_one_changed_byte_is_refused(bundle: Bundle, name: str) -> None:
    data = bytearray((bundle.path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle.path / name).write_bytes(data)
    assert f"{name} was altered" in refused(bundle.path)


def test_shortened_file_is_refused(bundle: Bundle) -> None:
    with open(bundle.path / "model.onnx", "r+b") as file:
        file.truncate(10)
    assert "model.onnx has 10 bytes" in refused(bundle.path)


def test_missing_file_is_refused(bundle: Bundle) -> None:
    (bundle.path / "kit" / "check.py").unlink()
    assert "kit/check.py is missing" in refused(bundle.path)


def test_extra_file_is_refused(bundle: Bundle) -> None:
    (bundle.path / "kit" / "json.py").write_text("import os")
    assert "kit/json.py is not in its manifest" in refused(bundle.path)


def test_what_systems_leave_is_no_damage(bundle: Bundle, tmp_path: Path) -> None:
    for name in (".DS_Store", "golden/._tiles.npz", "kit/Thumbs.db", "@eaDir/SYNOFILE", "__MACOSX/._bundle.json"):
        (bundle.path / name).parent.mkdir(exist_ok=True)
        (bundle.path / name).write_bytes(b"left by a system")
    assert open_bundle(bundle.path).digest == bundle.digest
    (bundle.path / "kit" / "Thumbs.db.py").write_text("import os")
    assert "kit/Thumbs.db.py is not in its manifest" in refused(bundle.path)


def link(path: Path) -> None:
    path.symlink_to("check.py")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    cwd = os.getcwd()
    os.chdir(path.parent)  # a socket's path may have 108 bytes only
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(cwd)


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.parametrize("make", [link, pipe, listening])
@pytest.mark.parametrize("replace", [False, True], ids=["extra", "in place of a file"])
def test_links_pipes_and_sockets_are_refused(bundle: Bundle, make: Callable[[Path], None], replace: bool) -> None:
    path = bundle.path / "golden" / ("tiles.npz" if replace else "more")
    path.unlink(missing_ok=True)
    make(path)
    assert "a bundle holds files only" in refused(bundle.path)


def test_linked_folder_inside_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / "kit").rename(tmp_path / "kit")
    (bundle.path / "kit").symlink_to(tmp_path / "kit")
    assert "kit is a symbolic link" in refused(bundle.path)


def test_linked_manifest_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / "bundle.json").rename(tmp_path / "bundle.json")
    (bundle.path / "bundle.json").symlink_to(tmp_path / "bundle.json")
    assert "not a regular file" in refused(bundle.path)


def test_link_to_a_whole_bundle_opens(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(bundle.path)
    assert open_bundle(tmp_path / "latest").digest == bundle.digest


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "kit/../../x",
        "/etc/passwd",
        "kit\\check.py",
        "C:x",
        "",
        ".",
        "kit//x",
        "./x",
        "kit/",
        "bundle.json",
        "a\0b",
    ],
)
def test_names_that_lead_out_are_refused(bundle: Bundle, name: str) -> None:
    rewrite(bundle, lambda m: m["files"].update({name: {"sha256": "0" * 64, "size_bytes": 1}}))
    assert "is not a name for a file in a bundle" in refused(bundle.path)


def test_file_outside_cannot_be_the_artifact(bundle: Bundle) -> None:
    rewrite(bundle, lambda m: m["artifact"].update(file="../model.onnx"))
    assert "artifact ../model.onnx is not among its files" in refused(bundle.path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "schema = None"),
        ('{"schema": 1, "schema": 1}', "a key stands twice among schema"),
        ('{"schema": NaN}', "NaN is not JSON"),
        ('{"schema": 2}', "schema = 2; this edgepath reads schema 1; a newer edgepath wrote it: update"),
        ('{"schema": 0}', "schema = 0"),
        ('{"schema": true}', "schema = True"),
        ('{"schema": "1"}', "schema = '1'"),
        ('{"schema": 1}', "lists no files"),
        ("[" * 100_000, "not valid JSON"),
        ("\udcff", "not valid JSON"),
    ],
    ids=range(12),
)
def test_bad_manifest_is_refused(bundle: Bundle, text: str, said: str) -> None:
    (bundle.path / "bundle.json").write_text(text, errors="surrogateescape")
    assert said in refused(bundle.path)


@pytest.mark.parametrize(
    "entry", [None, {}, {"sha256": "0" * 64, "size_bytes": True}, {"sha256": "x", "size_bytes": 1}]
)
def test_bad_file_entry_is_refused(bundle: Bundle, entry: Any) -> None:
    rewrite(bundle, lambda m: m["files"].update({"model.onnx": entry}))
    assert "files.model.onnx needs sha256 and size_bytes" in refused(bundle.path)


@pytest.mark.parametrize("key", ["name", "model.name", "recipe.backend", "artifact.file", "contract.dim"])
def test_missing_key_is_refused(bundle: Bundle, key: str) -> None:
    def drop(values: dict[str, Any]) -> None:
        *path, last = key.split(".")
        for step in path:
            values = values[step]
        del values[last]

    rewrite(bundle, drop)
    assert f"{key} = None; expected" in refused(bundle.path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("cautions.0", [], "cautions = []; expected str"),
        ("cautions.0", "two\nlines\x1b[31m", 'cautions = "two\\nlines\\x1b[31m"; expected one line of text'),
        ("contract.embedding", "x\n<script>\x1b[31m", "known: cls, cls+mean"),
        ("contract.size", True, "contract.size = True; expected int"),
        ("contract.dim", 0, "contract.dim = 0; a number above 0 is needed"),
        ("weights.sha256", "x\n\x1b[31m", "expected a sha256, 64 hexadecimal digits"),
        ("drift.noise_floor.tiles", None, "drift.noise_floor.tiles = None; expected int"),
        ("drift.noise_floor.cosine_min", 10**400, "expected float"),
        ("program", ["x"], "program.vit = 'x'; expected float"),
        ("artifact.file", "a\0b", "its artifact 'a\\x00b' is not among its files"),
        ("recipe", [], "recipe.target = None; expected str"),
    ],
)
def test_value_of_another_type_is_refused(bundle: Bundle, key: str, value: Any, said: str) -> None:
    def change(values: Any) -> None:
        if key.startswith("program"):
            values["program"] = {"vit": value}
        elif key == "cautions.0":
            values["cautions"] = [value]
        else:
            *path, last = key.split(".")
            for step in path:
                values = values[step]
            values[last] = value

    rewrite(bundle, change)
    message = refused(bundle.path)
    assert said in message
    assert message.isprintable()
    assert len(message) < 500


def test_a_manifest_is_typed_values_and_keeps_what_else_it_holds(bundle: Bundle) -> None:
    assert (bundle.contract.dim, bundle.contract.embedding, bundle.noise_floor.cosine_mean) == (DIM, "cls", 1.0)
    assert (bundle.weights.sha256, bundle.held_out, bundle.program) == ("0" * 64, ("a", "b", "c", "d"), {})
    assert bundle.manifest["measured"] == {"cosine": 0.5}


def test_what_is_no_bundle_is_named(bundle: Bundle, tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "nowhere")
    assert "is not a folder" in refused(bundle.path / "model.onnx")
    assert "give one of tiny-onnx-fp32" in refused(bundle.path.parent)
    assert "found check.py" in refused(bundle.path / "kit")
    (tmp_path / "pack").mkdir()
    assert "it is empty" in refused(tmp_path / "pack")
    (tmp_path / "pack" / "pack.toml").touch()
    assert "it is a calibration pack" in refused(tmp_path / "pack")


# --- how one is written


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_existing_bundle_is_refused_before_any_work(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="exists; give --force"):
        BundleWriter(bundle.path).__enter__()
    assert contents(bundle.path.parent) == {bundle.path.name}


def test_force_keeps_the_old_bundle_until_the_new_one_is_complete(bundle: Bundle) -> None:
    with BundleWriter(bundle.path, force=True) as writer:
        fill(writer.path)
        assert open_bundle(bundle.path).digest == bundle.digest
        writer.commit(manifest() | {"name": "second"})
    assert open_bundle(bundle.path).name == "second"
    assert contents(bundle.path.parent) == {bundle.path.name}


def test_error_leaves_the_old_bundle_and_nothing_else(bundle: Bundle) -> None:
    with pytest.raises(ZeroDivisionError), BundleWriter(bundle.path, force=True) as writer:
        fill(writer.path)
        _ = 1 / 0
    assert open_bundle(bundle.path).digest == bundle.digest
    assert contents(bundle.path.parent) == {bundle.path.name}


@pytest.mark.parametrize("force", [False, True])
def test_folder_of_the_users_is_never_replaced(tmp_path: Path, force: bool) -> None:
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "case.svs").write_text("precious")
    with pytest.raises(UsageError, match="is not a bundle to replace"):
        BundleWriter(tmp_path / "slides", force=force).__enter__()
    assert (tmp_path / "slides" / "case.svs").read_text() == "precious"


@pytest.mark.parametrize("text", ["{}", "notes", '{"schema": 1}'])
def test_folder_with_another_bundle_json_is_never_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "bundle.json").write_text(text)
    with pytest.raises(UsageError, match="is not a bundle to replace"):
        BundleWriter(tmp_path / "web", force=True).__enter__()
    assert (tmp_path / "web" / "bundle.json").read_text() == text


def test_bundle_with_a_file_of_the_users_is_not_replaced(bundle: Bundle) -> None:
    (bundle.path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds notes\.txt"):
        BundleWriter(bundle.path, force=True).__enter__()


def test_damaged_bundle_can_be_replaced(bundle: Bundle) -> None:
    (bundle.path / "model.onnx").write_bytes(b"")
    with BundleWriter(bundle.path, force=True) as writer:
        fill(writer.path)
        writer.commit(manifest())
    assert open_bundle(bundle.path).dim == DIM


def test_manifest_without_what_a_reader_needs_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"recipe\.target = None"), BundleWriter(tmp_path / "new") as writer:
        fill(writer.path)
        writer.commit(manifest() | {"recipe": {}})
    assert contents(tmp_path) == set()


# --- what happens when the process dies

WRITE = f"""
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_bundle import fill, manifest
from edgepath.bundle.writer import BundleWriter

die_after, renames = int(sys.argv[2]), []
rename = os.rename
def rename_and_die(*names):
    rename(*names)
    renames.append(names)
    if len(renames) == die_after:
        os.kill(os.getpid(), signal.SIGKILL)
os.rename = rename_and_die

with BundleWriter(sys.argv[1], force=True) as writer:
    fill(writer.path)
    if not die_after:
        print(writer.path, flush=True)
        time.sleep(600)
    writer.commit(manifest() | {{"name": "second"}})
"""


def start(final: Path, die_after: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITE, str(final), str(die_after)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stop(process: subprocess.Popen[str], how: int | None) -> str:
    """Wait until the process is in the middle of its work, end it, and return its partial folder."""
    assert process.stdout is not None
    partial = process.stdout.readline().strip()
    if how is not None:
        assert Path(partial).is_dir(), process.communicate()
        process.send_signal(how)
    process.communicate()
    return partial


def write_again(final: Path) -> None:
    with BundleWriter(final, force=True) as writer:
        fill(writer.path)
        writer.commit(manifest() | {"name": "third"})
    assert open_bundle(final).name == "third"
    assert contents(final.parent) == {final.name}


def test_killed_export_leaves_no_half_bundle_and_the_next_one_works(tmp_path: Path) -> None:
    process = start(tmp_path / "new")
    partial = stop(process, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert contents(tmp_path) == {Path(partial).parent.name}
    assert "no such folder" in refused(tmp_path / "new")
    write_again(tmp_path / "new")


def test_terminated_export_cleans_up(tmp_path: Path) -> None:
    process = start(tmp_path / "new")
    stop(process, signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    assert contents(tmp_path) == set()


@pytest.mark.parametrize("next_step", [open_bundle, write_again], ids=["open", "write"])
@pytest.mark.parametrize(("die_after", "name"), [(1, "tiny-onnx-fp32"), (2, "second")], ids=["set aside", "renamed"])
def test_killed_between_the_renames(
    bundle: Bundle, die_after: int, name: str, next_step: Callable[[Path], object]
) -> None:
    process = start(bundle.path, die_after)
    stop(process, None)
    assert process.returncode == -signal.SIGKILL
    assert bundle.path.exists() == (die_after == 2)
    next_step(bundle.path)
    if next_step is open_bundle:
        assert open_bundle(bundle.path).name == name
        write_again(bundle.path)


# --- a full disk


def test_full_disk_at_the_manifest_keeps_the_old_bundle(small_disk: Path) -> None:
    final = small_disk / "new"
    write_again(final)
    (small_disk / "ballast").write_bytes(bytes(900 << 10))
    with pytest.raises(BundleError, match="disk full"), BundleWriter(final, force=True) as writer:
        fill(writer.path)
        writer.commit(manifest() | {"filler": "x" * (1 << 20)})
    assert open_bundle(final).name == "third"
    assert contents(small_disk) == {"new", "ballast"}


# --- what changes after it was checked


def touched(path: Path) -> None:
    os.utime(path, (1, 1))


def in_place(path: Path) -> None:
    status = path.stat()
    with open(path, "r+b") as file:
        file.write(b"\0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as if nothing had happened


def another(path: Path) -> None:
    path.with_name("new").write_bytes(bytes(path.stat().st_size))
    path.with_name("new").rename(path)


@pytest.mark.parametrize("change", [in_place, another, lambda path: path.unlink()])
def test_artifact_that_changed_since_the_bundle_was_opened_is_not_loaded(
    bundle: Bundle, change: Callable[[Path], None]
) -> None:
    change(bundle.path / "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx (changed since it was opened|is gone).*; open it again"):
        bundle.runner()
    with pytest.raises(BundleError, match="open it again"):
        _ = bundle.artifact


def test_artifact_that_changes_while_it_is_loaded_is_not_used(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepath.backends.runners import onnxruntime

    class Slow(onnxruntime.Runner):
        def __init__(self, artifact: Path) -> None:
            super().__init__(artifact)
            in_place(artifact)

    monkeypatch.setattr(onnxruntime, "Runner", Slow)
    with pytest.raises(BundleError, match=r"model\.onnx changed since it was opened"):
        bundle.runner()


def test_artifact_that_was_copied_over_itself_is_the_same(bundle: Bundle) -> None:
    touched(bundle.path / "model.onnx")
    (bundle.path / "model.onnx").write_bytes((bundle.path / "model.onnx").read_bytes())
    with bundle.runner() as runner:
        assert runner.size == SIZE


def test_bundle_in_the_hubs_cache_says_how_to_get_it_out(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    for name in ("model.onnx", "bundle.json"):
        (bundle.path / name).rename(tmp_path / "blobs" / name)
        (bundle.path / name).symlink_to(tmp_path / "blobs" / name)
        said = refused(bundle.path)
        assert re.search(r"in the Hub.s cache: copy it out of there with `cp -rL .*tiny-onnx-fp32 FOLDER`", said)
    copy = subprocess.run(["cp", "-rL", bundle.path, tmp_path / "copy"])
    assert copy.returncode == 0
    assert open_bundle(tmp_path / "copy").digest == bundle.digest

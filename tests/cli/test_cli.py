"""The command line: exit codes, what goes to stdout and what to stderr, and one line for every mistake."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgepath import cli
from edgepath.backends.runners.onnxruntime import Runner as ModelRunner
from edgepath.bundle.bundle import Bundle
from edgepath.exporting import Exported

Exports = Callable[[str], Exported]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def edgepath(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command in this process and return exit code, stdout and stderr."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edgepath", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def test_what_is_not_taken_is_said_once_and_recorded(
    edgepath: Command, exports: Exports, tmp_path: Path, tiles: np.ndarray
) -> None:
    folder = tmp_path / "tiles\x1b[31m"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(tiles[i]).save(folder / f"{i}.png")
        Image.fromarray(tiles[i]).save(folder / f"{i}.gif")
    (folder / "._0.png").write_bytes(b"left by a system")
    bundle = exports("onnx-fp32").bundle.path
    code, out, err = edgepath("embed", bundle, folder, "--out", tmp_path / "f.npz", "--json")
    assert code == 0
    assert err.count("not taken are 3 .gif") == 1
    assert "tiles\\x1b[31m" in err
    assert (json.loads(out)["tiles"], json.loads(out)["left_out"]) == (3, {".gif": 3})
    with np.load(tmp_path / "f.npz") as file:
        assert json.loads(str(file["metadata"]))["left_out"] == {".gif": 3}
    code, out, err = edgepath("verify", bundle, "--tiles", folder, "--device", "cpu", "--json")
    assert err.count("not taken are 3 .gif") == 1
    assert json.loads(out)["tiles"]["source"]["left_out"] == {".gif": 3}


def test_a_bad_tile_names_the_option_that_leaves_it_out(
    edgepath: Command, exports: Exports, tmp_path: Path, tiles: np.ndarray
) -> None:
    bundle, folder = exports("onnx-fp32").bundle.path, tmp_path / "tiles"
    folder.mkdir()
    Image.fromarray(tiles[0]).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"no image")
    command = ("embed", bundle, folder, "--out", tmp_path / "f.npz")
    code, _, err = edgepath(*command)
    assert (code, err.count("\n")) == (2, 1)
    assert err.endswith("; --skip-bad leaves such tiles out\n")
    assert edgepath(*command, "--skip-bad")[0] == 0
    code, _, err = edgepath("debug", bundle, "--tiles", folder)  # which has no such option
    assert (code, "b.png" in err, "--skip-bad" in err) == (2, True, False)
    (folder / "b.png").unlink()
    Image.fromarray(tiles[0, :100, :100]).save(folder / "c.png")
    code, _, err = edgepath("embed", bundle, folder, "--out", tmp_path / "g.npz")
    assert (code, "--resize" in err, "--skip-bad" in err) == (2, True, False)


def test_names_in_errors_cannot_steer_the_terminal(edgepath: Command, exports: Exports, tmp_path: Path) -> None:
    (tmp_path / "lab\x1b[31m").mkdir()
    (tmp_path / "lab\x1b[31m" / "a\nb.png").write_bytes(b"no image")
    code, _, err = edgepath("embed", exports("onnx-fp32").bundle.path, tmp_path, "--out", tmp_path / "f.npz")
    assert code == 2
    assert err.strip().startswith("edgepath: ")
    assert r"lab\x1b[31m/a\nb.png: no PNG" in err
    assert (err.strip().count("\n"), err.count("\x1b")) == (0, 0)


def test_export_verify_embed(
    edgepath: Command,
    tmp_path: Path,
    known_tiny: object,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # Ranges that another test left in the cache would spare the stage that is looked for.
    monkeypatch.setenv("EDGEPATH_CACHE", str(tmp_path_factory.mktemp("cache")))
    options = ("--model", "tiny", "--calibration", "synthetic:32", "--calibration-tiles", "16", "--out", tmp_path)
    code, out, err = edgepath("export", "--target", "onnx-int8", *options)
    assert code == 0
    assert "tiny-onnx-int8: passed, with caution:" in out  # 16 tiles bound no 1st percentile
    assert "gates inconclusive, n is too small to tell (--strict fails)" in " ".join(out.split())
    assert "Weights: random, seed 0." in err
    assert "calibrate" in err, "no progress was shown"
    bundle = tmp_path / "tiny-onnx-int8"
    code, out, err = edgepath("verify", bundle, "--tiles", "synthetic:4:9", "--device", "cpu")
    assert code == 0
    assert "golden tiles (ONNX Runtime" in out
    assert "given tiles (ONNX Runtime" in out
    code, out, err = edgepath("embed", bundle, "synthetic:4", "--out", tmp_path / "f.npz", "--json")
    assert code == 0
    assert json.loads(out)["tiles"] == 4
    with np.load(tmp_path / "f.npz") as file:
        assert file["embeddings"].shape == (4, 96)


def test_json_is_all_there_is_on_stdout(edgepath: Command, exports: Exports, tmp_path: Path) -> None:
    options = ("--model", "tiny", "--calibration", "synthetic:32", "--calibration-tiles", "16", "--out", tmp_path)
    code, out, _ = edgepath("export", "--target", "onnx-fp32", "--json", *options)
    assert code == 0
    report = json.loads(out)
    assert report["passed"] is True
    assert Path(report["path"]) == tmp_path / "tiny-onnx-fp32"
    code, out, _ = edgepath("verify", exports("onnx-int8").bundle.path, "--json")
    assert code == 0
    assert json.loads(out)["golden"]["gates"][0]["gate"] == "cosine_mean"


def test_failed_gate_is_exit_code_1(edgepath: Command, altered: Callable[..., Bundle]) -> None:
    def strict(folder: Path) -> None:
        manifest = json.loads((folder / "bundle.json").read_text())
        manifest["recipe"]["accept"]["cosine_mean"] = 1.0
        (folder / "bundle.json").write_text(json.dumps(manifest))

    code, out, _ = edgepath("verify", altered("onnx-int8", strict).path)
    assert code == 1
    assert "FAILED" in out


def test_an_inconclusive_gate_fails_under_strict_only(edgepath: Command, exports: Exports, tmp_path: Path) -> None:
    bundle = exports("onnx-int8").bundle.path
    code, out, _ = edgepath("verify", bundle)
    assert code == 0
    assert "24 tiles" in out
    assert "passed, with caution: 1 of 2 gates inconclusive" in " ".join(out.split())
    code, out, _ = edgepath("verify", bundle, "--strict")
    assert code == 1
    assert "FAILED (1 of 2 gates inconclusive, n is too small to tell)" in " ".join(out.split())
    page = tmp_path / "page.html"
    for strict, exits in (((), 0), (("--strict",), 1)):
        code, out, _ = edgepath("report", "page", bundle, "--out", page, "--force", *strict)
        assert code == exits
        assert "1 of 3 gates inconclusive" in " ".join(out.split())


def test_altered_bundle_is_exit_code_2_and_nothing_runs(edgepath: Command, exports: Exports, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(exports("onnx-int8").bundle.path, tmp_path / "copy")
    data = bytearray((folder / "model.onnx").read_bytes())
    data[1000] ^= 1
    (folder / "model.onnx").write_bytes(data)
    for command in (("verify", folder), ("embed", folder, "synthetic:1", "--out", tmp_path / "f.npz")):
        code, out, err = edgepath(*command)
        assert code == 2
        assert out == ""
        assert "model.onnx was altered" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("export --target openvino-int9", 'target "openvino-int9" is not known; did you mean "openvino-int8"'),
        ("export --target onnx-int8 --model h1-mini", 'did you mean "h0-mini"?'),
        ("export --target onnx-int8 --calibration nowhere", "tiles nowhere: no such file or folder"),
        ("verify nowhere", "bundle nowhere: no such folder"),
        ("embed nowhere synthetic:1 --out f.npz", "bundle nowhere: no such folder"),
        ("pack check nowhere", "nowhere"),
        ("pack build nowhere --out pack", "nowhere"),
    ],
)
def test_mistake_is_one_line_and_exit_code_2(
    edgepath: Command, words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = edgepath(*words.split())
    assert code == 2
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("edgepath: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words", ["export", "export --target", "export --target onnx-int8 --calibration-tiles 0", "fly"]
)
def test_wrong_options_are_exit_code_2(edgepath: Command, words: str) -> None:
    code, out, err = edgepath(*words.split())
    assert code == 2
    assert out == ""
    assert err.strip()


def test_bug_keeps_its_traceback_and_is_no_failed_gate(edgepath: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepath.recipes import recipe

    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(recipe, "recipes", broken)
    code, out, err = edgepath("targets")
    assert (code, out) == (70, "")
    assert "ZeroDivisionError" in err


@pytest.mark.parametrize("command", ["targets", "models", "doctor"])
def test_tables_as_text_and_as_json(edgepath: Command, command: str) -> None:
    code, out, _ = edgepath(command)
    assert code == 0
    code, said, _ = edgepath(command, "--json")
    assert code == 0
    values = json.loads(said)
    names = {
        "targets": [entry["target"] for entry in values] if command == "targets" else [],
        "models": [entry["name"] for entry in values] if command == "models" else [],
        "doctor": ["PyTorch", "OpenVINO", "Core ML"],
    }[command]
    assert len(names) >= 2
    assert all(name in out for name in names)


def test_pack_is_built_and_checked(edgepath: Command, tmp_path: Path) -> None:
    code, out, _ = edgepath("pack", "build", "synthetic:40", "--out", tmp_path / "pack", "-n", "20")
    assert code == 0
    assert "20 tiles, seed 0" in out
    code, out, _ = edgepath("pack", "check", tmp_path / "pack", "--json")
    assert code == 0
    assert json.loads(out)["count"] == 20
    next((tmp_path / "pack" / "tiles").rglob("*.png")).unlink()
    code, _, err = edgepath("pack", "check", tmp_path / "pack")
    assert code == 2
    assert "missing" in err


@pytest.mark.parametrize("words", ["", "export", "verify", "embed", "targets", "models", "doctor", "pack build"])
def test_help_names_every_option(edgepath: Command, words: str) -> None:
    code, out, _ = edgepath(*words.split(), "--help")
    assert code == 0
    if words == "export":
        for option in ("target", "model", "weights", "calibration", "calibration-tiles", "embedding", "outputs", "out"):
            assert f"--{option}" in out
        assert "--force" in out
        assert "--json" in out


def test_bench_compares_with_an_earlier_result(edgepath: Command, exports: Exports, tmp_path: Path) -> None:
    bundle, out = exports("onnx-int8").bundle.path, tmp_path / "r.json"
    quick = ("--batch", 1, "--rounds", 6, "--seconds", 30, "--cold", 0, "--threads", 1)
    code, said, _ = edgepath("bench", bundle, *quick, "--out", out, "--plot", tmp_path / "p.png")
    assert code == 0
    assert "golden tiles of tiny-onnx-int8" in said
    assert (tmp_path / "p.png").stat().st_size > 1000
    assert edgepath("bench", bundle, *quick, "--out", out)[::2][0] == 2  # exists
    code, said, _ = edgepath("bench", bundle, *quick, "--compare", out, "--worse", 1000, "--json")
    assert code == 0
    assert json.loads(said)["compared"]["passed"] is True
    code, said, _ = edgepath("bench", bundle, *quick, "--compare", out, "--worse", 0.001)
    assert code == 1
    assert said.rstrip().endswith("bench: FAILED (1 of 1 gates missed)")
    code, _, err = edgepath("bench", bundle, "--batch", 2, *quick[2:], "--compare", out)
    assert code == 2
    assert "measured with batch 1, this run with 2; give the same" in err


def test_bench_times_no_graph_of_a_device_elsewhere(edgepath: Command, exports: Exports) -> None:
    code, out, err = edgepath("bench", exports("jetson-int8").bundle.path, "--cold", 0)
    assert (code, out) == (2, "")
    assert "says nothing about its device's speed" in err.splitlines()[-1]
    assert edgepath("bench")[0] == edgepath("bench", "reference", exports("onnx-int8").bundle.path)[0] == 2


def test_bench_reference_keeps_a_file_for_each_device(edgepath: Command, known_tiny: object, tmp_path: Path) -> None:
    options = ("--model", "tiny", "--weights", "random", "--device", "cpu", "--precision", "fp32", "--batch", 1)
    code, out, _ = edgepath("bench", "reference", *options, "--rounds", 3, "--seconds", 1, "--out", tmp_path)
    assert code == 0
    assert "torch FP32" in out
    (kept,) = tmp_path.glob("*/tiny.json")
    assert json.loads(kept.read_text())["kind"] == "reference"


CONFIG = """
architecture = "vit_base_patch14_reg4_dinov2"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
licence = "ours"
[model_args]
embed_dim = 96
num_heads = 3
depth = 2
"""


def test_which_weights_are_taken_is_printed_and_recorded(edgepath: Command, tmp_path: Path) -> None:
    import torch

    from edgepath.models.catalogue import find_model
    from edgepath.models.weights import random_model

    (tmp_path / "ours.toml").write_text(CONFIG)
    state = random_model(find_model(str(tmp_path / "ours.toml"))).state_dict()
    both = {"model": state, "model_ema": {name: value.bfloat16() for name, value in state.items()}}
    torch.save(both, tmp_path / "w.pth")
    common = ("--model-config", tmp_path / "ours.toml", "--calibration", "synthetic:40", "--out", tmp_path, "--force")
    for key, source in (("", "model_ema, model left out, bfloat16"), ("::model", "model, model_ema left out, float32")):
        code, out, err = edgepath("export", "--target", "onnx-fp32", "--weights", f"{tmp_path}/w.pth{key}", *common)
        assert code == 0
        assert f"w.pth::{source}, sha256 " in out
        assert ("Weights: stored in bfloat16." in err) is (key == "")
        bundle = tmp_path / "ours-onnx-fp32"
        recorded = json.loads((bundle / "bundle.json").read_text())
        assert f"{recorded['weights']['source']}, {recorded['weights']['precision']}" == f"w.pth::{source}"
        assert (recorded["model"]["licence"], recorded["model"]["timm_args"]["depth"]) == ("ours", 2)
        # What the bundle was made from is found again by the same key, and not by the other.
        verified = [
            edgepath("verify", bundle, "--tiles", "synthetic:4", "--weights", f"{tmp_path}/w.pth::{name}")
            for name in both
        ]
        assert [code for code, _, _ in verified] == ([2, 0] if key == "" else [0, 2])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("export", "--target", "onnx-fp32", "--model", "demo", "--model-config", "x.toml"), "both name a model"),
        (("export", "--target", "onnx-fp32", "--model-config", "x.json"), "--model-config x.json: give a .toml file"),
        (
            ("export", "--target", "onnx-fp32", "--model-config", "absent.toml"),
            "model config absent.toml: no such file",
        ),
        (("reference", "capture", "--tiles", "synthetic:4", "--out", "g.npz"), "one of them; neither was given"),
        (("bench", "reference", "--model-config", "absent.toml"), "model config absent.toml: no such"),
        (("export", "--target", "onnx-fp32", "--weights", "absent.pth::model"), "weights absent.pth: no such file"),
    ],
)
def test_a_model_that_is_not_named_well_is_one_line(
    words: tuple[str, ...], said: str, edgepath: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = edgepath(*words)
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("calibrate check nowhere", "edgepath pack", "pack nowhere: no such folder"),
        ("bench --reference --model-config absent.toml", "edgepath bench reference", "absent.toml: no such file"),
        ("probe nowhere --labelled tiles", "edgepath probe labels BUNDLE FOLDER", "bundle nowhere: no such folder"),
    ],
)
def test_names_of_the_release_before_work_and_say_what_replaces_them(
    edgepath: Command, old: str, new: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = edgepath(*old.split())
    assert (code, out) == (2, "")
    assert f"is deprecated; use {new} (gone in 0.3)" in err
    assert said in err.splitlines()[-1]
    assert "calibrate" not in edgepath("--help")[1]


def test_version_and_short_help(edgepath: Command) -> None:
    from edgepath import __version__

    assert edgepath("--version")[:2] == (0, f"edgepath {__version__}\n")
    assert edgepath("export", "-h")[:2] == edgepath("export", "--help")[:2]


def test_help_groups_options(edgepath: Command) -> None:
    code, out, _ = edgepath("export", "--help")
    assert code == 0
    titles = [line[:-1] for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Options", "Model", "Tiles", "Run", "Result", "Help"]


def test_a_bundle_of_weights_from_a_file_asks_for_that_file(edgepath: Command, tmp_path: Path) -> None:
    import torch

    from edgepath.models.catalogue import find_model
    from edgepath.models.weights import random_model

    (tmp_path / "ours.toml").write_text(CONFIG)
    state = random_model(find_model(str(tmp_path / "ours.toml")), seed=5).state_dict()
    torch.save(state, tmp_path / "w.pth")
    common = ("--model-config", tmp_path / "ours.toml", "--calibration", "synthetic:40", "--out", tmp_path)
    assert edgepath("export", "--target", "onnx-fp32", "--weights", tmp_path / "w.pth", *common)[0] == 0
    code, _, err = edgepath("bench", tmp_path / "ours-onnx-fp32", "--against", "torch", "--cold", 0)
    assert code == 2
    last = err.splitlines()[-1]
    assert "ours-onnx-fp32 was exported from w.pth" in last
    assert "give that file or folder with --weights" in last


def test_lint_of_a_bundle_without_a_graph_says_what_it_checks(edgepath: Command, exports: Exports) -> None:
    code, out, err = edgepath("lint", exports("openvino-int8").bundle.path)
    assert (code, out) == (2, "")
    assert "this bundle holds no ONNX graph; lint checks targets whose artifact is model.onnx" in err


def test_the_recipe_that_moved_is_found(edgepath: Command, tmp_path: Path) -> None:
    models = ("--teacher", "demo", "--student", "demo", "--tiles", "synthetic:8")
    code, _, err = edgepath("distill", *models, "--out", tmp_path / "run", "--recipe", "demo")
    assert code == 2
    assert "`demo` is now `python -m tools.demo_model`, in a checkout" in err


@pytest.mark.parametrize(
    "words",
    [
        ("embed", "BUNDLE", "synthetic:2", "--out", "f.npz"),
        ("slides", "embed", "BUNDLE", "synthetic:1", "--out", "features"),
        ("bench", "BUNDLE", "--against", "BUNDLE"),
        ("compare", "BUNDLE", "BUNDLE"),
        ("robustness", "BUNDLE"),
        ("curves", "BUNDLE"),
        ("probe", "labels", "BUNDLE", "."),
        ("probe", "hest", "BUNDLE", "."),
        ("debug", "BUNDLE"),
        ("verify", "BUNDLE"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_whatever_runs_a_bundle_refuses_one_that_is_not_signed(
    edgepath: Command, exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    pytest.importorskip("model_signing", reason="needs the extra sign")
    bundle = Path(shutil.copytree(exports("onnx-fp32").bundle.path, tmp_path / "unsigned"))
    (tmp_path / "key.pub").write_text("any")
    monkeypatch.setattr(ModelRunner, "__init__", lambda *_, **__: pytest.fail("it was loaded"))
    monkeypatch.chdir(tmp_path)
    code, out, err = edgepath(*(str(bundle) if word == "BUNDLE" else word for word in words), "--trust", "key.pub")
    assert (code, out) == (2, "")
    assert "it is not signed" in err
    assert {path.name for path in tmp_path.iterdir()} == {"unsigned", "key.pub"}


def test_a_signed_bundle_is_embedded_with_and_a_foreign_one_is_not(
    edgepath: Command, exports: Exports, tmp_path: Path
) -> None:
    pytest.importorskip("model_signing", reason="needs the extra sign")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    bundle = Path(shutil.copytree(exports("onnx-fp32").bundle.path, tmp_path / "signed"))
    pem, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    for name in ("ours", "theirs"):
        key = ec.generate_private_key(ec.SECP256R1())
        (tmp_path / name).write_bytes(key.private_bytes(pem, kind, serialization.NoEncryption()))
        public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / f"{name}.pub").write_bytes(public)
    assert edgepath("sign", bundle, "--key", tmp_path / "ours")[0] == 0
    words = ("embed", bundle, "synthetic:2", "--out", tmp_path / "f.npz", "--trust")
    assert edgepath(*words, tmp_path / "theirs.pub")[0] == 2
    assert not (tmp_path / "f.npz").exists()
    assert edgepath(*words, tmp_path / "ours.pub")[0] == 0
    assert len(np.load(tmp_path / "f.npz")["embeddings"]) == 2

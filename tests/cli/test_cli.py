"""The command line: exit codes, what goes to stdout and what to stderr, and one line for every mistake."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgepath import cli
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
    assert out.rstrip().endswith("tiny-onnx-int8: passed")
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
        ("calibrate check nowhere", "nowhere"),
        ("calibrate build nowhere --out pack", "nowhere"),
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


def test_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepath.recipes import recipe

    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(recipe, "recipes", broken)
    monkeypatch.setattr(sys, "argv", ["edgepath", "targets"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


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
    code, out, _ = edgepath("calibrate", "build", "synthetic:40", "--out", tmp_path / "pack", "-n", "20")
    assert code == 0
    assert "20 tiles, seed 0" in out
    code, out, _ = edgepath("calibrate", "check", tmp_path / "pack", "--json")
    assert code == 0
    assert json.loads(out)["count"] == 20
    next((tmp_path / "pack" / "tiles").rglob("*.png")).unlink()
    code, _, err = edgepath("calibrate", "check", tmp_path / "pack")
    assert code == 2
    assert "missing" in err


@pytest.mark.parametrize("words", ["", "export", "verify", "embed", "targets", "models", "doctor", "calibrate build"])
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
    quick = ("--batch", 1, "--rounds", 3, "--seconds", 1, "--cold", 0, "--threads", 1)
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
    assert said.rstrip().endswith("bench: FAILED")
    code, _, err = edgepath("bench", bundle, "--batch", 2, *quick[2:], "--compare", out)
    assert code == 2
    assert "measured with batch 1, this run with 2; give the same" in err


def test_bench_times_no_graph_of_a_device_elsewhere(edgepath: Command, exports: Exports) -> None:
    code, out, err = edgepath("bench", exports("jetson-int8").bundle.path, "--cold", 0)
    assert (code, out) == (2, "")
    assert "says nothing about its device's speed" in err.splitlines()[-1]
    assert edgepath("bench")[0] == edgepath("bench", exports("onnx-int8").bundle.path, "--reference")[0] == 2


def test_bench_reference_keeps_a_file_for_each_device(edgepath: Command, known_tiny: object, tmp_path: Path) -> None:
    options = ("--model", "tiny", "--weights", "random", "--device", "cpu", "--precision", "fp32", "--batch", 1)
    code, out, _ = edgepath("bench", "--reference", *options, "--rounds", 3, "--seconds", 1, "--out", tmp_path)
    assert code == 0
    assert "torch FP32" in out
    (kept,) = tmp_path.glob("*/tiny.json")
    assert json.loads(kept.read_text())["kind"] == "reference"

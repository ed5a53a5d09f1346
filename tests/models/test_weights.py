"""Weights load from every form they come in, have one hash, and what is wrong with them is said in one line."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn

from edgepath.errors import UsageError, WeightsError
from edgepath.models.catalogue import ModelSpec, find_model
from edgepath.models.weights import Weights, build, load_model, random_model, state_sha256

State = dict[str, Tensor]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="session")
def state(tiny: ModelSpec) -> State:
    """Trained weights, as far as loading is concerned: other numbers than `random`, and all of them FP16 can hold."""
    return {name: value.half().float() for name, value in random_model(tiny, seed=1).state_dict().items()}


def config(spec: ModelSpec, **changes: Any) -> dict[str, Any]:
    """What timm writes as `config.json` beside the weights it pushes to the hub."""
    preprocessing = {"input_size": [3, 224, 224], "mean": list(spec.mean), "std": list(spec.std), "classifier": "head"}
    return {
        "architecture": spec.timm_name,
        "num_classes": 0,
        "num_features": 96,
        "global_pool": "token",
        "model_args": {"img_size": 224},
        "pretrained_cfg": preprocessing | changes,
    }


def snapshot(folder: Path, state: State, values: object) -> Path:
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def refused(spec: ModelSpec, path: Path | str | None) -> str:
    with pytest.raises(WeightsError) as caught:
        load_model(spec, path)
    message = str(caught.value)
    assert "\n" not in message
    assert path is None or str(path) in message
    return message


# --- every form


def as_safetensors(folder: Path, state: State, spec: ModelSpec) -> Path:
    save_file(state, folder / "w.safetensors")
    return folder / "w.safetensors"


def as_snapshot(folder: Path, state: State, spec: ModelSpec) -> Path:
    return snapshot(folder / "snapshot", state, config(spec))


def as_fp16(folder: Path, state: State, spec: ModelSpec) -> Path:
    save_file({name: value.half() for name, value in state.items()}, folder / "w.safetensors")
    return folder / "w.safetensors"


def saved(folder: Path, value: object, name: str = "w.pth", **options: Any) -> Path:
    torch.save(value, folder / name, **options)
    return folder / name


FORMS: dict[str, Callable[[Path, State, ModelSpec], Path]] = {
    "safetensors": as_safetensors,
    "snapshot": as_snapshot,
    "fp16": as_fp16,
    "pth": lambda folder, state, _: saved(folder, state),
    "pt before zip": lambda folder, state, _: saved(folder, state, "w.pt", _use_new_zipfile_serialization=False),
    "bin": lambda folder, state, _: saved(folder, state, "w.bin"),
    "parameters": lambda folder, state, _: saved(folder, {k: nn.Parameter(v) for k, v in state.items()}),
    "nested": lambda folder, state, _: saved(folder, {"epoch": 3, "state_dict": state}),
    "nested model": lambda folder, state, _: saved(folder, {"model": state, "optimizer": {}}),
    "data parallel": lambda folder, state, _: saved(folder, {f"module.{k}": v for k, v in state.items()}),
    "reversed": lambda folder, state, _: saved(folder, dict(reversed(state.items()))),
    "float64": lambda folder, state, _: saved(folder, {k: v.double() for k, v in state.items()}),
}


PLACES = {"nested": "::state_dict", "nested model": "::model", "data parallel": ", module. taken off"}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_loads_to_the_same_model_and_hash(form: str, tmp_path: Path, state: State, tiny: ModelSpec) -> None:
    path = FORMS[form](tmp_path, state, tiny)
    vit, spec, weights = load_model(tiny, path)
    assert not vit.training
    assert spec == tiny
    source, stored = f"{path.name}{PLACES.get(form, '')}", "float64" if form == "float64" else "float32"
    precision = "float16" if form == "fp16" else f"{stored}, rounded to float16"
    assert weights == Weights(source, weights.sha256, False, precision, rounded=True)
    loaded = vit.state_dict()
    assert set(loaded) == set(state)
    for name, value in state.items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], value), name
    plain = build(tiny)
    plain.load_state_dict(state)
    assert weights.sha256 == state_sha256(plain)


def test_one_changed_weight_is_another_hash(tmp_path: Path, state: State, tiny: ModelSpec) -> None:
    changed = {name: value.clone() for name, value in state.items()}
    changed["blocks.1.mlp.fc2.bias"][3] += 1e-3
    (tmp_path / "a").mkdir()
    hashes = {
        load_model(tiny, as_safetensors(folder, values, tiny))[2].sha256
        for folder, values in ((tmp_path, state), (tmp_path / "a", changed))
    }
    assert len(hashes) == 2
    assert all(len(digest) == 64 for digest in hashes)


def test_recorded_source_has_no_path(tmp_path: Path, state: State, tiny: ModelSpec, monkeypatch: Any) -> None:
    folder = snapshot(tmp_path / "h0", state, config(tiny))
    monkeypatch.chdir(folder)
    for given in (folder, str(folder), folder / "model.safetensors", Path("."), "../h0", "./model.safetensors"):
        _, _, weights = load_model(tiny, given)
        assert weights.source == ("model.safetensors" if "model" in str(given) else "h0")
        assert json.loads(json.dumps(weights.to_json())) == {
            "source": weights.source,
            "sha256": weights.sha256,
            "random": False,
            "precision": "float32, rounded to float16",
            "rounded": True,
        }


def test_classifier_of_timms_own_files_is_left_out(tmp_path: Path) -> None:
    # Every ImageNet model on the hub has a head; its embedding is the same without.
    spec = find_model("timm:vit_tiny_patch16_224")
    state = random_model(spec).state_dict() | {"head.weight": torch.ones(1000, 192), "head.bias": torch.ones(1000)}
    save_file(state, tmp_path / "w.safetensors")
    vit, _, weights = load_model(spec, tmp_path / "w.safetensors")
    assert weights.sha256 == state_sha256(random_model(spec)) == state_sha256(vit)


# --- config.json


def test_mean_and_std_of_the_snapshot_are_taken(tmp_path: Path, state: State, tiny: ModelSpec) -> None:
    values = config(tiny, mean=[0.1, 0.2, 0.3], std=[1, 2, 3])
    _, spec, _ = load_model(tiny, snapshot(tmp_path / "s", state, values))
    assert spec == replace(tiny, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))


def test_config_without_a_part_for_preprocessing_is_read_too(tmp_path: Path, state: State, tiny: ModelSpec) -> None:
    values = {"architecture": f"{tiny.timm_name}.lvd142m", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    _, spec, _ = load_model(tiny, snapshot(tmp_path / "s", state, values))
    assert spec.mean == spec.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"architecture": "vit_large_patch16_224"},
            "architecture is vit_large_patch16_224, tiny is vit_base_patch14_reg4_dinov2",
        ),
        ({"pretrained_cfg": {"mean": [0.5] * 3}}, "pretrained_cfg.std = None; expected a list"),
        ({"pretrained_cfg": None}, "is not timm's"),
        ({"pretrained_cfg": {"mean": [0.5], "std": [0.5]}}, "are not those of an RGB image"),
        ({"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5, 0.5, 0.0]}}, "are not those of an RGB image"),
        ({"pretrained_cfg": {"mean": [float("nan")] * 3, "std": [0.5] * 3}}, "is not timm's (NaN is not JSON)"),
        ({"pretrained_cfg": {"mean": ["red"] * 3, "std": [0.5] * 3}}, "pretrained_cfg.mean = 'red'; expected float"),
        ({"pretrained_cfg": {"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]}}, "RGB image in 0..1"),
    ],
)
def test_config_that_is_not_this_models_is_refused(
    change: dict[str, Any], said: str, tmp_path: Path, state: State, tiny: ModelSpec
) -> None:
    assert said in refused(tiny, snapshot(tmp_path / "s", state, config(tiny) | change))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00", '"text"'])
def test_config_that_is_no_config_is_refused(text: str, tmp_path: Path, state: State, tiny: ModelSpec) -> None:
    folder = snapshot(tmp_path / "s", state, {})
    (folder / "config.json").write_text(text)
    assert "config.json is not timm's" in refused(tiny, folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_snapshot_without_one_of_its_files_is_refused(name: str, tmp_path: Path, state: State, tiny: ModelSpec) -> None:
    folder = snapshot(tmp_path / "s", state, config(tiny))
    (folder / name).unlink()
    assert f"holds no {name}" in refused(tiny, folder)


# --- files that are not whole, or not weights


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("w.safetensors", b"", "is empty"),
        ("w.pth", b"", "is empty"),
        ("w.safetensors", b"\x00", "not a whole safetensors file"),
        ("w.safetensors", b"\xff" * 100, "not a whole safetensors file"),
        ("w.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "git-lfs pointer"),
        ("w.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "git-lfs pointer"),
        ("w.pth", b"<html>404</html>\n", "a web page, as a failed download leaves it"),
        ("w.h5", b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        ("w.safetensors", b"\x1f\x8b\x08\0", "gzip-compressed; unpack it (gunzip)"),
        ("w.pth.tar.gz", b"\x1f\x8b\x08\0", "gzip-compressed; unpack it (gunzip)"),
        ("w.gguf", b"GGUF\x03", "a GGUF file"),
        ("w.pth", b'{"architecture": "vit"}', "JSON, not weights"),
        ("w.npy", b"\x93NUMPY\x01", "a NumPy array"),
        ("w.ckpt", b"x", "neither safetensors nor a PyTorch checkpoint, or damaged (it begins with b'x')"),
    ],
)
def test_file_that_holds_no_weights_is_refused(
    name: str, content: bytes, said: str, tmp_path: Path, tiny: ModelSpec
) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in refused(tiny, tmp_path / name)


def test_missing_file_is_refused(tmp_path: Path, tiny: ModelSpec) -> None:
    assert "no such file or folder; give a file, a hub snapshot folder, or random" in refused(tiny, tmp_path / "w.pth")


@pytest.mark.parametrize("form", ["safetensors", "pth", "pt before zip"])
def test_cut_or_altered_file_never_ends_in_a_traceback(
    form: str, tmp_path: Path, state: State, tiny: ModelSpec
) -> None:
    # A cut file is refused. One altered byte may lie in padding or a number, which no format here would notice.
    path = FORMS[form](tmp_path, state, tiny)
    whole = path.read_bytes()
    for length in (1, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(tiny, path)
    rng = np.random.default_rng(0)
    refusals: list[str] = []
    for position in rng.integers(0, 600, 30):
        damaged = bytearray(whole)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            load_model(tiny, path)
        except WeightsError as error:
            refusals.append(str(error))
    assert len(refusals) > 10
    assert not any("\n" in line for line in refusals)


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["in a state dict", "alone", "plain pickle"])
def test_code_in_a_pickle_is_not_run(how: str, tmp_path: Path, state: State, tiny: ModelSpec) -> None:
    path, mark = tmp_path / "w.pth", tmp_path / "ran"
    if how == "plain pickle":
        path.write_bytes(pickle.dumps(Evil(mark)))
    else:
        torch.save({**state, "extra": Evil(mark)} if how == "in a state dict" else Evil(mark), path)
    assert "edgepath unpickles nothing" in refused(tiny, path)
    assert not mark.exists()
    # The file is armed: a reader that unpickles would have run it.
    pickle.load(io.BytesIO(path.read_bytes())) if how == "plain pickle" else torch.load(path, weights_only=False)
    assert mark.exists()


def test_pickled_model_is_refused(tmp_path: Path, tiny: ModelSpec) -> None:
    assert "edgepath unpickles nothing" in refused(tiny, saved(tmp_path, build(tiny)))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([torch.zeros(1)], "holds a list, not a state dict"),
        (torch.zeros(1), "holds a Tensor, not a state dict"),
        ({"epoch": 3}, "holds no tensors (epoch)"),
        ({"teacher": {"cls_token": torch.zeros(1)}}, "none of its 1 tensors is patch_embed.proj.weight"),
        ({}, "holds no tensors (it is empty)"),
    ],
)
def test_pth_that_holds_no_state_dict_is_refused(value: object, said: str, tmp_path: Path, tiny: ModelSpec) -> None:
    assert said in refused(tiny, saved(tmp_path, value))


# --- weights that do not fit


def test_weights_of_another_width_name_the_first_keys(tmp_path: Path, tiny: ModelSpec) -> None:
    other = replace(tiny, timm_args={**tiny.timm_args, "embed_dim": 48})
    message = refused(tiny, as_safetensors(tmp_path, random_model(other).state_dict(), tiny))
    assert "not the weights of tiny: cls_token is 1 x 1 x 48, 1 x 1 x 96 is needed; " in message
    assert message.endswith(" more")
    assert len(message.partition("not the weights")[2]) < 300


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("blocks.1.attn.qkv.weight"), "blocks.1.attn.qkv.weight is missing"),
        (lambda s: s.update(dist_token=torch.zeros(1, 1, 96)), "dist_token is not a weight of it"),
        (lambda s: s.update({"norm.bias": torch.tensor(0.0)}), "norm.bias is a number, 96 is needed"),
    ],
)
def test_missing_and_extra_keys_are_named(
    change: Callable[[State], object], said: str, tmp_path: Path, state: State, tiny: ModelSpec
) -> None:
    changed = dict(state)
    change(changed)
    assert refused(tiny, as_safetensors(tmp_path, changed, tiny)).endswith(f"not the weights of tiny: {said}")


@pytest.mark.parametrize(
    ("number", "dtype"),
    [(float("nan"), torch.float32), (float("-inf"), torch.float16), (1e39, torch.float64)],
    ids=["NaN", "infinite", "beyond FP32"],
)
def test_number_that_is_not_finite_is_named(
    number: float, dtype: torch.dtype, tmp_path: Path, state: State, tiny: ModelSpec
) -> None:
    changed = {name: value.to(dtype, copy=True) for name, value in state.items()}
    changed["blocks.0.ls2.gamma"][5] = number
    assert "blocks.0.ls2.gamma holds NaN or infinite" in refused(tiny, saved(tmp_path, changed))


def test_layer_of_an_unknown_name_is_not_looked_up(tiny: ModelSpec) -> None:
    with pytest.raises(UsageError, match='layer "Linear" is not known; known: GELU, GELUTanh, GluMlp, Mlp'):
        build(replace(tiny, timm_args={**tiny.timm_args, "act_layer": "Linear"}))


def test_timm_model_that_cannot_be_built_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"timm cannot build it .*distilled") as caught:
        load_model(find_model("timm:deit_tiny_distilled_patch16_224"), "random")
    assert "\n" not in str(caught.value)


# --- random weights


def test_random_weights_are_the_same_every_time(tiny: ModelSpec) -> None:
    torch.manual_seed(5)
    first, second = load_model(tiny, "random")[2], load_model(tiny)[2]  # tiny has no hub: random is its own
    torch.manual_seed(6)
    assert first == second == load_model(tiny, "random")[2]
    assert (first.source, first.random) == ("random, seed 0", True)
    assert state_sha256(random_model(tiny, seed=1)) != first.sha256


def embed_without(vit: nn.Module, pixels: Tensor, skipped: int) -> Tensor:
    """CLS token of the model with one block replaced by nothing (-1: with all of them)."""

    class Nothing(nn.Module):
        def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
            return x

    blocks = list(vit.blocks)
    vit.blocks = nn.Sequential(*(Nothing() if i == skipped else block for i, block in enumerate(blocks)))
    with torch.inference_mode():
        cls = vit.forward_features(pixels)[0, 0]
    vit.blocks = nn.Sequential(*blocks)
    return cls


def least_change(vit: nn.Module, pixels: Tensor) -> tuple[float, float]:
    """Smallest and largest cosine of the CLS token to itself when one block is left out."""
    whole = embed_without(vit, pixels, -1)
    cosines = [
        float(nn.functional.cosine_similarity(whole, embed_without(vit, pixels, block), dim=0))
        for block in range(len(vit.blocks))
    ]
    return min(cosines), max(cosines)


def test_every_block_of_random_weights_matters(tiles: np.ndarray) -> None:
    demo = find_model("demo")
    pixels = torch.from_numpy(tiles[:1]).permute(0, 3, 1, 2) / 255.0
    pixels = (pixels - torch.tensor(demo.mean).view(3, 1, 1)) / torch.tensor(demo.std).view(3, 1, 1)
    vit = random_model(demo)
    gammas = [value.data for name, value in vit.named_parameters() if name.endswith("gamma")]
    assert len(gammas) == 2 * len(vit.blocks) == 24
    assert abs(float(torch.cat(gammas).mean()) - 0.3) < 0.01
    _, largest = least_change(vit, pixels)
    assert largest < 0.99
    # What is avoided: with timm's LayerScale of 1e-5 any block can be left out, and quantizing it would show no drift.
    for gamma in gammas:
        gamma.fill_(1e-5)
    smallest, _ = least_change(vit, pixels)
    assert smallest > 0.999999


# --- the hub, played by a server on this machine


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does, for the few requests that a snapshot takes."""

    files: dict[str, bytes]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        owner, name = path.removeprefix("api/models/").split("/")[:2]
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if owner == "missing":
            return self.answer(404 if token else 401, error="RepoNotFound")
        if owner == "broken":
            return self.answer(400)
        closed = owner == "gated" or (owner == "files-gated" and not path.startswith("api/"))
        if closed and token != "hf_good":
            return self.answer(403 if token else 401, error="GatedRepo")
        if path.startswith("api/") and "/tree/" in path:
            listing = [{"type": "file", "path": n, "size": len(c), "oid": n} for n, c in self.files.items()]
            return self.answer(200, json.dumps(listing).encode())
        if path.startswith("api/"):
            siblings = [{"rfilename": file} for file in self.files]
            return self.answer(200, json.dumps({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings}).encode())
        content = self.files[path.rpartition("/")[2]]
        return self.answer(200, content, cut=owner == "cut")

    do_HEAD = do_GET

    def answer(self, status: int, content: bytes = b"{}", *, error: str = "", cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{len(content):040x}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = cut

    def log_message(self, *_: object) -> None:
        pass


LOAD = """
import json, os, sys
from dataclasses import replace
from edgepath.errors import WeightsError
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import load_model

spec, cases, said = ModelSpec.from_json(json.loads(sys.argv[1])), json.loads(sys.argv[2]), {}
for owner, token in cases:
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    try:
        _, found, weights = load_model(replace(spec, hub=f"{owner}/tiny"))
        said[f"{owner} {token}"] = weights.to_json() | {"mean": found.mean}
    except WeightsError as error:
        said[f"{owner} {token}"] = str(error)
print(json.dumps(said))
"""


def ask_hub(spec: ModelSpec, cases: list[tuple[str, str]], home: Path, **environment: str) -> dict[str, Any]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env |= {"HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1"} | environment
    command = [sys.executable, "-W", "error", "-c", LOAD, json.dumps(spec.to_json()), json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="session")
def hub_said(tiny: ModelSpec, state: State, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What `load_model` answers for repositories of every kind, without a token and with two."""
    folder = snapshot(tmp_path_factory.mktemp("hub") / "s", state, config(tiny, mean=[0.1, 0.2, 0.3]))
    Hub.files = {path.name: path.read_bytes() for path in folder.iterdir()} | {"README.md": b"not asked for"}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    tokens = ("", "hf_other", "hf_good")
    cases = [(owner, token) for owner in ("gated", "files-gated", "missing") for token in tokens]
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        home = tmp_path_factory.mktemp("home")
        cases += [("open", ""), ("broken", ""), ("cut", "")]
        yield ask_hub(tiny, cases, home, HF_ENDPOINT=endpoint)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("case", ["open ", "gated hf_good", "files-gated hf_good"])
def test_hub_weights_load_with_their_preprocessing(
    case: str, hub_said: dict[str, Any], state: State, tiny: ModelSpec
) -> None:
    plain = build(tiny)
    plain.load_state_dict(state)
    assert hub_said[case] == {
        "source": f"hub {case.split()[0]}/tiny, mean and std from its config.json",
        "sha256": state_sha256(plain),
        "random": False,
        "precision": "float32, rounded to float16",
        "rounded": True,
        "mean": [0.1, 0.2, 0.3],
    }


@pytest.mark.parametrize("owner", ["gated", "files-gated"])
def test_gated_weights_say_how_to_get_access(owner: str, hub_said: dict[str, Any]) -> None:
    page = f"https://huggingface.co/{owner}/tiny"
    start, end = f"weights of tiny ({owner}/tiny): gated, and", ", or give --weights FILE, FOLDER or random"
    assert hub_said[f"{owner} "] == (
        f"{start} no token is here; ask for access at {page}, then `hf auth login` or set HF_TOKEN{end}"
    )
    assert hub_said[f"{owner} hf_other"] == f"{start} this token has no access; ask for it at {page}{end}"


@pytest.mark.parametrize("token", ["", "hf_other", "hf_good"])
def test_repository_that_is_not_there_says_so(token: str, hub_said: dict[str, Any]) -> None:
    assert "(missing/tiny): not found on the hub, or private; check the token" in hub_said[f"missing {token}"]


@pytest.mark.parametrize("owner", ["broken", "cut"])
def test_failing_transfer_is_one_line(owner: str, hub_said: dict[str, Any]) -> None:
    assert hub_said[f"{owner} "].startswith(f"weights of tiny ({owner}/tiny): ")
    assert "\n" not in hub_said[f"{owner} "]
    assert "or give --weights FILE, FOLDER or random" in hub_said[f"{owner} "]


@pytest.mark.parametrize("proxy", [{}, {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""}], ids=["", "proxy"])
def test_hub_that_cannot_be_reached_is_one_line(proxy: dict[str, str], tmp_path: Path, tiny: ModelSpec) -> None:
    # Port 9 of this machine: nobody listens there.
    (message,) = ask_hub(tiny, [("open", "")], tmp_path, HF_ENDPOINT="http://127.0.0.1:9", **proxy).values()
    assert message.startswith("weights of tiny (open/tiny): ")
    assert "cannot be" in message
    assert "\n" not in message


def test_offline_takes_what_the_cache_has(state: State, tiny: ModelSpec) -> None:
    # Tests run with HF_HUB_OFFLINE=1, and a cache of their own.
    assert constants.HF_HUB_OFFLINE
    message = refused(replace(tiny, hub="org/absent"), None)
    assert "(org/absent): not in the local cache, and the hub cannot be reached; connect once" in message
    repo = Path(constants.HF_HUB_CACHE) / "models--org--cached"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    snapshot(repo / "snapshots" / COMMIT, state, config(tiny))
    vit, spec, weights = load_model(replace(tiny, hub="org/cached"))
    assert (weights.source, weights.sha256) == ("hub org/cached", state_sha256(vit))
    assert spec.mean == tiny.mean
    (repo / "snapshots" / COMMIT / "model.safetensors").unlink()
    assert "holds no model.safetensors" in refused(replace(tiny, hub="org/cached"), None)


def test_position_embedding_of_another_size_is_resampled_as_timm_does(tmp_path: Path) -> None:
    import timm

    spec = find_model("timm:vit_tiny_patch16_224")
    large = timm.create_model(spec.timm_name, num_classes=0, img_size=320)
    save_file(large.state_dict(), tmp_path / "large.safetensors")
    # timm's own loading is what it has to equal.
    small = timm.create_model(spec.timm_name, num_classes=0, img_size=224)
    wanted = timm.models.vision_transformer.checkpoint_filter_fn(large.state_dict(), small)
    vit, _, weights = load_model(spec, tmp_path / "large.safetensors")
    assert torch.equal(vit.pos_embed, wanted["pos_embed"])
    assert weights.source == (
        "large.safetensors, position embedding resampled from 20 x 20 to 14 x 14 patches, "
        "normalised as timm's vit_tiny_patch16_224 is"
    )


def test_models_with_a_name_of_their_own_take_no_other_size(tiny: ModelSpec, state: State, tmp_path: Path) -> None:
    other = state | {"pos_embed": torch.zeros(1, 20 * 20, 96)}
    save_file(other, tmp_path / "large.safetensors")
    assert "pos_embed is 1 x 400 x 96, 1 x 256 x 96 is needed" in refused(tiny, tmp_path / "large.safetensors")


def test_a_weight_with_and_without_module_is_refused(tmp_path: Path, state: State, tiny: ModelSpec) -> None:
    both = {f"module.{name}": value for name, value in state.items()} | {"cls_token": state["cls_token"]}
    assert "cls_token stands in it with and without a wrapper's prefix; keep one" in refused(
        tiny, saved(tmp_path, both)
    )

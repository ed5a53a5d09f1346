"""What a file of weights is, its bytes say; shards are read whole; nothing in a file is run."""

from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import subprocess
import tarfile
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_layouts import State, pretended
from safetensors.torch import save_file

from edgepath.errors import WeightsError
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weightfiles import read_leaves
from edgepath.models.weights import load_model, random_model, state_sha256


@pytest.fixture(scope="session")
def state(tiny: ModelSpec) -> State:
    return random_model(tiny, seed=1).state_dict()


def refused(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_leaves(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- shards


def sharded(folder: Path, state: State, spec: ModelSpec, suffix: str = "safetensors") -> Path:
    """A hub folder of three shards, as huggingface_hub splits what is large."""
    folder.mkdir()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names, places = sorted(state), {}
    for shard in range(3):
        file = f"{stem}-{shard + 1:05}-of-00003.{suffix}"
        held = {name: state[name] for name in names[shard::3]}
        save_file(held, folder / file) if suffix == "safetensors" else torch.save(held, folder / file)
        places |= dict.fromkeys(held, file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    config = {"architecture": spec.timm_name, "mean": list(spec.mean), "std": list(spec.std)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("given", ["folder", "index"])
def test_shards_load_by_their_index(suffix: str, given: str, tmp_path: Path, state: State, tiny: ModelSpec) -> None:
    folder = sharded(tmp_path / "s", state, tiny, suffix)
    (index,) = folder.glob("*.index.json")
    _, spec, weights = load_model(tiny, folder if given == "folder" else index)
    assert weights.sha256 == state_sha256(random_model(tiny, seed=1))
    assert spec == tiny


def test_one_shard_names_the_index_of_all(tmp_path: Path, state: State, tiny: ModelSpec) -> None:
    folder = sharded(tmp_path / "s", state, tiny)
    message = refused(folder / "model-00002-of-00003.safetensors")
    assert message.endswith("one of 3 shards; give the index that names them all (model.safetensors.index.json)")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda f: (f / "model-00002-of-00003.safetensors").unlink(),
            "names the shard model-00002-of-00003.safetensors",
        ),
        (lambda f: save_file({"x": torch.ones(1)}, f / "model-00001-of-00003.safetensors"), "lacks blocks.0.attn.proj"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{"), "not a whole index of shards"),
        (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "it has no weight_map of names and files"),
        (lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {}}'), "it has no weight_map"),
        (
            lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../model.safetensors"}}'),
            "'../model.safetensors' is not the name of a shard beside it",
        ),
        (
            lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "/etc/passwd"}}'),
            "'/etc/passwd' is not the name of a shard beside it",
        ),
    ],
)
def test_shards_that_are_not_all_there_are_refused(
    change: Callable[[Path], object], said: str, tmp_path: Path, state: State, tiny: ModelSpec
) -> None:
    folder = sharded(tmp_path / "s", state, tiny)
    change(folder)
    assert said in refused(folder / "model.safetensors.index.json")


# --- folders


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "holds no model.safetensors; give a hub snapshot folder, or the weights file itself"),
        ({"config.json": "{}"}, "holds no model.safetensors"),
        ({"model.safetensors": ""}, "holds no config.json"),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": ""}, "LoRA adapters, not a whole model"),
        ({".metadata": "", "__0_0.distcp": ""}, "a distributed checkpoint; make one file of it with torch.distributed"),
    ],
)
def test_a_folder_that_is_no_snapshot_says_what_it_is(
    files: dict[str, str], said: str, tmp_path: Path, tiny: ModelSpec
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(WeightsError) as caught:
        load_model(tiny, tmp_path)
    assert said in str(caught.value)


def test_a_folder_with_pytorchs_file_loads(tmp_path: Path, state: State, tiny: ModelSpec) -> None:
    folder = sharded(tmp_path / "s", state, tiny)
    for file in folder.glob("model*"):
        file.unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert load_model(tiny, folder)[2].sha256 == state_sha256(random_model(tiny, seed=1))


# --- by the bytes, not by the name


@pytest.mark.parametrize("name", ["w.pth", "w.bin", "w.ckpt", "w"])
def test_safetensors_by_another_name_load(name: str, tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / name)
    assert read_leaves(tmp_path / name).keys() == state.keys()


def test_a_checkpoint_called_safetensors_loads(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "w.safetensors")
    assert read_leaves(tmp_path / "w.safetensors").keys() == state.keys()


@pytest.mark.parametrize("magic", [b"\x80", b"PK", b"\x1f\x8b", b"<", b"BZh"])
def test_safetensors_whose_header_looks_like_something_else_load(magic: bytes, tmp_path: Path) -> None:
    # The first bytes are the length of the header, which may be any number.
    header = b'{"__metadata__":{"a":"b"}'.ljust(int.from_bytes(magic, "little") - 1) + b"}"
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert read_leaves(tmp_path / "w.safetensors") == {}


def torchscript(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"):
            archive.writestr(name, b"")


def numpys(path: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, a=np.ones(2))


def archived(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("w.pth"), io.BytesIO())


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (torchscript, "a TorchScript model; save its state_dict()"),
        (numpys, "a NumPy archive without a PyTorch checkpoint in it"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "a zip archive without a PyTorch checkpoint in it"),
        (archived, "a tar archive; unpack it"),
        (lambda path: path.write_bytes(b"PK\x03\x04 and no more"), "cannot be read"),
        (lambda path: path.write_bytes(b"\x0a\x05torch\x1a"), "neither safetensors nor a PyTorch checkpoint"),
    ],
)
def test_other_kinds_of_files_are_named(write: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    write(tmp_path / "w.pth")
    assert said in refused(tmp_path / "w.pth")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.pth")
    assert "not a regular file" in refused(tmp_path / "w.pth")


# --- nothing is run


class Runs:
    """Starts a program when it is unpickled by whatever runs what it names."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], tuple(self.call[1:])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "around",
    [
        lambda evil: {"model": {}, "args": argparse.Namespace(a=evil)},
        lambda evil: {"history": defaultdict(list, a=[evil])},
        lambda evil: OrderedDict(model=evil),
        lambda evil: {"seen": np.array([evil], dtype=object)},
        lambda evil: {evil: torch.ones(1)},
    ],
    ids=["in settings", "in a list", "as the model", "in an array", "as a key"],
)
def test_code_beside_allowed_values_is_refused_and_not_run(
    zipped: bool, around: Callable[[Any], object], tmp_path: Path
) -> None:
    mark, path = tmp_path / "ran", tmp_path / "w.pth"
    torch.save(around(Runs(subprocess.getoutput, f"touch {mark}")), path, _use_new_zipfile_serialization=zipped)
    message = refused(path)
    assert "holds more than tensors (commands.getoutput), or is damaged; edgepath unpickles nothing" in message
    assert not mark.exists()
    # By its name in Python 2, as PyTorch's pickles have it. The file is armed: a reader that unpickles runs it.
    torch.load(path, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize(
    "call",
    [
        (eval, "1"),
        (exec, "1"),
        (getattr, "a", "upper"),
        (__import__, "os"),
        (pathlib.Path.touch, pathlib.Path("x")),
        (torch.load, "w"),
        (np.load, "w"),
    ],
)
def test_calls_of_other_functions_are_refused(call: tuple[Any, ...], tmp_path: Path) -> None:
    torch.save({"model": {"x": torch.ones(1)}, "args": Runs(*call)}, tmp_path / "w.pth")
    assert "edgepath unpickles nothing" in refused(tmp_path / "w.pth")


def test_settings_are_read_without_what_they_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A class by an allowed name whose making leaves a mark: what stands in for it leaves none.
    made: list[object] = []

    class Namespace:
        def __init__(self, *given: object) -> None:
            made.append(given)

        def __setstate__(self, state: object) -> None:
            made.append(state)

        def __reduce__(self) -> tuple[Any, ...]:
            return Namespace, (1,), {"a": 2}

    with pretended("omegaconf.dictconfig", DictConfig=Namespace):
        Namespace.__qualname__ = Namespace.__name__ = "DictConfig"
        torch.save({"cfg": Namespace(), "x": torch.ones(1)}, tmp_path / "w.pth")
        made.clear()
        leaves = read_leaves(tmp_path / "w.pth")
    assert made == []
    assert set(leaves) == {"cfg", "x"}


def test_a_numpy_scalar_that_declares_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    torch.save({"best": np.void(b"x" * 16), "x": torch.ones(1)}, tmp_path / "w.pth")
    raw = (tmp_path / "w.pth").read_bytes()
    assert b"V16" in raw
    assert set(read_leaves(tmp_path / "w.pth")) == {"best", "x"}
    with zipfile.ZipFile(tmp_path / "w.pth") as archive, zipfile.ZipFile(tmp_path / "big.pth", "w") as changed:
        for name in archive.namelist():
            changed.writestr(name, archive.read(name).replace(b"\x03\x00\x00\x00V16", b"\x0c\x00\x00\x00V64000000000"))
    assert set(read_leaves(tmp_path / "big.pth")) == {"best", "x"}


def test_nested_dicts_without_an_end_are_refused(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["a"] = endless["b"] = endless["c"] = endless
    torch.save(endless, tmp_path / "w.pth")
    assert "holds more than 1,000,000 entries" in refused(tmp_path / "w.pth")

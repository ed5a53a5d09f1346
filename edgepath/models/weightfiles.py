"""Read files of weights: safetensors, PyTorch's checkpoints by whatever name, and shards with their index.

What a file is, its first bytes say. Checkpoints are read with `weights_only` (`models.inert`): nothing is unpickled.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import WeightsError, first_line
from ..machine.tables import parse_json, plain, shown
from .inert import stand_ins

STATES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""What weights are called in a hub folder; the first that is there is taken."""
_INDEX = ".index.json"
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.\w+\Z")
_MOST, _DEEPEST = 1_000_000, 16  # entries and levels of a checkpoint; a training run's has some ten thousand
_LARGEST_INDEX = 64 << 20
_NO_WEIGHTS = (
    (b"version https://git-lfs", "a git-lfs pointer, not the weights; run `git lfs pull` where it came from"),
    (b"\x1f\x8b", "gzip-compressed; unpack it (gunzip) and give what comes out"),
    (b"BZh", "bzip2-compressed; unpack it (bunzip2) and give what comes out"),
    (b"\xfd7zXZ", "xz-compressed; unpack it (unxz) and give what comes out"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed; unpack it (unzstd) and give what comes out"),
    (b"7z\xbc\xaf", "a 7-Zip archive; unpack it and give the weights in it"),
    (b"\x89HDF", "an HDF5 file, as Keras writes it; save the weights as .safetensors"),
    (b"GGUF", "a GGUF file, whose weights are quantized; give the ones it was made from"),
    (b"\x93NUMPY", "a NumPy array; save a state dict as .safetensors"),
    (b"<", "a web page, as a failed download leaves it; fetch the weights again"),
    (b"{", "JSON, not weights; give the file that holds them"),
)


def locate(weights: str | Path) -> tuple[Path, str]:
    """Return the path and the key of `FILE::KEY`; a file that is there under the whole name has no key."""
    text = str(weights)
    if "::" not in text or os.path.lexists(text):
        return Path(text), ""
    places = [match.start() for match in re.finditer("(?=::)", text)]
    cut = next((at for at in reversed(places) if at and os.path.lexists(text[:at])), text.rfind("::"))
    if not text[:cut] or not text[cut + 2 :]:
        raise WeightsError(f"weights {text}: give FILE::KEY, with a file before the colons and a key of it behind")
    return Path(text[:cut]), text[cut + 2 :]


def read_leaves(path: Path) -> dict[str, object]:
    """Return what a file holds by dotted names (`teacher.backbone.cls_token`), tensors and other values.

    Raises WeightsError for a file that is not whole, holds no weights, or more than tensors and plain values.
    """
    if path.name.endswith(_INDEX):
        return dict(_read_shards(path))
    if (shard := _SHARD.search(path.name)) and int(shard[2]) > 1:
        raise WeightsError(
            f"weights {path}: one of {int(shard[2])} shards; give the index that names them all ({_index_of(path)})"
        )
    leaves: dict[str, object] = {}
    for name, value in _walk(_read(path), "", 0):
        if len(leaves) >= _MOST:
            raise WeightsError(f"weights {path}: holds more than {_MOST:,} entries; that is no checkpoint of a model")
        if name in leaves:
            raise WeightsError(f"weights {path}: {plain(name)} stands in it twice; keep one")
        leaves[name] = value
    return leaves


def _walk(value: object, name: str, depth: int) -> Iterator[tuple[str, object]]:
    """Yield what nested dicts hold. A dict that holds itself, which a pickle can write, ends at the deepest level."""
    if not isinstance(value, dict) or depth == _DEEPEST:
        yield name, value
        return
    for key, inner in value.items():
        yield from _walk(inner, f"{name}.{key}" if name else str(key), depth + 1)


def _read(path: Path) -> Mapping[Any, object]:
    """Read one file as what its first bytes say it is."""
    if not path.is_file():
        raise WeightsError(f"weights {path}: not a regular file; give a file of weights")
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError as error:
        raise WeightsError(f"weights {path}: cannot be read ({error.strerror})") from None
    if not start:
        raise WeightsError(f"weights {path}: the file is empty; fetch it again")
    if start[6:9] == b"\0\0{":  # the end of a header's length, and the header
        return _read_safetensors(path)
    if start[:2] == b"PK":
        _check_zip(path)
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return _read_checkpoint(path)
    for magic, what in _NO_WEIGHTS:
        if start.lstrip().startswith(magic):
            raise WeightsError(f"weights {path}: {what}")
    if path.suffix == ".safetensors":  # whatever it is; the reader says what is off
        return _read_safetensors(path)
    if start[257:262] == b"ustar":
        raise WeightsError(f"weights {path}: a tar archive; unpack it and give the weights in it")
    raise WeightsError(
        f"weights {path}: neither safetensors nor a PyTorch checkpoint, or damaged (it begins with "
        f"{shown(start[:8])}); give one of these, or fetch it again"
    )


def _read_safetensors(path: Path) -> dict[str, object]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"weights {path}: not a whole safetensors file ({first_line(error)}); fetch it again"
        ) from None


def _check_zip(path: Path) -> None:
    """Tell PyTorch's checkpoints from other zip archives, by the names in them."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise WeightsError(f"weights {path}: cannot be read ({first_line(error)}); fetch it again") from None
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner:
        raise WeightsError(f"weights {path}: a TorchScript model; save its state_dict() as .safetensors and give that")
    if "data.pkl" not in inner:
        kind = "a NumPy archive" if any(name.endswith(".npy") for name in names) else "a zip archive"
        raise WeightsError(f"weights {path}: {kind} without a PyTorch checkpoint in it; give .safetensors or .pth")


def _read_checkpoint(path: Path) -> dict[Any, object]:
    try:
        with warnings.catch_warnings():  # what PyTorch warns of in a foreign pickle, the messages below say in one line
            warnings.simplefilter("ignore")
            # An open file: given a name, torch goes by its suffix.
            with open(path, "rb") as file, stand_ins():
                state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        raise WeightsError(
            f"weights {path}: holds more than tensors{f' ({plain(unsafe[1])})' if unsafe else ''}, or is damaged; "
            "edgepath unpickles nothing: save the model's state_dict() as .safetensors and give that"
        ) from None
    except Exception as error:  # damaged bytes: zip, tar, pickle and tensor readers each have errors of their own
        raise WeightsError(f"weights {path}: cannot be read ({first_line(error)}); fetch it again") from None
    if not isinstance(state, dict):
        raise WeightsError(f"weights {path}: holds a {type(state).__name__}, not a state dict; save model.state_dict()")
    return state


def _index_of(shard: Path) -> str:
    """Return the name of the index that belongs to a shard."""
    return f"{_SHARD.sub('', shard.name)}{shard.suffix}{_INDEX}"


def _read_shards(index: Path) -> Iterator[tuple[str, object]]:
    """Yield all the weights that an index names, each from the shard it names."""

    def refuse(problem: str) -> WeightsError:
        return WeightsError(f"weights {index}: {problem}")

    if index.stat().st_size > _LARGEST_INDEX:
        raise refuse(f"has more than {_LARGEST_INDEX} bytes; that is no index of shards")
    try:
        values = parse_json(index.read_bytes())
    except ValueError as error:
        raise refuse(f"not a whole index of shards ({error}); fetch it again") from None
    places = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(place, str) for place in places.values()):
        raise refuse("not an index of shards; it has no weight_map of names and files")
    for shard in sorted(set(places.values())):
        if shard in ("", ".", "..") or re.search(r"[/\\:\x00]", shard):
            raise refuse(f"{shown(shard)} is not the name of a shard beside it")
        path = index.parent / shard
        if not os.path.isfile(path):
            raise refuse(f"names the shard {plain(shard)}, which is not beside it; fetch all of them")
        held, named = _read(path), {name for name, place in places.items() if place == shard}
        if odd := sorted(map(str, held.keys() ^ named)):
            which = "lacks" if odd[0] in named else "holds what the index does not name,"
            raise refuse(f"its shard {plain(shard)} {which} {plain(odd[0])}; fetch both again")
        yield from ((name, held[name]) for name in sorted(named))

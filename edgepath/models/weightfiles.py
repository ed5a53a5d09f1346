"""Read a file of weights: safetensors, or PyTorch's `.pth` with `weights_only`, so that nothing is ever unpickled."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import WeightsError, first_line

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# Checkpoints of training runs hold the model's state under one of these keys.
_NESTED = ("state_dict", "model_state_dict", "model")
_POINTER = b"version https://git-lfs.github.com/spec/"


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Return the state dict in a file that is there. Raises WeightsError for one that is not whole, or holds more."""
    if path.suffix not in _SUFFIXES:
        raise WeightsError(f"weights {path}: suffix {path.suffix!r}; known: {', '.join(_SUFFIXES)}")
    if path.stat().st_size == 0:
        raise WeightsError(f"weights {path}: the file is empty; fetch it again")
    with open(path, "rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise WeightsError(
                f"weights {path}: a git-lfs pointer, not the weights; run `git lfs pull` where it came from"
            )
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pth(path)
    for key in _NESTED:
        if isinstance(state.get(key), dict):
            state = state[key]
            break
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise WeightsError(f"weights {path}: {name} is a {type(value).__name__}, not a tensor; give a state dict")
    found = {str(name).removeprefix("module."): value for name, value in state.items()}
    if len(found) < len(state):
        raise WeightsError(f"weights {path}: a weight stands in it with and without module. before its name; keep one")
    return found


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"weights {path}: not a whole safetensors file ({first_line(error)}); fetch it again"
        ) from None


def _read_pth(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():  # what PyTorch warns of in a foreign pickle, the messages below say in one line
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"weights {path}: holds more than tensors, or is damaged; edgepath unpickles nothing: save the model's "
            "state_dict() as .safetensors and give that"
        ) from None
    except Exception as error:  # damaged bytes: zip, tar, pickle and tensor readers each have errors of their own
        raise WeightsError(f"weights {path}: cannot be read ({first_line(error)}); fetch it again") from None
    if not isinstance(state, dict):
        raise WeightsError(f"weights {path}: holds a {type(state).__name__}, not a state dict; save model.state_dict()")
    return state

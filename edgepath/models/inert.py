"""What training runs keep beside the tensors of a checkpoint, read as values that do nothing.

PyTorch's `weights_only` reader makes only what is on its list. Settings, counters and paths are added to the list here,
each as a stand-in: the class or function that the file names is never imported, made or called. A file that names
anything else is refused.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import _weights_only_unpickler

_BRIEF = 500


class Inert:
    """Stands for a value that is no weight. Nothing of it is kept."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _mapping(*_: object) -> dict[object, object]:
    return {}


# argparse; NumPy scalars and arrays, in NumPy 1 and 2; paths; times; Hydra's settings; OpenMMLab's averages of losses
_VALUES = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    *(f"numpy.{name}" for name in ("dtype", "ndarray", "float64", "float32", "float16", "int64", "int32", "bool_")),
    *(f"numpy.dtypes.{name}DType" for name in ("Float64", "Float32", "Float16", "Int64", "Int32", "Bool", "Str")),
    *(f"pathlib{module}.{system}Path" for module in ("", "._local") for system in ("Posix", "Windows", "PurePosix")),
    *(f"datetime.{name}" for name in ("datetime", "date", "timedelta")),
    *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig", "nodes.AnyNode")),
    *(f"omegaconf.base.{name}" for name in ("Metadata", "ContainerMetadata")),
    "typing.Any",
    "builtins.dict",
    "builtins.list",
    "builtins.int",
    "builtins.float",
    "builtins.str",
    "builtins.slice",
    "mmengine.logging.history_buffer.HistoryBuffer",
)
# Dicts by other names, filled after they are made: `hyper_parameters` of Lightning is one.
_DICTS = (
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
)


@contextmanager
def stand_ins() -> Iterator[None]:
    """Let `torch.load(weights_only=True)` read such values, as stand-ins, while this is open."""
    names: list[Callable[..., object] | tuple[Callable[..., object], str]] = [(Inert, name) for name in _VALUES]
    names += [(dict, name) for name in _DICTS]
    names.append((_mapping, "collections.defaultdict"))
    before = _weights_only_unpickler.Unpickler
    _weights_only_unpickler.Unpickler = _Brief  # type: ignore[misc]
    try:
        with torch.serialization.safe_globals(names):
            yield
    finally:
        _weights_only_unpickler.Unpickler = before  # type: ignore[misc]


class _Brief(_weights_only_unpickler.Unpickler):
    """Says in few words what it refuses: torch searches its message in a time that grows with the square of a name."""

    def load(self) -> Any:
        try:
            return super().load()  # type: ignore[no-untyped-call]
        except pickle.UnpicklingError as error:
            raise pickle.UnpicklingError(str(error)[:_BRIEF]) from None

"""Torch-TensorRT in a process of its own: it takes the name `tensorrt`, talks, and here is told of a GPU that is not.

This module is also that process: `python -m edgepath.backends.torchtrt_process FOLDER`.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..machine.fresh_process import run_module
from ..machine.garbage import spare_old_objects
from ..machine.scratch import scratch
from .tensorrt_network.network import Network, read_network

_ASKED, _ENGINE, _NETWORK = "asked.json", "model.engine", "network.pickle"
_SECONDS = 1800


@dataclass(frozen=True)
class Converted:
    """An engine, and the network that it was built from."""

    engine: bytes
    network: Network


def convert_apart(
    program: Path, shapes: Mapping[str, Sequence[int]], outputs: Sequence[str], capabilities: Sequence[str]
) -> Converted:
    """Convert an exported program in a fresh process, without a GPU.

    Args:
        program: a `.pt2` file.
        shapes: `min`, `opt` and `max` of its tiles.
        outputs: what it returns, in order.
        capabilities: what the engine is for ("SM86").

    Raises:
        UsageError: with Torch-TensorRT's words, for a program that it does not convert.
    """
    with scratch("torchtrt") as folder:
        asked = {"program": str(program.absolute()), "shapes": dict(shapes), "outputs": list(outputs)}
        (folder / _ASKED).write_text(json.dumps(asked | {"capabilities": list(capabilities)}))
        done = run_module(__name__, str(folder), seconds=_SECONDS)
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or [f"exit {done.returncode}"]
            raise UsageError(f"Torch-TensorRT did not convert {program.name}: {lines[-1]}")
        network = pickle.loads((folder / _NETWORK).read_bytes())  # its own child's, in a folder of its own
        return Converted((folder / _ENGINE).read_bytes(), network)


def _convert(folder: Path) -> None:
    """Do what `convert_apart` asks for, in this process."""
    from .runners.exported import load_program
    from .runners.torchtrt import convert
    from .torchtrt_without_gpu import stand_in

    asked: dict[str, Any] = json.loads((folder / _ASKED).read_text())
    networks: list[Network] = []
    stand_in(asked["capabilities"], lambda *given: networks.append(read_network(*given)))
    program = load_program(Path(asked["program"]))
    (folder / _ENGINE).write_bytes(convert(program, asked["shapes"], asked["outputs"]))
    if len(networks) != 1:
        raise RuntimeError(f"{len(networks)} engines instead of one")
    (folder / _NETWORK).write_bytes(pickle.dumps(networks[0]))


if __name__ == "__main__":
    spare_old_objects()
    _convert(Path(sys.argv[1]))

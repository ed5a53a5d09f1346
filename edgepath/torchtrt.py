"""For programs of yours that use Torch-TensorRT: it keeps edgepath's INT8.

import torch, torch_tensorrt, edgepath.torchtrt

edgepath.torchtrt.register()
program = edgepath.torchtrt.load_program("build/demo-torchtrt-int8/model.pt2")
engine = torch_tensorrt.compile(program.module(), ir="dynamo", inputs=[...])
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .backends.runners import exported, torchtrt
from .errors import BundleError, MissingRuntime, first_line
from .machine.packages import pip_install, require


def register() -> None:
    """Teach `torch_tensorrt` symmetric INT8, so that one engine holds a whole program of edgepath's; once is enough.

    Any program in `torch.ops.quantized_decomposed` profits whose zero-points are 0. Raises MissingRuntime where
    `torch_tensorrt` cannot be imported: it needs an NVIDIA driver.
    """
    try:
        torchtrt.register()
    except MissingRuntime:
        raise
    except ImportError as error:
        raise MissingRuntime(f"torch_tensorrt not installed ({first_line(error)}); {pip_install('torchtrt')}") from None
    except Exception as error:  # without a driver, each release has another error
        raise MissingRuntime(f"torch_tensorrt cannot be imported here ({first_line(error)}); it needs a GPU") from error


def load_program(path: str | Path) -> Any:
    """Return the `torch.export.ExportedProgram` in a bundle's `model.pt2`: uint8 (N, S, S, 3) -> float32 (N, D).

    Raises BundleError for a file that is damaged, or holds anything to run besides operations of PyTorch's.
    """
    require("torch", "export")
    try:
        return exported.load_program(Path(path))
    except (RuntimeError, OSError) as error:
        raise BundleError(f"{first_line(error)}; export it again") from error

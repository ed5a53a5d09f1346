"""What stands in for a device while torch_tensorrt 2.14 converts on a machine without one.

It asks for a GPU when it is imported and when it converts, though neither uses one, and loads the engine it has built,
which needs a driver. Here the questions are answered, and the engine is handed on as it was serialized. All of this is
about the insides of that one release; a process that did it does nothing else (see `torchtrt_process`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from ..errors import MissingRuntime, UsageError
from ..machine.packages import version_of
from .runners.torchtrt import name_bindings

RELEASE = "2.14"


def stand_in(capabilities: Sequence[str], look: Callable[[Any, Any, Any], object]) -> None:
    """Let torch_tensorrt convert in this process: its engines are for `capabilities` ("SM86").

    `look` is given the bindings, each network while its weights are there, and its optimization profile. Raises
    MissingRuntime for another release than this is written for, UsageError for a capability that is not built for.
    """
    installed = version_of("torch-tensorrt-rtx") or "not installed"
    if not installed.startswith(f"{RELEASE}."):
        raise MissingRuntime(f"torch-tensorrt-rtx {installed}; without a GPU, {RELEASE}.* is needed")
    name_bindings()
    bindings: Any = sys.modules["tensorrt_rtx"]
    known = bindings.ComputeCapability.__members__
    if odd := [name for name in capabilities if name not in known]:
        raise UsageError(f"TensorRT-RTX {bindings.__version__} builds for no {odd[0]} here")
    _answer(capabilities[0])
    import torch_tensorrt  # noqa: F401
    from torch_tensorrt.dynamo.conversion import _conversion

    class Interpreter(_conversion.TRTInterpreter):  # type: ignore[misc]
        def run(self, *args: Any, **options: Any) -> Any:
            self._construct_trt_network_def()
            profiles = self.optimization_profiles
            look(bindings, self.ctx.net, profiles[0] if profiles else None)
            config = self._populate_trt_builder_config()
            config.num_compute_capabilities = len(capabilities)
            for index, capability in enumerate(capabilities):
                config.set_compute_capability(known[capability], index)
            built = self.builder.build_serialized_network(self.ctx.net, config)
            if built is None:
                raise RuntimeError("TensorRT-RTX built no engine")
            return _conversion.TRTInterpreterResult(
                SimpleNamespace(serialize=lambda: built), self._input_names, self._output_names, False, False, {}
            )

    _conversion.TRTInterpreter = Interpreter


def _answer(capability: str) -> None:
    """Answer what torch_tensorrt asks torch about the GPU."""
    import torch

    major, minor = divmod(int(capability.removeprefix("SM")), 10)
    memory = 8 << 30
    answers = {
        "get_device_capability": (major, minor),
        "get_device_name": "none",
        "get_device_properties": SimpleNamespace(major=major, minor=minor, name="none", total_memory=memory),
        "current_device": 0,
        "mem_get_info": (memory, memory),
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, answer=answer: answer)

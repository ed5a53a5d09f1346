"""The runtimes: how to build for each, run what was built, and read it back.

    backend        what there is to know of a runtime, as one value; the known ones by name
    onnxruntime    and
    openvino       each
    tensorrt       a row,
    tensorrt_rtx   and how
    torchtrt       its
    coreml         artifact
    coreai         is
    executorch     built
    mil            Core ML packages, evaluated where there is no Core ML
    coreai_interpreter  Core AI programs, run by Apple's interpreter where there is no macOS 27
    onnx_fp16      FP16 graphs, evaluated where there is no TensorRT
    exported       exported programs, evaluated where there is no TensorRT
    runners/       what runs on a device: each module stands alone, as bundles carry it
    contents       what an artifact's files hold, in terms that all share
    reading        a file -> its contents, whatever built it
    onnx/          ONNX files read back, and evaluated
    openvino_ir    OpenVINO's read back
    mil_program/   Core ML's read back, and evaluated
    coreai_program Core AI's read back
    torchtrt_program     exported programs read back
    torchtrt_process     Torch-TensorRT in a process of its own,
    torchtrt_without_gpu and what it takes for a GPU there
    tensorrt_network/    TensorRT's networks as values, evaluated and compared
    pte/           ExecuTorch's read back
    doctor         what of all this can run on this machine

A new one is a module with a row of its own, `BACKEND`, that is registered below.
"""

from . import (
    coreai,
    coreai_interpreter,
    coreml,
    executorch,
    exported,
    mil,
    onnx_fp16,
    onnxruntime,
    openvino,
    tensorrt,
    tensorrt_rtx,
    torchtrt,
)
from .backend import Backend as Backend
from .backend import Builds as Builds
from .backend import Runtime as Runtime
from .backend import builds_of as builds_of
from .backend import every as every
from .backend import find as find
from .backend import module_file as module_file
from .backend import ran_by as ran_by
from .backend import register as register
from .backend import targets as targets

_MODULES = (
    openvino,
    onnxruntime,
    tensorrt,
    tensorrt_rtx,
    torchtrt,
    coreml,
    coreai,
    executorch,
    mil,
    coreai_interpreter,
    onnx_fp16,
    exported,
)
for _module in _MODULES:
    register(_module.BACKEND)

"""Torch-TensorRT's front end taught to keep INT8: an exported program in, one serialized TensorRT engine out.

It knows no `quantized_decomposed` operation (pytorch/TensorRT issue 3471): left alone, it folds dequantized weights to
floats, and cuts the network at every rounding. Three converters and one exclusion from its constant folding, all by its
own hooks, keep them. This module stands alone (torch, torch_tensorrt): the same file is copied into a bundle's kit.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_RULE = "edgepath_keep_int8_weights"
_registered = False


def register() -> None:
    """Teach torch_tensorrt symmetric INT8 of `torch.ops.quantized_decomposed`; a second call does nothing.

    Raises ImportError without torch_tensorrt, which itself needs an NVIDIA driver.
    """
    global _registered
    if _registered:
        return
    import torch
    import torch.ao.quantization.fx._decomposed

    name_bindings()
    import torch_tensorrt  # noqa: F401
    from torch_tensorrt.dynamo.conversion import dynamo_tensorrt_converter
    from torch_tensorrt.dynamo.lowering.constant_fold_exclusions import register_constant_fold_exclusion_rule

    known = torch.ops.quantized_decomposed
    operations = {
        known.quantize_per_tensor.default: _quantize,
        known.dequantize_per_tensor.default: _dequantize,
        known.dequantize_per_channel.default: _dequantize_channels,
    }
    for operation, converter in operations.items():
        options = {"capability_validator": _is_symmetric, "supports_dynamic_shapes": True}
        dynamo_tensorrt_converter(operation, **options)(converter)
    register_constant_fold_exclusion_rule(_RULE)(_kept)
    _registered = True


def name_bindings() -> None:
    """Make TensorRT-RTX's bindings known by the name torch_tensorrt asks for, their library loaded.

    The package of that name holds nothing. Without TensorRT-RTX, torch_tensorrt is left to find TensorRT.
    """
    try:
        import tensorrt_rtx_bindings
    except ImportError:
        return
    sys.modules.setdefault("tensorrt_rtx", tensorrt_rtx_bindings)


def convert(program: Any, shapes: Mapping[str, Sequence[int]], outputs: Sequence[str]) -> bytes:
    """Return the serialized engine of an exported program that takes `tiles`, uint8 (N, S, S, 3).

    `shapes` are `min`, `opt` and `max` of the tiles; `outputs` name what the program returns, in its order. Everything
    is in the one engine, in the types that the program names. Raises RuntimeError with torch_tensorrt's words.
    """
    register()
    import torch
    import torch_tensorrt

    tiles = torch_tensorrt.Input(**{f"{name}_shape": tuple(shape) for name, shape in shapes.items()}, dtype=torch.uint8)
    engine: bytes = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
        program,
        arg_inputs=[tiles],
        arg_input_binding_names=("tiles",),
        output_binding_names=outputs[0] if len(outputs) == 1 else tuple(outputs),
        require_full_compilation=True,
        immutable_weights=True,
    )
    return engine


def _is_symmetric(node: Any, settings: Any = None) -> bool:
    """Tell whether TensorRT has a rounding: to signed 8 bits, with a zero-point of 0 and all 256 steps."""
    import torch

    per_channel = "per_channel" in str(node.target)
    zero, low, high, kind = (node.args[2], *node.args[4:7]) if per_channel else (node.args[2], *node.args[3:6])
    rounds = "dequantize" not in str(node.target)
    full_range = (low, high) == (-128, 127) if rounds else low >= -128 and high <= 127
    return kind == torch.int8 and (zero is None or (isinstance(zero, int) and zero == 0)) and full_range


def _kept(node: Any) -> Iterator[Any]:
    """Yield a node that would be folded to a float weight."""
    import torch

    if node.target == torch.ops.quantized_decomposed.dequantize_per_channel.default:
        yield node


def _quantize(ctx: Any, target: Any, args: Any, kwargs: Any, name: str) -> Any:
    import tensorrt

    x = args[0]
    layer = ctx.net.add_quantize(x, _scale(ctx, args[1], x.dtype, name), tensorrt.int8)
    return _named(layer, name)


def _dequantize(ctx: Any, target: Any, args: Any, kwargs: Any, name: str) -> Any:
    kind = _kind(kwargs)
    return _named(ctx.net.add_dequantize(args[0], _scale(ctx, args[1], kind, name), kind), name)


def _dequantize_channels(ctx: Any, target: Any, args: Any, kwargs: Any, name: str) -> Any:
    from torch_tensorrt.dynamo.conversion.converter_utils import get_trt_tensor

    kind = _kind(kwargs)
    weight = get_trt_tensor(ctx, args[0], f"{name}_weight")
    layer = ctx.net.add_dequantize(weight, _scale(ctx, args[1], kind, name), kind)
    layer.axis = args[3]
    return _named(layer, name)


def _kind(kwargs: Any) -> Any:
    import tensorrt
    import torch

    return {torch.float16: tensorrt.float16, torch.bfloat16: tensorrt.bfloat16}.get(
        kwargs.get("out_dtype"), tensorrt.float32
    )


def _scale(ctx: Any, scale: Any, kind: Any, name: str) -> Any:
    """Return a scale as a constant in the type of the floating-point side: strong typing wants them alike."""
    import torch
    from torch_tensorrt import dtype
    from torch_tensorrt.dynamo.conversion.converter_utils import get_trt_tensor

    value = scale if isinstance(scale, torch.Tensor) else torch.tensor(scale)
    return get_trt_tensor(ctx, value, f"{name}_scale", dtype=dtype._from(kind).to(torch.dtype))


def _named(layer: Any, name: str) -> Any:
    layer.name = name
    return layer.get_output(0)

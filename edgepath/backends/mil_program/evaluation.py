"""Computes an ML program operation by operation, and stores each value as the program declares it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import numpy as np
import torch

from ...errors import BundleError, did_you_mean
from .ops import OPERATIONS
from .program import Operation, Program

Value = torch.Tensor | str
_MANY = "values"  # the one parameter, of `concat` and `stack`, that takes several values
_STORED = {"fp16": np.float32, "int16": np.int64, "int32": np.int64, "uint16": np.int64, "uint32": np.int64}


class Evaluator:
    """Computes `program`: float32 inputs by name -> float32 outputs by name.

    Every result is rounded to the type its output is declared with: to FP16, where what is too large becomes infinite.
    `fp32` leaves that out; rounding to 8 bits stays, being an operation. Weights are unpacked once, at their first use.

    Raises BundleError for an operation, or a parameter of one, that `ops` does not know.
    """

    def __init__(self, program: Program, *, fp32: bool = False) -> None:
        self.program, self._fp32 = program, fp32
        self._fixed: dict[str, Value] = {}
        self._finished: list[list[str]] = [[] for _ in program.operations]
        last: dict[str, int] = {}
        for operation in program.operations:
            _check(program, operation)
            last |= dict.fromkeys((name for names in operation.inputs.values() for name in names), operation.place)
        for name in (program.made_by.keys() | program.inputs.keys()) - set(program.outputs):
            if name in last:
                self._finished[last[name] - 1].append(name)

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        values: dict[str, Value] = {}
        with torch.inference_mode():
            for name, kind in self.program.inputs.items():
                values[name] = self._stored(inputs[name], kind.dtype)
            for operation, finished in zip(self.program.operations, self._finished, strict=True):
                if operation.kind.startswith("constexpr_"):
                    if operation.name not in self._fixed:  # constants only: computed once
                        self._fixed |= self.compute(operation, {})
                    continue
                values |= self.compute(operation, values)
                for name in finished:
                    values.pop(name, None)
        return {name: value for name in self.program.outputs if isinstance(value := values[name], torch.Tensor)}

    def compute(self, operation: Operation, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return what one operation makes of `values`, by name and as stored; constants need not be among them."""
        arguments: dict[str, object] = {}
        for parameter, names in operation.inputs.items():
            operands = [self._find(name, values, keep=not operation.kind.startswith("constexpr_")) for name in names]
            arguments[parameter] = operands if parameter == _MANY else operands[0]
        try:
            result = OPERATIONS[operation.kind](**arguments)
        except (ValueError, KeyError, IndexError, RuntimeError) as error:
            raise BundleError(f"{self.program.where(operation)}: cannot be computed ({error})") from error
        results = result if isinstance(result, tuple) else (result,)
        shapes = [tuple(tensor.shape) for tensor in results]
        declared = [kind.shape for kind in operation.outputs.values()]
        if shapes != declared:
            raise BundleError(f"{self.program.where(operation)}: gives {shapes}; {declared} is declared")
        outputs = zip(operation.outputs.items(), results, strict=True)
        return {name: self._stored(tensor, kind.dtype) for (name, kind), tensor in outputs}

    def _stored(self, value: torch.Tensor, dtype: str) -> torch.Tensor:
        return value.half().float() if dtype == "fp16" and not self._fp32 else value

    def _find(self, name: str, values: Mapping[str, Value], keep: bool) -> Value:
        if name in values:
            return values[name]
        if name in self._fixed:
            return self._fixed[name]
        if name not in self.program.constants:
            raise BundleError(f"{self.program.path.name}: nothing makes the value {name!r}")
        constant = self.program.constants[name]
        read = constant.read()
        if isinstance(read, str):
            return read
        value = torch.from_numpy(np.array(read, _STORED.get(constant.type.dtype, read.dtype)))
        if keep:
            self._fixed[name] = value
        return value


def _check(program: Program, operation: Operation) -> None:
    if operation.kind not in OPERATIONS:
        raise BundleError(
            f"{program.where(operation)}: this operation is not evaluated; {did_you_mean(operation.kind, OPERATIONS)}; "
            f'a recipe of your own with checked_with = "none" exports without evaluation'
        )
    known = inspect.signature(OPERATIONS[operation.kind]).parameters
    for parameter in operation.inputs.keys() - known.keys():
        raise BundleError(
            f"{program.where(operation)}: parameter {parameter} is not evaluated; known: {', '.join(known)}"
        )

"""Exported programs (`model.pt2`) on the CPU: each of PyTorch's operations, rounded to the type the program names.

PyTorch's CPU kernels for FP16 are four times as slow as those for FP32 and round in other places; here each operation
computes in FP32 and its result is rounded once. It stands alone (torch): the same file is copied into kits, which load
the program with it.
"""

from __future__ import annotations

import functools
import io
import json
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OUTPUTS = ("embedding", "tokens")
_FILES = re.compile(
    r"[^/]+/(models/model\.json|data/(weights|constants)/model_(weights|constants)_config\.json|data/weights/weight_\d+"
    r"|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder|\.data/version|\.data/serialization_id"
    r"|\.format_version|\.storage_alignment)"
)
_OPERATIONS = re.compile(r"torch\.ops\.(aten|quantized_decomposed)\.\w+\.\w+|_operator\.getitem")
_EXPRESSION = re.compile(r"Symbol\('\w+'(, \w+=(True|False|\d+))*\)|[A-Za-z0-9_ ()+*,/-]*")
# Operations that make no new numbers: what they hand on was rounded before.
_MOVES = ("cat", "dropout", "expand", "flatten", "permute", "reshape", "select", "slice", "transpose")
_LARGEST = 8 << 30  # of all that an archive says it unpacks to


class Runner:
    """Embeds tiles with an exported program: `uint8 (N, S, S, 3) -> float32 (N, D)`. Use it in a `with` block.

    `threads` is torch's number of threads, 0 leaves it as it is. Raises RuntimeError for what is no such program.
    """

    def __init__(self, artifact: Path, *, threads: int = 0) -> None:
        import torch

        _check_threads(threads)
        program = load_program(artifact)
        self._torch, self._threads = torch, threads
        self._open = _evaluator(program)
        self.size = int(program.example_inputs[0][0].shape[1])
        self.runtime = f"exported program (torch {torch.__version__.split('+')[0]}, FP16 rounding), not TensorRT"

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return self.outputs(tiles)["embedding"]

    def outputs(self, tiles: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return outputs by name: `embedding` float32 (N, D) and, where exported, `tokens` float32 (N, P, width)."""
        _check(tiles, self.size)
        before = self._torch.get_num_threads()
        self._torch.set_num_threads(self._threads or before)
        try:
            with self._torch.inference_mode():
                # A copy: torch takes neither negative strides nor, without a warning, arrays that are read-only.
                outputs = self._open().run(self._torch.from_numpy(np.array(tiles, order="C")))
        finally:
            self._torch.set_num_threads(before)
        every = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
        return {name: values.numpy() for name, values in zip(OUTPUTS, every, strict=False)}

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        del self._open


def _check(tiles: np.ndarray, size: int) -> None:
    if tiles.dtype != np.uint8 or tiles.shape[1:] != (size, size, 3) or not len(tiles):
        given = f"{tiles.dtype} {tiles.shape}"
        raise ValueError(f"tiles are {given}; uint8 (N, {size}, {size}, 3) with N of at least 1 is needed")


def _check_threads(threads: int) -> None:
    is_integer = isinstance(threads, (int, np.integer)) and not isinstance(threads, bool)
    if not is_integer or not 0 <= threads <= 1024:
        raise ValueError(
            f"threads is {threads!r}; a whole number from 0 to 1024 is needed, and 0 lets the runtime choose"
        )


def _evaluator(program: Any) -> Any:
    """Return what makes an interpreter, for one call, that keeps values in FP32, rounded to what their types hold."""
    import torch

    weights = torch.ops.quantized_decomposed.dequantize_per_channel.default
    kept: dict[str, Any] = {}

    class Evaluator(torch.fx.Interpreter):
        def run_node(self, node: Any) -> Any:
            if "_assert_tensor_metadata" in str(node.target) or node.target == "_guards_fn":
                return None  # they are about the types that values here do not have
            if node.name in kept:
                return kept[node.name]
            made = super().run_node(node)
            if not isinstance(made, torch.Tensor) or str(node.target).partition(".")[2].split(".")[0] in _MOVES:
                return made
            half = torch.float16 in (getattr(node.meta.get("val"), "dtype", None), made.dtype)
            made = made.half().float() if half else made
            return kept.setdefault(node.name, made) if node.target == weights else made

    return functools.partial(Evaluator, program.module(), garbage_collect_values=True)


def load_program(path: Path) -> Any:
    """Return the exported program in a `.pt2` file, from the very bytes that were found to hold nothing but data.

    torch.export.load runs what a file says: pickles, expressions, functions by name. RuntimeError for one that holds
    more than tensors and operations of PyTorch's, or is damaged.
    """
    import torch
    import torch.ao.quantization.fx._decomposed  # registers the operations of 8 bits

    data = Path(path).read_bytes()
    try:
        refused = next(_strange(data, torch), "")
        if not refused:
            return torch.export.load(io.BytesIO(data))
    except Exception as error:  # zip, JSON and torch each have errors of their own for damaged bytes
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise RuntimeError(f"{Path(path).name} is no whole exported program ({why[0][:200]})") from error
    raise RuntimeError(f"{Path(path).name} holds {refused}; an exported program of edgepath's does not")


def _strange(data: bytes, torch: Any) -> Iterator[str]:
    """Yield what a file holds that loading it would run, or take memory for that its size does not tell."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        yield from (f"{entry.filename!r}" for entry in entries if not _FILES.fullmatch(entry.filename))
        if sum(entry.file_size for entry in entries) > min(_LARGEST, 64 * len(data)):
            yield "more than its size tells"
        if (damaged := archive.testzip()) is not None:  # torch compares no checksums
            raise zipfile.BadZipFile(f"{damaged} is damaged")
        for name in archive.namelist():
            if name.endswith("/model.pt"):
                torch.load(io.BytesIO(archive.read(name)), weights_only=True)  # what fails here would be unpickled
            elif name.endswith("_config.json"):
                payloads = json.loads(archive.read(name))["config"].values()
                yield from ("a pickle" for payload in payloads if payload["use_pickle"] is not False)
            elif name.endswith("/models/model.json"):
                yield from _functions(json.loads(archive.read(name)))


def _functions(value: Any) -> Iterator[str]:
    """Yield what of a program's JSON is no operation of PyTorch's, or no plain expression of sizes."""
    if isinstance(value, list):
        for element in value:
            yield from _functions(element)
    if isinstance(value, dict):
        for key, member in value.items():
            if key == "target" and isinstance(member, str) and "inputs" in value and not _OPERATIONS.fullmatch(member):
                yield f"the function {member[:80]!r}"
            if key == "expr_str" and (
                not isinstance(member, str) or not _EXPRESSION.fullmatch(member) or "__" in member
            ):
                yield f"the expression {str(member)[:80]!r}"
            yield from _functions(member)

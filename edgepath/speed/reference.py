"""`bench reference`: the full-precision model in PyTorch in every precision, eager and compiled, by batch size.

What a GPU takes for a tile is what devices are shown relative to. The suite runs on a CPU as well, with fewer
precisions and batches, for FP16 and bfloat16 products are very slow on CPUs without instructions for them.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError, did_you_mean
from ..machine.packages import require
from ..machine.progress import Progress, counter
from ..models.catalogue import find_model
from .pinning import pinned
from .results import Bench, Effort, Ratio, Timed, measured
from .timing import FEWEST, ratio, timed

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PRECISIONS = tuple(f"{name}{how}" for name in ("fp32", "tf32", "fp16", "bf16") for how in ("", "+compile"))
_ON_CPU, _CPU_BATCH = ("fp32", "fp32+compile"), 4
FULL = "torch FP32"
_SHOWN = {"fp32": FULL, "tf32": "torch TF32", "fp16": "torch FP16", "bf16": "torch bf16"}


def reference_suite(
    model: str,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    batches: Sequence[int] = BATCHES,
    precisions: Sequence[str] = (),
    threads: int = 0,
    rounds: int = 40,
    seconds: float = 20.0,
    warm_up: int = 5,
    progress: Progress | None = None,
) -> Bench:
    """Time a model in PyTorch on one device and return the figures, JSON-able, in the form of `bench`.

    Tiles, uint8 (N, S, S, 3), lie on the device and embeddings stay there: normalisation is timed, copies are not. On
    CUDA a call is timed by events, on a CPU by the clock; all precisions run in turn. Without `precisions`, all are
    taken on CUDA, and `fp32` eager and compiled on a CPU, where batches above 4 are left out unless they are all above.
    What does not fit the device's memory is left out with a note. Raises UsageError for an unknown precision.
    """
    require("torch", "export")
    import torch

    from ..machine.hardware import pick_device
    from ..models.weights import load_model

    device = pick_device(device)
    chosen, sizes = _chosen(precisions, batches, device)
    vit, spec, loaded = load_model(find_model(model), weights)
    effort, advance = Effort(rounds, seconds, warm_up), counter(progress, "batches", len(sizes))
    results: list[Timed] = []
    notes = [f"Batches above {_CPU_BATCH} are for GPUs."] if len(sizes) < len(batches) else []
    with pinned(threads) as pinning, ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(pinning.threads)
        stack.callback(_tf32, False)
        ready = {precision: _encoder(vit, spec, precision, device) for precision in chosen}
        for batch in sizes:
            tiles = torch.randint(0, 256, (batch, spec.size, spec.size, 3), dtype=torch.uint8).to(device)
            times, memory, failed = _in_turn(ready, tiles, device, effort)
            notes += [f"{shown(precision)} at batch {batch}: {why}." for precision, why in failed.items()]
            results += _rows(times, memory, batch, pinning.threads)
            advance(1)
    result = measured(
        "reference",
        results,
        pinning=pinning,
        effort=effort,
        tiles=f"random tiles on {device}",
        notes=notes,
        model=spec.name,
        weights=loaded.source,
        memory=[{"name": row["name"], "batch": row["batch"], "peak_bytes": row["peak_bytes"]} for row in results],
    )
    result["machine"] |= {"device": _device_name(device), "cuda": torch.version.cuda}
    return result


def _chosen(precisions: Sequence[str], batches: Sequence[int], device: str) -> tuple[list[str], list[int]]:
    """Return the precisions and batches that are worth timing on a device. Raises UsageError for unknown ones."""
    on_cpu = device == "cpu"
    chosen = list(precisions) or list(_ON_CPU if on_cpu else PRECISIONS)
    for precision in chosen:
        if precision not in PRECISIONS:
            raise UsageError(f'bench: precision "{precision}" is not known; {did_you_mean(precision, PRECISIONS)}')
    return chosen, [batch for batch in batches if not on_cpu or batch <= _CPU_BATCH] or list(batches)


def result_file(out: Path, model: str, device: str) -> Path:
    """Return where a result goes: `out` itself where it ends in .json, else `<out>/<device>/<model>.json`."""
    if out.suffix == ".json":
        return out
    require("torch", "export")
    from ..machine.hardware import pick_device

    folder = re.sub(r"[^a-z0-9]+", "-", _device_name(pick_device(device)).lower()).strip("-")
    name = find_model(model).name if model.endswith(".toml") else model
    return out / folder / f"{name.replace(':', '-')}.json"


def shown(precision: str) -> str:
    """Return a precision's name in results."""
    name, _, how = precision.partition("+")
    return _SHOWN[name] + (", compiled" if how else "")


def _encoder(vit: Any, spec: Any, precision: str, device: str) -> Callable[[Any], Any]:
    """Return the model in one precision: uint8 tiles on the device in, class tokens on the device out."""
    import torch

    name, _, how = precision.partition("+")
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(name, torch.float32)
    net = copy.deepcopy(vit).to(device, kind)
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (spec.mean, spec.std))

    def embed(tiles: Any) -> Any:
        pixels = (tiles.permute(0, 3, 1, 2).float() / 255.0 - mean) / std
        return net.forward_features(pixels.to(kind))[:, 0]

    # dynamic: one compilation for all batches above 1, which every batch of its own would need
    run: Callable[[Any], Any] = torch.compile(embed, dynamic=True) if how else embed

    def call(tiles: Any) -> Any:
        _tf32(name == "tf32")
        with torch.inference_mode():
            return run(tiles)

    return call


def _tf32(allowed: bool) -> None:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def _in_turn(
    ready: dict[str, Callable[[Any], Any]], tiles: Any, device: str, effort: Effort
) -> tuple[dict[str, list[float]], dict[str, int | None], dict[str, str]]:
    """Time one call of each after the other; what fails for want of memory is left out, and said."""
    import torch

    times: dict[str, list[float]] = {}
    memory: dict[str, int | None] = {}
    failed: dict[str, str] = {}
    for name, run in ready.items():
        try:
            if device != "cpu":
                torch.cuda.reset_peak_memory_stats(device)
                before = torch.cuda.memory_allocated(device)
            for _ in range(max(1, effort.warm_up)):
                run(tiles)
            _wait(device)
            # All precisions lie on the device side by side, so what a call adds is told, without anyone's weights.
            memory[name] = None if device == "cpu" else int(torch.cuda.max_memory_allocated(device)) - before
            times[name] = []
        except torch.OutOfMemoryError:
            failed[name] = "does not fit the device's memory"
            torch.cuda.empty_cache()
    begun = time.perf_counter()
    for done in range(effort.rounds):
        for name in times:
            times[name].append(_timed(ready[name], tiles, device))
        if done + 1 >= FEWEST and time.perf_counter() - begun > effort.seconds * len(times):
            break
    return times, memory, failed


def _timed(run: Callable[[Any], Any], tiles: Any, device: str) -> float:
    """Return milliseconds of one call: by CUDA events where there is CUDA, the work before it waited for."""
    import torch

    _wait(device)
    if device == "cpu":
        start = time.perf_counter()
        run(tiles)
        return (time.perf_counter() - start) * 1e3
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    with torch.cuda.device(device):
        first.record()
        run(tiles)
        last.record()
    last.synchronize()
    return float(first.elapsed_time(last))


def _wait(device: str) -> None:
    import torch

    if device != "cpu":
        torch.cuda.synchronize(device)


def _rows(times: dict[str, list[float]], memory: dict[str, int | None], batch: int, threads: int) -> list[Timed]:
    rows: list[Timed] = []
    for name, milliseconds in times.items():
        samples, held = np.array(milliseconds), list[Ratio]()
        if name != "fp32" and "fp32" in times:
            p50 = round(ratio(samples, np.array(times["fp32"])), 4)
            held.append({"against": FULL, "kind": "reference", "p50": p50, "same_run": True})
        row = timed(shown(name), "reference", batch, threads, samples, held)
        rows.append({**row, "peak_bytes": memory[name]})
    return rows


def _device_name(device: str) -> str:
    from ..machine.hardware import cpu_model, device_name

    return cpu_model() if device == "cpu" else device_name(device)

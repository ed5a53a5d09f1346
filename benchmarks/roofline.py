"""How near an OpenVINO artifact comes to what its runtime can multiply: its multiply-adds over the measured peaks.

    python benchmarks/roofline.py BUNDLE ... [--threads N] [--seconds S]

A peak is one large product through OpenVINO's own kernels (oneDNN's, MLAS's), timed in turn with the artifact, so that
clock and neighbours are the same for both. Another runtime's kernels have other peaks. What runs in INT8 is counted at
the INT8 peak, the rest at FP32's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import openvino
import torch
import torch.nn.functional as F
from openvino import opset13 as ops
from torch.overrides import TorchFunctionMode

from edgepath.backends.runners.openvino import core
from edgepath.bundle.bundle import Bundle, open_bundle
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program.fold import fold
from edgepath.program.sensitivity import multiply_adds
from edgepath.reports.console import print_table
from edgepath.reports.table import table
from edgepath.speed.contenders import Contender, bundle_contender
from edgepath.speed.pinning import pinned
from edgepath.speed.timing import in_turn, ratio

SIDE = 1024
"""Rows, columns and depth of the product that is a peak."""
HEADER = ["what", "multiply-adds a tile", "at the peak, ms", "measured ms", "of the peak"]


@dataclass(frozen=True)
class Work:
    """Multiply-adds of one tile: in the blocks' linears (`int8` of them in INT8), the patches, attention's products."""

    linears: int
    int8: int
    patches: int
    attention: int

    @property
    def total(self) -> int:
        return self.linears + self.patches + self.attention


def count_work(bundle: Bundle) -> Work:
    """Count a bundle's multiply-adds on its folded model; weights play no part, so none are loaded."""
    contract, spec = bundle.manifest["contract"], ModelSpec.from_json(bundle.manifest["model"])
    net = fold(random_model(spec), spec, embedding=contract["embedding"], tokens=contract["tokens"])
    work, program = multiply_adds(net), bundle.manifest["program"]
    counted = {"linears": sum(work.values()), "int8": 0, "patches": 0, "attention": 0}
    counted["int8"] = sum(count for name, count in work.items() if name in program)

    def patches(layer: Any, _: tuple[Any, ...], output: Any) -> None:
        counted["patches"] += output.numel() * layer.weight[0].numel()

    class Attention(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is F.scaled_dot_product_attention:
                q, k, v = args[:3]
                counted["attention"] += q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
            return function(*args, **(kwargs or {}))

    net.vit.patch_embed.proj.register_forward_hook(patches)
    with torch.inference_mode(), Attention():
        net(torch.zeros(1, net.size, net.size, 3, dtype=torch.uint8))
    return Work(**counted)


def roofline(
    bundles: Mapping[str, tuple[Bundle, Contender]], tiles: np.ndarray, threads: int, *, seconds: float = 20.0
) -> dict[str, Any]:
    """Time bundles at batch 1 in turn with the peaks, and return how near each comes, by name; JSON-able.

    `peaks` are multiply-adds a second; of each bundle `limit` is the time at the peaks over the time measured, 1 when
    nothing else took any time.
    """
    runs: dict[Any, Callable[[], object]] = {name: partial(one.run, tiles[:1]) for name, (_, one) in bundles.items()}
    runs |= {("peak", precision): _product(precision, threads) for precision in ("f32", "i8")}
    times = in_turn(runs, seconds=seconds, warm_up=3)
    peak_ms = {precision: times["peak", precision] for precision in ("f32", "i8")}
    found = {}
    for name, (bundle, _) in bundles.items():
        work = count_work(bundle)
        at = {"i8": work.int8, "f32": work.total - work.int8}
        at_peak = (at["i8"] * peak_ms["i8"] + at["f32"] * peak_ms["f32"]) / SIDE**3
        found[name] = {
            "multiply_adds": {"linears": work.linears, "patches": work.patches, "attention": work.attention},
            "int8_share": round(at["i8"] / work.total, 4),
            "at_peak_ms": round(float(np.median(at_peak)), 4),
            "measured_ms": round(float(np.median(times[name])), 4),
            "of_peak": round(ratio(at_peak, times[name]), 4),
        }
    peaks = {precision: round(SIDE**3 / float(np.median(ms)) * 1e3) for precision, ms in peak_ms.items()}
    return {"peaks": peaks, "product": [SIDE] * 3, "threads": threads, "n": len(peak_ms["f32"]), "bundles": found}


def roofline_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Return a row a bundle, as `HEADER` names the columns."""
    return [
        [
            name,
            f"{sum(one['multiply_adds'].values()) / 1e9:.3g} G, {100 * one['int8_share']:.0f} % in INT8",
            f"{one['at_peak_ms']:.2f}",
            f"{one['measured_ms']:.2f}",
            f"{100 * one['of_peak']:.0f} %",
        ]
        for name, one in found["bundles"].items()
    ]


def peaks_line(found: Mapping[str, Any]) -> str:
    """Say what the peaks are."""
    peaks = ", ".join(f"{name} {value / 1e9:.1f} G" for name, value in found["peaks"].items())
    side = " x ".join(map(str, found["product"]))
    threads, n = found["threads"], found["n"]
    return f"OpenVINO's peak multiply-adds a second on {threads} threads, a product of {side} (n = {n}): {peaks}"


def _product(precision: str, threads: int) -> Callable[[], object]:
    """Return a call of one product of SIDE x SIDE with weights, in OpenVINO's kernel for a precision."""
    draw = np.random.default_rng(0)
    x = ops.parameter([SIDE, SIDE], np.float32)
    if precision == "i8":
        low, high = np.float32(-4.0), np.float32(127 / 32)
        rounded = ops.fake_quantize(x, low, high, low, high, 256)
        integers = ops.constant(draw.integers(-127, 128, (SIDE, SIDE)).astype(np.int8))
        weight = ops.multiply(ops.convert(integers, "f32"), ops.constant(np.full((SIDE, 1), 0.01, np.float32)))
    else:
        rounded, weight = x, ops.constant(draw.standard_normal((SIDE, SIDE)).astype(np.float32))
    model = openvino.Model([ops.matmul(rounded, weight, False, True)], [x])
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = core().compile_model(model, "CPU", options).create_infer_request()
    given = draw.standard_normal((SIDE, SIDE)).astype(np.float32)
    return lambda: request.infer({0: given}, share_inputs=True)


def main() -> None:
    """Print how near bundles come to the peaks, and the peaks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="folders of bundles for OpenVINO")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads and cores; 0 = all cores")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each bundle and peak, at most")
    given = parser.parse_args()
    bundles = [open_bundle(path) for path in given.bundles]
    if others := [bundle.name for bundle in bundles if bundle.backend != "openvino"]:
        parser.error(f"{', '.join(others)}: not for OpenVINO, whose kernels the peaks are")
    with pinned(given.threads) as pinning, ExitStack() as stack:
        timed = {one.name: (one, bundle_contender(one, one.name, pinning.threads, stack)) for one in bundles}
        found = roofline(timed, bundles[0].golden()[0], pinning.threads, seconds=given.seconds)
    print_table(table(HEADER, roofline_rows(found)))
    print(peaks_line(found))


if __name__ == "__main__":
    main()

"""2:4 sparsity in one shot: of every four weights that follow each other in a row two become zero, the others make up.

SparseGPT (Frantar & Alistarh, ICML 2023, arXiv 2301.00774): which weights go, and what the rest of their row has to
become, follows from the inputs that a layer gets (H = X^T X). Blocks are done in their order, on the inputs that those
before leave. `keeping_zeros` lets edgepath's quantization-aware distillation train what is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgepath.machine.inference import inference
from edgepath.program import qad
from edgepath.program.calibrate import linears
from edgepath.program.fold import EdgeModel

BATCH = 8
DAMPING = 0.01


def prune(net: EdgeModel, tiles: np.ndarray, parts: str = "") -> EdgeModel:
    """Make the blocks' linears whose names hold `parts` 2:4 sparse, in place; tiles are uint8 (N, S, S, 3)."""
    of_block: dict[str, dict[str, nn.Linear]] = {}
    for name, layer in linears(net).items():
        if parts in name:
            of_block.setdefault(name.split("blocks.")[1].split(".")[0], {})[name] = layer
    for layers in of_block.values():
        for name, hessian in hessians(net, layers, tiles).items():
            weight = layers[name].weight
            weight.data = pruned(weight.data.double(), hessian).to(weight.dtype)
    return net


def hessians(net: EdgeModel, layers: dict[str, nn.Linear], tiles: np.ndarray) -> dict[str, Tensor]:
    """Return X^T X of each layer's inputs, float64 (in, in)."""
    sums: dict[str, Tensor] = {}
    with ExitStack() as hooks, inference():
        for name, layer in layers.items():

            def add(_: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
                rows = given[0].flatten(0, -2)
                sums[name] = sums.get(name, 0) + (rows.T @ rows).double()

            hooks.enter_context(layer.register_forward_pre_hook(add))
        for start in range(0, len(tiles), BATCH):
            net(torch.from_numpy(tiles[start : start + BATCH]))
    return sums


def pruned(weight: Tensor, hessian: Tensor) -> Tensor:
    """Return `weight`, float64 (out, in), with two zeros in every four, for inputs of this `hessian`.

    Columns are done from the first on; what removing a weight costs goes into the columns that follow.
    """
    weight = weight.clone()
    damped = hessian + DAMPING * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=hessian.dtype)
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    for start in range(0, weight.shape[1], 4):
        group = slice(start, start + 4)
        salience = (weight[:, group] / inverse.diagonal()[group]) ** 2
        gone = torch.zeros_like(salience, dtype=torch.bool).scatter(1, salience.argsort(1)[:, :2], value=True)
        for offset in range(4):
            column = start + offset
            error = torch.where(gone[:, offset], weight[:, column], 0) / inverse[column, column]
            weight[:, column:] -= error[:, None] * inverse[column, column:]
        weight[:, group][gone] = 0  # what rounding left there
    return weight


@contextmanager
def keeping_zeros() -> Iterator[None]:
    """Let `qad.repair` leave weights alone that are zero when it starts."""

    class Sparse(qad.FakeQuantLinear):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            zero = self.weight.detach() == 0
            self.weight.register_hook(lambda gradient: gradient.masked_fill(zero, 0))  # type: ignore[no-untyped-call]

    plain = qad.FakeQuantLinear
    qad.FakeQuantLinear = Sparse  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        qad.FakeQuantLinear = plain  # type: ignore[misc]


def share_of_zeros(net: EdgeModel) -> float:
    """Return how many of the blocks' groups of four weights hold two zeros, 0 to 1; of layers in INT8, too."""
    weights = [
        part.weight
        for name, part in net.named_modules()
        if "blocks." in name and getattr(part, "weight", None) is not None and part.weight.ndim == 2
    ]
    groups = torch.cat([(weight.unflatten(1, (-1, 4)) == 0).sum(-1).flatten() for weight in weights])
    return float((groups >= 2).double().mean())


def engine(graph: Path, capability: str = "SM86") -> dict[str, Any]:
    """Build a graph for TensorRT-RTX with and without its flag for sparse weights, and return what it says of them.

    It needs no GPU, and so times no tactics: which it would choose on one is not known here.
    """
    import tensorrt_rtx_bindings as trt

    found: dict[str, Any] = {"tensorrt_rtx": trt.__version__, "built for": capability}
    for asked in (False, True):
        said: list[str] = []

        class Log(trt.ILogger):  # type: ignore[misc]
            def __init__(self, lines: list[str] = said) -> None:
                trt.ILogger.__init__(self)
                self.lines = lines

            def log(self, severity: Any, message: str) -> None:
                if "spars" in message.lower():
                    self.lines.append(message)

        log = Log()
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        assert trt.OnnxParser(network, log).parse_from_file(str(graph))
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.__members__[capability], 0)
        profile.set_shape("tiles", *[(batch, 224, 224, 3) for batch in (1, 1, 16)])
        config.add_optimization_profile(profile)
        if asked:
            config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
        built = builder.build_serialized_network(network, config)
        size = None if built is None else len(bytes(built))
        found["with the flag" if asked else "without"] = {"bytes": size, "messages": said[:20], "of": len(said)}
    return found

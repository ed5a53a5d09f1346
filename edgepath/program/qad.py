"""Quantization-aware distillation: repair what rounding costs, with the full-precision model as the teacher.

The linears run under fake quantization, with the very scales and roundings that are stored: straight-through rounding
(Bengio et al., arXiv 1308.3432) and learned step sizes (LSQ: Esser et al., arXiv 1902.08153). No label is used. What
comes out is an ordinary quantized program: same layers, same Q/DQ, other numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError, WeightsError
from ..machine.progress import Advance
from .calibrate import NO_PLAN, Plan, Ranges, linears
from .fold import EdgeModel
from .linear import (
    INT8_MAX,
    QuantizedLinear,
    RoundingLinear,
    quantize_linear,
    replace_layer,
    spare_class_token,
    to_quantize,
    weight_max,
)

Seen = tuple[Tensor, Tensor]
"""Embeddings (N, D), and the tokens that enter the last block (N, T, width)."""
Loss = Callable[[Seen, Seen], Tensor]
"""From what the teacher sees and what the student does."""
VALIDATED = 8  # every eighth tile is not trained on and decides which checkpoint is kept


@dataclass(frozen=True)
class Options:
    """How long and how fast.

    The rates are for weights of 4 bits. Others' are in proportion to the step that weights of their bits are rounded
    to: at 8 bits these would move weights by more than rounding does, and win nothing back.
    """

    steps: int
    batch: int = 8
    learning_rate: float = 1e-4
    step_size_rate: float = 1e-3
    evaluate_every: int = 25
    seed: int = 0


@dataclass(frozen=True)
class Repaired:
    """What training changed: drift (1 - mean cosine to the teacher, on tiles not trained on) before and at its best."""

    steps: int
    best_step: int
    drift_before: float
    drift_after: float
    trained_on: int
    validated_on: int


class FakeQuantLinear(RoundingLinear):
    """A linear layer that rounds its input and weights as `QuantizedLinear` does, and lets gradients through.

    Step sizes are learned as factors: scale = start x exp(parameter), so that they stay above zero.
    """

    input_start: Tensor
    weight_start: Tensor

    def __init__(self, linear: nn.Linear, start: QuantizedLinear, largest: int) -> None:
        super().__init__()
        self.largest = largest
        self.weight = nn.Parameter(linear.weight.detach().clone())
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().clone())
        self.register_buffer("input_start", torch.tensor(start.input_scale))
        self.register_buffer("weight_start", start.weight_scale.clone())
        self.input_step = nn.Parameter(torch.zeros(()))
        self.weight_step = nn.Parameter(torch.zeros(len(start.weight_scale)))

    def scales(self) -> tuple[Tensor, Tensor]:
        """Return the input's scale () and the weights' (out,), as FP16 stores them."""
        steps = ((self.input_start, self.input_step), (self.weight_start, self.weight_step))
        inputs, weights = (_as_stored(start * step.exp()) for start, step in steps)
        return inputs, weights

    def forward(self, x: Tensor) -> Tensor:
        inputs, weights = self.scales()
        if self.spared != "all":
            rounded = fake_quantize(x, inputs, INT8_MAX, lowest=-INT8_MAX - 1)
            x = rounded if self.spared == "none" else torch.cat([x[:, :1], rounded[:, 1:]], 1)
        weight = fake_quantize(self.weight, weights[:, None], self.largest, lowest=-self.largest)
        return F.linear(x, weight, self.bias)

    def frozen(self) -> QuantizedLinear:
        """Return the layer with integers for weights."""
        linear = nn.Linear(self.weight.shape[1], self.weight.shape[0], bias=self.bias is not None, device="meta")
        linear.weight = nn.Parameter(self.weight.detach().clone(), requires_grad=False)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=False)
        with torch.no_grad():
            inputs, weights = self.scales()
        frozen = QuantizedLinear(linear, float(inputs), weights, self.largest)
        frozen.spared = self.spared
        return frozen


def fake_quantize(x: Tensor, scale: Tensor, largest: int, *, lowest: int) -> Tensor:
    """Round to multiples of `scale`, from `lowest` to `largest` of them; gradients pass straight through the rounding.

    The gradient of `scale` is LSQ's (equation 3): the rounding error inside the range, the bound outside.
    """
    steps = (x / scale).clamp(lowest, largest)
    return (steps + (steps.round() - steps).detach()) * scale


def relative_distance(teacher: Seen, student: Seen) -> Tensor:
    """Return the squared distances, relative to the teacher's length, of embeddings and of tokens, added."""
    return _relative(teacher[0], student[0]) + _relative(teacher[1], student[1])


def repair(
    net: EdgeModel,
    ranges: Ranges,
    tiles: np.ndarray,
    teacher: EdgeModel,
    options: Options,
    *,
    plan: Plan = NO_PLAN,
    loss: Loss = relative_distance,
    weight_bits: int = 8,
    keep: Sequence[str] = (),
    class_token: Literal["int8", "float"] = "int8",
    device: str = "cpu",
    progress: Advance | None = None,
) -> tuple[EdgeModel, Repaired]:
    """Quantize `net` (folded and smoothed), train it towards `teacher` on `tiles`, and return the best program.

    `tiles` is uint8 (N, S, S, 3), `teacher` the folded model in full precision, `class_token` the recipe's. Every
    eighth tile is kept to judge by; the program with the least drift on those is returned, which is the one before
    training if none is better.

    Raises UsageError for fewer than 16 tiles, WeightsError naming the step where the loss stopped being finite.
    """
    if options.steps < 1 or len(tiles) < 2 * VALIDATED:
        raise UsageError(
            f"qad: {options.steps} steps on {len(tiles)} tiles; at least 1 step and {2 * VALIDATED} tiles are needed"
        )
    judge = np.arange(len(tiles)) % VALIDATED == 0
    held, pixels = tiles[judge], tiles[~judge]
    student = _prepare(net, ranges, plan, weight_bits, keep)
    if class_token == "float":
        spare_class_token(student)
    student = student.to(device)
    teacher = teacher.to(device).requires_grad_(False)
    wanted, _ = _see(teacher, held, device)
    best = before = _drift(student, held, wanted, device)
    best_step, state = 0, copy.deepcopy(student.state_dict())
    optimizer = torch.optim.AdamW(_groups(student, options, 2.0 ** (4 - weight_bits)), weight_decay=0.0)
    for step in _steps(student, teacher, pixels, loss, optimizer, options, device):
        if step % options.evaluate_every == 0 or step == options.steps:
            drift = _drift(student, held, wanted, device)
            if drift < best:
                best, best_step, state = drift, step, copy.deepcopy(student.state_dict())
        if progress is not None:
            progress(1)
    student.load_state_dict(state)
    facts = Repaired(options.steps, best_step, before, best, len(pixels), len(held))
    return _freeze(student.to("cpu")), facts


def _steps(
    student: EdgeModel,
    teacher: EdgeModel,
    pixels: np.ndarray,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    options: Options,
    device: str,
) -> Iterator[int]:
    """Train the student, and yield the number of every step that was taken."""
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    order = np.random.default_rng(options.seed)
    for step in range(1, options.steps + 1):
        batch = pixels[order.choice(len(pixels), min(options.batch, len(pixels)), replace=False)]
        batch = np.rot90(batch, int(order.integers(4)), (1, 2))  # tissue has no upright
        with torch.no_grad():
            target = _tokens(teacher, batch, device)
        total = loss(target, _tokens(student, batch, device))
        if not torch.isfinite(total):
            raise WeightsError(
                f"qad: the loss of step {step} is {float(total.detach())}; export without qad, or with fewer steps"
            )
        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield step


def _prepare(net: EdgeModel, ranges: Ranges, plan: Plan, weight_bits: int, keep: Sequence[str]) -> EdgeModel:
    """Put fake quantization in place of the linears; with nothing trained, the program is what `quantize` makes."""
    net = net.requires_grad_(False)
    for name, layer in to_quantize(linears(net), keep).items():
        start = quantize_linear(layer, plan.limit(name, ranges), weight_bits)
        replace_layer(net, name, FakeQuantLinear(layer, start, weight_max(weight_bits)))
    for part in net.vit.blocks.modules():
        if isinstance(part, nn.LayerNorm):
            part.requires_grad_(True)
    return net


def _freeze(net: EdgeModel) -> EdgeModel:
    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, FakeQuantLinear)}
    for name, layer in layers.items():
        replace_layer(net, name, layer.frozen())
    return net.requires_grad_(False).eval()


def _groups(net: nn.Module, options: Options, share: float) -> list[dict[str, object]]:
    """Return step sizes and all others, each with its rate times `share`."""
    steps = [value for name, value in net.named_parameters() if name.endswith("_step")]
    others = [v for name, v in net.named_parameters() if v.requires_grad and not name.endswith("_step")]
    return [
        {"params": steps, "lr": share * options.step_size_rate},
        {"params": others, "lr": share * options.learning_rate},
    ]


def _tokens(net: EdgeModel, tiles: np.ndarray, device: str) -> Seen:
    seen: list[Tensor] = []
    with net.vit.blocks[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        outputs = net(torch.from_numpy(np.array(tiles, order="C")).to(device))
    return (outputs if isinstance(outputs, Tensor) else outputs[0]), seen[0]


def _see(net: EdgeModel, tiles: np.ndarray, device: str) -> Seen:
    with torch.no_grad():
        parts = [_tokens(net, tiles[start : start + 8], device) for start in range(0, len(tiles), 8)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _drift(net: EdgeModel, tiles: np.ndarray, wanted: Tensor, device: str) -> float:
    embeddings, _ = _see(net, tiles, device)
    return float(1 - F.cosine_similarity(embeddings.double(), wanted.double()).mean())


def _relative(teacher: Tensor, student: Tensor) -> Tensor:
    return (((student - teacher) ** 2).sum(-1) / (teacher**2).sum(-1)).mean()


def _as_stored(scale: Tensor) -> Tensor:
    """Round a scale to what FP16 holds, gradients passing straight through."""
    return scale + (scale.half().float().clamp_min(2.0**-24) - scale).detach()

"""Training through fake quantization begins where plain quantization ends, and never makes it worse."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgepath.distillation.heads import TeacherHead
from edgepath.errors import UsageError, WeightsError
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program import qad
from edgepath.program.calibrate import Ranges, calibrate
from edgepath.program.fold import EdgeModel, fold
from edgepath.program.linear import QuantizedLinear, load_program, quantize, quantize_linear, save_program, weight_max
from edgepath.program.qad import FakeQuantLinear, Options, fake_quantize, repair
from edgepath.program.smooth import smooth
from edgepath.tiles.synthetic import synthesize

FEW = Options(steps=40, batch=4, learning_rate=2e-4, evaluate_every=10)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return synthesize(24, seed=11)


@pytest.fixture(scope="module")
def teacher(tiny: ModelSpec) -> EdgeModel:
    return fold(random_model(tiny), tiny)


@pytest.fixture
def smoothed(teacher: EdgeModel, pixels: np.ndarray) -> tuple[EdgeModel, Ranges]:
    net = copy.deepcopy(teacher)
    return net, smooth(net, calibrate(net, [pixels[:8]]), alpha=0.5)


def embed(net: EdgeModel, tiles: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        found = net(torch.from_numpy(tiles))
    assert isinstance(found, torch.Tensor)
    return found


def drift(net: EdgeModel, teacher: EdgeModel, tiles: np.ndarray) -> float:
    pair = embed(net, tiles).double(), embed(teacher, tiles).double()
    return float(1 - torch.nn.functional.cosine_similarity(*pair).mean())


@pytest.mark.parametrize("bits", [8, 4])
def test_untrained_it_rounds_as_the_quantized_layer_does(bits: int) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(32, 16)
    plain = quantize_linear(layer, 3.0, bits)
    fake = FakeQuantLinear(layer, plain, weight_max(bits))
    x = torch.randn(5, 32)
    assert torch.allclose(fake(x), plain(x), atol=1e-5)
    frozen = fake.frozen()
    assert torch.equal(frozen.weight, plain.weight)
    assert torch.equal(frozen.weight_scale, plain.weight_scale)
    assert frozen.input_scale == plain.input_scale
    assert int(plain.weight.abs().max()) == weight_max(bits)


def test_trained_layer_and_what_is_stored_of_it_are_the_same_function() -> None:
    torch.manual_seed(1)
    layer = nn.Linear(32, 16)
    fake = FakeQuantLinear(layer, quantize_linear(layer, 3.0), 127)
    with torch.no_grad():
        fake.input_step.fill_(0.3)
        fake.weight_step.uniform_(-0.5, 0.5)
        fake.weight.add_(0.01 * torch.randn_like(fake.weight))
    frozen, x = fake.frozen(), torch.randn(5, 32)
    assert torch.allclose(fake(x), frozen(x), atol=1e-5)
    stored = frozen.weight_scale
    assert torch.equal(stored, stored.half().float())  # FP16 holds it


def test_gradient_of_the_step_size_is_lsqs() -> None:
    # Esser et al., equation 3: round(v / s) - v / s inside the range, the bound outside.
    x = torch.tensor([0.3, -1.26, 40.0, -40.0], requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=True)
    fake_quantize(x, scale, 127, lowest=-127).sum().backward()
    ratio = np.array([3.0, -12.6, 127, -127])
    expected = np.where(np.abs(ratio) < 127, np.round(ratio) - ratio, ratio).sum()
    assert scale.grad is not None
    assert x.grad is not None
    assert float(scale.grad) == pytest.approx(expected, abs=1e-3)
    assert x.grad.tolist() == [1.0, 1.0, 0.0, 0.0]


def through_prototypes(teacher: EdgeModel, tiles: np.ndarray) -> qad.Loss:
    """Return DINO's and iBOT's cross-entropies, through fixed heads that teacher and student share."""
    seen = qad._see(teacher, tiles, "cpu")
    heads = []
    for seed, values in enumerate((seen[0], seen[1].flatten(0, 1))):
        head = TeacherHead(values.shape[-1], min(256, values.shape[-1]), prototypes=1024, seed=seed)
        head.fit(values, from_tokens=False, seed=seed)
        heads.append(head)

    def cross_entropy(wanted: qad.Seen, found: qad.Seen) -> torch.Tensor:
        total = torch.zeros(())
        for head, target, value in zip(heads, wanted, found, strict=True):
            shares = (head(target.flatten(0, -2)) / 0.07).softmax(-1)
            logits = head.compare(value.flatten(0, -2)) / 0.07
            total = total - (shares * logits.log_softmax(-1)).sum(-1).mean()
        return total

    return cross_entropy


@pytest.mark.parametrize("prototypes", [False, True], ids=["embedding", "prototypes"])
def test_four_bit_weights_are_repaired(
    smoothed: tuple[EdgeModel, Ranges], teacher: EdgeModel, pixels: np.ndarray, prototypes: bool
) -> None:
    plain = quantize(*copy.deepcopy(smoothed), weight_bits=4)
    how = {"loss": through_prototypes(teacher, pixels[:16])} if prototypes else {}
    net, facts = repair(*smoothed, pixels[:16], teacher, FEW, weight_bits=4, **how)
    assert facts.best_step > 0
    assert facts.drift_after < 0.8 * facts.drift_before
    fresh = pixels[16:]  # neither trained on nor judged by
    assert drift(net, teacher, fresh) < 0.9 * drift(plain, teacher, fresh)
    layers = [layer for layer in net.modules() if isinstance(layer, QuantizedLinear)]
    assert len(layers) == 9
    assert all(int(layer.weight.abs().max()) <= 7 for layer in layers)
    assert not any(isinstance(layer, FakeQuantLinear) for layer in net.modules())
    assert not any(value.requires_grad for value in net.parameters())


def test_training_that_only_harms_returns_the_plain_program(
    smoothed: tuple[EdgeModel, Ranges], teacher: EdgeModel, pixels: np.ndarray
) -> None:
    plain = quantize(*copy.deepcopy(smoothed))
    harmful = replace(FEW, steps=4, evaluate_every=1, learning_rate=10.0, step_size_rate=1.0)
    net, facts = repair(*smoothed, pixels[:16], teacher, harmful)
    assert facts.best_step == 0
    assert facts.drift_after == facts.drift_before
    assert torch.allclose(embed(net, pixels[:4]), embed(plain, pixels[:4]), atol=1e-4)


def test_weights_of_more_bits_are_moved_by_less(
    smoothed: tuple[EdgeModel, Ranges], teacher: EdgeModel, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: dict[int, list[float]] = {}
    real = torch.optim.AdamW

    def watched(groups: list[dict[str, object]], **given: float) -> torch.optim.AdamW:
        rates[bits] = [group["lr"] for group in groups]  # type: ignore[misc]
        return real(groups, **given)

    monkeypatch.setattr(torch.optim, "AdamW", watched)
    for bits in (4, 8):
        repair(*copy.deepcopy(smoothed), pixels[:16], teacher, replace(FEW, steps=1), weight_bits=bits)
    assert rates[4] == [FEW.step_size_rate, FEW.learning_rate]
    assert rates[8] == [rate / 16 for rate in rates[4]]


def test_the_same_seed_gives_the_same_program(
    smoothed: tuple[EdgeModel, Ranges], teacher: EdgeModel, pixels: np.ndarray
) -> None:
    short = replace(FEW, steps=3, evaluate_every=1)
    one, other = (repair(*copy.deepcopy(smoothed), pixels[:16], teacher, short)[0] for _ in range(2))
    theirs = other.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def test_loss_that_is_not_finite_names_the_step(
    smoothed: tuple[EdgeModel, Ranges], teacher: EdgeModel, pixels: np.ndarray
) -> None:
    with pytest.raises(WeightsError, match="the loss of step 1 is nan"):
        repair(*smoothed, pixels[:16], teacher, FEW, loss=lambda wanted, found: found[0].sum() * float("nan"))


def test_too_few_tiles_are_refused(smoothed: tuple[EdgeModel, Ranges], teacher: EdgeModel, pixels: np.ndarray) -> None:
    with pytest.raises(UsageError, match="40 steps on 15 tiles; at least 1 step and 16 tiles"):
        repair(*smoothed, pixels[:15], teacher, FEW)


def test_program_is_read_back_as_it_was(
    smoothed: tuple[EdgeModel, Ranges], teacher: EdgeModel, pixels: np.ndarray, tmp_path: Path
) -> None:
    net, ranges = smoothed
    net = quantize(net, ranges, weight_bits=4)
    save_program(net, tmp_path / "program.safetensors")
    other = quantize(copy.deepcopy(teacher), ranges)  # of the same layers; its numbers are replaced
    again = load_program(other, tmp_path / "program.safetensors")
    assert torch.equal(embed(again, pixels[:2]), embed(net, pixels[:2]))


def test_program_of_another_model_is_refused(tiny: ModelSpec, teacher: EdgeModel, tmp_path: Path) -> None:
    (tmp_path / "program.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match="header"):
        load_program(copy.deepcopy(teacher), tmp_path / "program.safetensors")

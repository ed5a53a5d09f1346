"""`bench`: the figures it returns hold together, its gate holds, and what cannot be timed is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepath.bundle.bundle import Bundle, open_bundle
from edgepath.bundle.device_reports import reports_file
from edgepath.errors import MissingRuntime, UsageError
from edgepath.exporting import Exported
from edgepath.speed.benchmark import bench

Exports = Callable[[str], Exported]
QUICK = {"rounds": 3, "seconds": 1.0, "warm_up": 1, "threads": 1, "cold": 0}


@pytest.fixture(scope="module")
def result(exports: Exports) -> dict[str, Any]:
    given = [exports(target).bundle for target in ("openvino-int8", "onnx-int8", "openvino-fp16")]
    return bench(given, against=["fp32"], batches=[1, 3], **QUICK | {"cold": 1})  # type: ignore[arg-type]


def test_every_contender_is_timed_at_every_batch(result: dict[str, Any]) -> None:
    names = ["tiny-openvino-int8", "tiny-onnx-int8", "tiny-openvino-fp16", "FP32 (OpenVINO)", "FP32 (ONNX Runtime)"]
    assert [row["name"] for row in result["results"]] == names * 2
    assert [row["batch"] for row in result["results"]] == [1] * 5 + [3] * 5
    for row in result["results"]:
        assert len(row["samples_ms"]) == row["n"] == 3
        assert row["threads"] == 1
        assert row["latency_ms"]["p50"] == pytest.approx(np.median(row["samples_ms"]), abs=1e-3)
        assert row["tiles_per_s"] == pytest.approx(row["batch"] * 1e3 / row["latency_ms"]["p50"], rel=1e-3)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_ratios_are_those_of_the_rounds(result: dict[str, Any]) -> None:
    samples = {(row["name"], row["batch"]): np.array(row["samples_ms"]) for row in result["results"]}
    held = {"tiny-openvino-int8": "FP32 (OpenVINO)", "tiny-onnx-int8": "FP32 (ONNX Runtime)"}
    for row in result["results"]:
        if row["name"].startswith("FP32"):
            assert row["ratio"] is None
            continue
        ratio = row["ratio"]
        assert ratio["against"] == held.get(row["name"], "FP32 (OpenVINO)")
        assert ratio["p50"] == pytest.approx(
            np.median(samples[row["name"], row["batch"]] / samples[ratio["against"], row["batch"]]), rel=1e-3
        )


def test_int8_is_judged_at_batch_1_and_only_int8(result: dict[str, Any]) -> None:
    at_one = {row["name"]: row["ratio"]["p50"] for row in result["results"] if row["batch"] == 1 and row["ratio"]}
    assert [gate["of"] for gate in result["gates"]] == ["tiny-openvino-int8", "tiny-onnx-int8"]
    for gate in result["gates"]:
        assert gate["measured"] == pytest.approx(at_one[gate["of"]], rel=1e-3)  # samples are kept to 0.1 us
        assert gate["required"] == 1.0
        assert (gate["verdict"], gate["n"], gate["unit"]) == ("inconclusive", 3, "rounds")  # three bound no median
    assert result["verdict"] == "inconclusive"
    assert result["passed"] == all(gate["passed"] for gate in result["gates"])


@pytest.mark.parametrize(("allowed", "passed"), [(1e-6, False), (1e6, True)])
def test_the_recipe_says_what_is_fast_enough(altered: Callable[..., Bundle], allowed: float, passed: bool) -> None:
    def change(folder: Path) -> None:
        manifest = json.loads((folder / "bundle.json").read_text())
        manifest["recipe"]["accept"]["latency"] = {"of_full_precision": allowed}
        (folder / "bundle.json").write_text(json.dumps(manifest))

    enough = QUICK | {"rounds": 6, "seconds": 30.0}
    found = bench([altered("onnx-int8", change)], against=["fp32"], batches=[1], **enough)  # type: ignore[arg-type]
    assert [gate["passed"] for gate in found["gates"]] == [passed]
    assert found["verdict"] == ("non-inferior" if passed else "inferior")
    assert found["passed"] is passed


def test_streams_cold_start_memory_and_size(result: dict[str, Any], exports: Exports) -> None:
    streamed = [(row["name"], row["batch"]) for row in result["throughput"]]
    assert streamed == [(f"tiny-openvino-{kind}", batch) for batch in (1, 3) for kind in ("int8", "fp16")]
    assert all(row["tiles_per_s"] == pytest.approx(np.median(row["samples"]), abs=1e-2) for row in result["throughput"])
    names = {row["name"] for row in result["results"]}
    assert {row["name"] for row in result["memory"]} == {row["name"] for row in result["cold_start"]} == names
    assert {row["batch"] for row in result["memory"]} == {1, 3}
    manifest = exports("onnx-int8").bundle.manifest
    assert result["size_bytes"]["tiny-onnx-int8"] == manifest["artifact"]["size_bytes"]
    assert result["size_bytes"]["FP32 (ONNX Runtime)"] > 2 * result["size_bytes"]["tiny-onnx-int8"]
    assert {"cpu", "cpu_features", "cores", "memory", "pinned"} <= result["machine"].keys()


def test_against_another_bundle_and_an_earlier_result(result: dict[str, Any], exports: Exports, tmp_path: Path) -> None:
    (tmp_path / "earlier.json").write_text(json.dumps(result))
    other = exports("onnx-fp32").bundle.path
    found = bench(
        [exports("onnx-int8").bundle],
        against=[other, tmp_path / "earlier.json"],
        batches=[1],
        profile=True,
        **QUICK,  # type: ignore[arg-type]
    )
    assert set(found["operations"]) == {"tiny-onnx-int8"}
    ours, theirs = found["results"]
    assert theirs["name"] == "tiny-onnx-fp32"
    here, before = ours["ratios"]
    assert (here["against"], here["same_run"]) == ("tiny-onnx-fp32", True)
    assert before["against"].startswith("tiny-onnx-int8 of earlier.json, ")
    assert before["same_run"] is False
    assert {bundle["name"] for bundle in found["bundles"]} == {"tiny-onnx-int8", "tiny-onnx-fp32"}
    assert found["gates"] == []


def test_against_torch(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepath.speed.contenders.compiler", lambda: None)
    found = bench([exports("onnx-int8").bundle], against=["torch"], batches=[1], **QUICK)  # type: ignore[arg-type]
    assert [row["name"] for row in found["results"]] == ["tiny-onnx-int8", "torch eager FP32"]
    assert found["notes"] == ["torch.compile was not measured: there is no C++ compiler here."]


@pytest.mark.slow
def test_against_torch_compile(exports: Exports) -> None:
    found = bench([exports("onnx-int8").bundle], against=["torch"], batches=[1], **QUICK)  # type: ignore[arg-type]
    assert [row["name"] for row in found["results"]][1:] == ["torch eager FP32", "torch.compile FP32"]


def test_a_device_that_is_not_here_is_not_timed(exports: Exports) -> None:
    with pytest.raises(MissingRuntime, match=r"^bench: .*so it is not timed here: run kit/check\.py on the device"):
        bench([exports("jetson-int8").bundle], batches=[1], **QUICK)  # type: ignore[arg-type]


def test_what_its_device_reported_is_shown_relative_to_a_reference(
    result: dict[str, Any], altered: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = altered("jetson-int8", lambda folder: None)
    drift = {"cosine_mean": 0.999, "cosine_p01": 0.998}
    report = {
        "schema": 1,
        "bundle": {"name": bundle.name, "target": "jetson-int8", "sha256": bundle.digest},
        "passed": True,
        "drift": {"total": drift, "lowering": drift},
        "gates": [],
        "latency": {"n": 100, **{f"p{q}_ms": 5.0 + q / 100 for q in (50, 90, 95, 99)}},
        "ran_with": "TensorRT 10.3",
        "device": {"board": "Jetson Orin Nano"},
        "versions": {},
        "measured_at": "2026-01-01T00:00:00+00:00",
    }
    reports_file(bundle).write_text(json.dumps({"schema": 1, "bundle": bundle.digest, "reports": [report]}))
    suite = result | {"results": [{**result["results"][0], "name": "torch FP32", "ratio": None}]}
    suite["results"][0]["latency_ms"] = {"p50": 2.0}
    suite["machine"] = suite["machine"] | {"device": "A big GPU"}
    (tmp_path / "gpu.json").write_text(json.dumps(suite))
    found = bench([open_bundle(bundle.path)], against=[tmp_path / "gpu.json"], batches=[1], **QUICK)  # type: ignore[arg-type]
    (row,) = found["devices"]
    assert (row["device"], row["latency_ms"]["p50"]) == ("Jetson Orin Nano", 5.5)
    against = {"against": "torch FP32 of gpu.json, A big GPU", "kind": "earlier"}
    assert row["ratio"] == {**against, "p50": 2.75, "same_run": False}
    assert found["results"] == []
    assert "its devices' reports are shown" in found["notes"][0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"against": ["fp23"]}, 'against "fp23"; give fp32, torch, peer, the folder of a bundle'),
        ({"batches": [0]}, "--batch 0; give each once, from 1 on"),
        ({"batches": [1, 1]}, "--batch 1, 1; give each once"),
        ({"batches": []}, "--batch none"),
        ({"against": ["none.json"]}, "none.json: cannot be read as a result of bench"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes: dict[str, Any], said: str, exports: Exports) -> None:
    with pytest.raises(UsageError) as refused:
        bench([exports("onnx-int8").bundle], **{"batches": [1], **QUICK, **changes})
    assert said in str(refused.value)


def test_a_bundle_given_twice_is_refused(exports: Exports) -> None:
    with pytest.raises(UsageError, match="a bundle was given twice"):
        bench([exports("onnx-int8").bundle, exports("onnx-int8").bundle.path], **QUICK)  # type: ignore[arg-type]

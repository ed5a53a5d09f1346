"""`make bench` fails for a ratio that is more than 10 % worse than the one kept of such a machine."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def baseline(checkout: Path) -> ModuleType:
    spec = spec_from_file_location("baseline", checkout / "benchmarks" / "baseline.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_machine_is_compared_with_its_kind(baseline: ModuleType, checkout: Path) -> None:
    assert baseline.kind_of("avx2, avx512f, avx512_vnni") == "VNNI"
    assert baseline.kind_of("avx2, avx_vnni") == "VNNI"
    assert baseline.kind_of("avx2") == "AVX2"
    figures = baseline.kept("avx2", checkout / "benchmarks" / "results")
    assert "avx2" in figures["machine"]["with"]
    assert "vnni" not in figures["machine"]["with"]


@pytest.mark.parametrize(
    ("name", "known", "worse", "as_good"),
    [
        ("latency ratio a / b", 0.5, 0.56, 0.54),
        ("throughput ratio a", 1.2, 1.07, 1.09),
        ("slides: tiles/s from a over the artifact's alone", 0.95, 0.85, 0.86),
    ],
)
def test_only_what_is_a_tenth_worse_is_a_regression(
    baseline: ModuleType, name: str, known: float, worse: float, as_good: float
) -> None:
    before = {name: known}
    assert f"{name}: {worse}, kept of such a machine is {known}" == baseline.regression(name, worse, before)
    assert baseline.regression(name, as_good, before) is None
    assert baseline.regression(name, worse, {}) is None

"""Where time goes: every product with weights is found, in the precision it is stored in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgepath.backends import builds_of
from edgepath.errors import UsageError
from edgepath.exporting import Exported
from edgepath.reports.tables.speed import operation_table
from edgepath.speed.operations import operations

Exports = Callable[[str], Exported]


@pytest.mark.parametrize("target", ["openvino-int8", "onnx-int8"])
def test_operations_are_those_of_the_artifact(target: str, exports: Exports, tiles: np.ndarray) -> None:
    bundle = exports(target).bundle
    found = operations(bundle.backend, bundle.artifact, tiles[:1], 1)
    times = [row["ms"] for row in found["rows"]]
    assert times == sorted(times, reverse=True)
    assert sum(times) == pytest.approx(found["total_ms"], abs=0.01)
    assert sum(row["share"] for row in found["rows"]) == pytest.approx(1, abs=0.01)
    products = [
        row for row in found["rows"] if row["type"].startswith(("FullyConnected", "MatMulInteger", "QLinearMatMul"))
    ]
    # 8 linears, one of them split in two by the CLS-only last block; for OpenVINO five more are cut off
    count = 14 if builds_of(bundle.backend).split_projections else 9
    assert sum(row["count"] for row in products if row["precision"] in ("i8", "u8", "int8", "uint8")) == count
    shown = operation_table(found, shown=3)
    assert [len(row) for row in shown.rows] == [len(shown.header)] * 4
    assert shown.rows[-1][0] == f"{len(times) - 3} other kinds"


def test_another_runtime_tells_no_operations(exports: Exports, tiles: np.ndarray) -> None:
    bundle = exports("jetson-int8").bundle
    with pytest.raises(UsageError, match="operations are told by OpenVINO and ONNX Runtime, not by tensorrt"):
        operations(bundle.backend, bundle.artifact, tiles[:1], 1)

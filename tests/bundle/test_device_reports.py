"""A device's report is kept beside the bundle it was measured on, and one of another bundle is not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgepath.bundle.bundle import Bundle, open_bundle
from edgepath.bundle.device_reports import add_report, device_reports, reports_file
from edgepath.errors import BundleError, UsageError
from edgepath.exporting import Exported
from edgepath.reports.tables.drift import device_table

Exports = Callable[[str], Exported]


@pytest.fixture
def bundle(exports: Exports, tmp_path: Path) -> Bundle:
    """A bundle that was copied to a device, which is this machine."""
    shutil.copytree(exports("onnx-int8").bundle.path, tmp_path / "there")
    return open_bundle(tmp_path / "there")


@pytest.fixture
def report(bundle: Bundle, tmp_path: Path) -> Path:
    """What kit/check.py measured there."""
    out = tmp_path / "device-report.json"
    command = [sys.executable, str(bundle.path / "kit/check.py"), "--runs", "2", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_a_report_is_kept_beside_the_bundle_once(bundle: Bundle, report: Path) -> None:
    assert device_reports(bundle) == []
    added = add_report(bundle.path, report)
    add_report(bundle.path, report)
    kept = device_reports(open_bundle(bundle.path))  # which is still whole
    assert kept == [added]
    assert added == json.loads(report.read_text())
    shown = device_table(kept)
    (row,) = shown.rows
    assert len(row) == len(shown.header)
    assert row[-1] is True
    assert reports_file(bundle) == bundle.path.with_name("there.devices.json")


def test_a_report_of_another_bundle_is_refused(exports: Exports, report: Path) -> None:
    with pytest.raises(
        UsageError, match=r"measured on tiny-onnx-int8 \(bundle\.json .*give the bundle that was copied"
    ):
        add_report(exports("onnx-fp32").bundle, report)


def test_reports_of_a_bundle_that_was_replaced_are_not_shown(bundle: Bundle, report: Path) -> None:
    add_report(bundle, report)
    path = reports_file(bundle)
    path.write_text(path.read_text().replace(bundle.digest, "0" * 64))
    with pytest.raises(BundleError, match="its reports are of another bundle"):
        device_reports(bundle)
    path.write_text("{")
    with pytest.raises(BundleError, match="cannot be read"):
        device_reports(bundle)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: [], "is no device report of schema 1"),
        (lambda found: found | {"schema": 2}, "is no device report of schema 1"),
        (lambda found: found | {"passed": 1}, "passed = 1; expected bool; it is not whole"),
        (lambda found: found | {"drift": {}}, "drift.total is None; expected a table; it is not whole"),
        (lambda found: found | {"latency": {"p50_ms": 10**400, "p99_ms": 1.0}}, "latency.p50_ms = 1000+.*is not whole"),
        (lambda found: found | {"ran_with": "x\n\x1b[31m"}, "expected one line of text"),
        (lambda found: found | {"latency": {"p50_ms": "fast"}}, "is not whole"),
    ],
)
def test_what_is_no_report_is_refused(
    bundle: Bundle, report: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    report.write_text(json.dumps(change(json.loads(report.read_text()))))
    with pytest.raises(UsageError, match=said):
        add_report(bundle, report)
    report.write_text("no JSON")
    with pytest.raises(UsageError, match="cannot be read"):
        add_report(bundle, report)
    report.unlink()
    with pytest.raises(UsageError, match="No such file"):
        add_report(bundle, report)

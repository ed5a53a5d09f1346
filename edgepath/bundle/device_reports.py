"""What devices said of a bundle, kept beside it: `<bundle>.devices.json`, for a bundle itself never changes.

A report names the bundle it was measured on by the sha256 of its `bundle.json`; one of another bundle is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from ..errors import BundleError, UsageError
from ..machine.tables import Line, check_facts, read_json, shown
from ..machine.writing import write_text
from .bundle import Bundle, open_bundle

SCHEMA = 1
_LARGEST = 16 << 20


class Measured(TypedDict):
    """The bundle that was there, by its name and the sha256 of its `bundle.json`."""

    name: Line
    sha256: Line


class Cosines(TypedDict):
    """Of the golden tiles' embeddings: mean, and 1st percentile."""

    cosine_mean: float
    cosine_p01: float


class ReportedDrifts(TypedDict):
    """Of the artifact on the device: to full precision, and to the program."""

    total: Cosines
    lowering: Cosines


class _Times(TypedDict):
    p50_ms: float
    p99_ms: float


class Times(_Times, total=False):
    """Of `n` calls at batch 1."""

    n: int
    p90_ms: float
    p95_ms: float


class _DeviceReport(TypedDict):
    bundle: Measured
    passed: bool
    drift: ReportedDrifts
    gates: list[dict[str, object]]
    ran_with: Line
    device: dict[str, object]
    versions: dict[str, object]
    measured_at: Line


class DeviceReport(_DeviceReport, total=False):
    """What `kit/check.py` wrote on a device, as far as it is read; an interpreter's has no latency."""

    latency: Times


def add_report(bundle: str | Path | Bundle, report: str | Path) -> DeviceReport:
    """Keep a `device-report.json` that `kit/check.py` wrote on a device, and return it; the same one once only.

    Raises UsageError for a file that is no such report, or one of another bundle.
    """
    bundle = open_bundle(bundle)
    added = _read_report(Path(report))
    measured = added["bundle"]
    if measured["sha256"] != bundle.digest:
        raise UsageError(
            f"report {report}: measured on {measured['name']} (bundle.json {measured['sha256'][:12]}), "
            f"{bundle.path} is {bundle.digest[:12]}; give the bundle that was copied to the device"
        )
    known = device_reports(bundle)
    if added not in known:
        known.append(added)
        known.sort(key=lambda entry: str(entry["measured_at"]))
        kept = {"schema": SCHEMA, "bundle": bundle.digest, "reports": known}
        write_text(reports_file(bundle), json.dumps(kept, indent=2) + "\n", "reports")
    return added


def device_reports(bundle: Bundle) -> list[DeviceReport]:
    """Return the reports kept of a bundle, oldest first. Raises BundleError for a file that is not theirs."""
    path = reports_file(bundle)
    if not path.exists():
        return []
    try:
        kept = read_json(path, _LARGEST)
        digest, reports = kept["bundle"], list(kept["reports"])
        if kept["schema"] != SCHEMA:
            raise ValueError(f"schema {shown(kept['schema'])}")
        for report in reports:
            _check(report, path)
    except (ValueError, KeyError, TypeError, UsageError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); move it away and add the reports again") from None
    if digest != bundle.digest:
        raise BundleError(f"{path}: its reports are of another bundle of this name; move it away")
    return reports


def reports_file(bundle: Bundle) -> Path:
    """Return where a bundle's reports are kept."""
    folder = bundle.path.resolve()
    return folder.with_name(f"{folder.name}.devices.json")


def device_name(device: Mapping[str, object]) -> str:
    """Name a device by what its report says of it."""
    parts = [str(device[key]) for key in ("board", "gpu", "processor", "power_mode") if device.get(key)]
    return ", ".join(parts)[:80] or "not named"


def _read_report(path: Path) -> DeviceReport:
    try:
        content = read_json(path, _LARGEST)
    except ValueError as error:
        raise UsageError(f"report {path}: cannot be read ({error}); give device-report.json of kit/check.py") from None
    return _check(content, path)


def _check(content: Any, path: str | Path) -> DeviceReport:
    def refuse(problem: str) -> UsageError:
        return UsageError(f"report {path}: {problem}; it is not whole: give device-report.json of kit/check.py")

    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UsageError(f"report {path}: is no device report of schema {SCHEMA}; kit/check.py writes one")
    return check_facts(DeviceReport, content, refuse)

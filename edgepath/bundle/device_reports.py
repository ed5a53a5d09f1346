"""What devices said of a bundle, kept beside it: `<bundle>.devices.json`, for a bundle itself never changes.

A report names the bundle it was measured on by the sha256 of its `bundle.json`; one of another bundle is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BundleError, UsageError
from ..machine.tables import Line, parse_json, read_facts, shown
from ..machine.writing import replacing
from .bundle import Bundle, open_bundle

SCHEMA = 1
_LARGEST = 16 << 20


@dataclass(frozen=True)
class DeviceReport:
    """What `kit/check.py` wrote on a device, as far as it is read; `sha256` is of the bundle.json that was there."""

    name: Line
    sha256: Line
    passed: bool
    cosine_mean: float
    cosine_p01: float
    lowering: float
    gates: tuple[dict[str, Any], ...]
    p50_ms: float
    p99_ms: float
    ran_with: Line
    device: dict[str, Any]
    versions: dict[str, Any]
    measured_at: Line


_PLACES = {
    "name": "bundle.name",
    "sha256": "bundle.sha256",
    "cosine_mean": "drift.total.cosine_mean",
    "cosine_p01": "drift.total.cosine_p01",
    "lowering": "drift.lowering.cosine_mean",
    "p50_ms": "latency.p50_ms",
    "p99_ms": "latency.p99_ms",
}


def add_report(bundle: str | Path | Bundle, report: str | Path) -> dict[str, Any]:
    """Keep a `device-report.json` that `kit/check.py` wrote on a device, and return it; the same one once only.

    Raises UsageError for a file that is no such report, or one of another bundle.
    """
    bundle = open_bundle(bundle)
    found, measured = _read_report(Path(report))
    if measured.sha256 != bundle.digest:
        raise UsageError(
            f"report {report}: measured on {measured.name} (bundle.json {measured.sha256[:12]}), "
            f"{bundle.path} is {bundle.digest[:12]}; give the bundle that was copied to the device"
        )
    known = device_reports(bundle)
    if found not in known:
        known.append(found)
        known.sort(key=lambda one: str(one["measured_at"]))
        kept = {"schema": SCHEMA, "bundle": bundle.digest, "reports": known}
        with replacing(reports_file(bundle), "reports") as partial:
            partial.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    return found


def device_reports(bundle: Bundle) -> list[dict[str, Any]]:
    """Return the reports kept of a bundle, oldest first. Raises BundleError for a file that is not theirs."""
    path = reports_file(bundle)
    if not path.exists():
        return []
    try:
        kept = _read(path)
        digest, reports = kept["bundle"], [dict(one) for one in kept["reports"]]
        if kept["schema"] != SCHEMA:
            raise ValueError(f"schema {shown(kept['schema'])}")
        for one in reports:
            _check(one, path)
    except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); move it away and add the reports again") from None
    if digest != bundle.digest:
        raise BundleError(f"{path}: its reports are of another bundle of this name; move it away")
    return reports


def reports_file(bundle: Bundle) -> Path:
    """Return where a bundle's reports are kept."""
    folder = bundle.path.resolve()
    return folder.with_name(f"{folder.name}.devices.json")


def device_name(device: Mapping[str, Any]) -> str:
    """Name a device by what its report says of it."""
    said = [str(device[key]) for key in ("board", "gpu", "processor", "power_mode") if device.get(key)]
    return ", ".join(said)[:80] or "not named"


def _read(path: Path) -> Any:
    with open(path, "rb") as file:
        raw = file.read(_LARGEST + 1)
    if len(raw) > _LARGEST:
        raise ValueError("too large")
    return parse_json(raw)


def _read_report(path: Path) -> tuple[dict[str, Any], DeviceReport]:
    try:
        found = _read(path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"report {path}: cannot be read ({why}); give device-report.json of kit/check.py") from None
    facts = _check(found, path)
    return found, facts


def _check(found: Any, path: str | Path) -> DeviceReport:
    def refuse(problem: str) -> UsageError:
        return UsageError(f"report {path}: {problem}; it is not whole: give device-report.json of kit/check.py")

    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise UsageError(f"report {path}: is no device report of schema {SCHEMA}; kit/check.py writes one")
    return read_facts(DeviceReport, found, refuse, _PLACES)

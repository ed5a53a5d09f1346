"""What devices said of a bundle, kept beside it: `<bundle>.devices.json`, for a bundle itself never changes.

A report names the bundle it was measured on by the sha256 of its `bundle.json`; one of another bundle is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BundleError, UsageError
from ..machine.writing import replacing
from .bundle import Bundle, open_bundle

SCHEMA = 1
_LARGEST = 16 << 20
_NEEDED = {
    "bundle": dict,
    "passed": bool,
    "drift": dict,
    "gates": list,
    "latency": dict,
    "ran_with": str,
    "device": dict,
    "versions": dict,
    "measured_at": str,
}

_SHOWN = (("total", "cosine_mean"), ("total", "cosine_p01"), ("lowering", "cosine_mean"))  # of drift, in tables


def add_report(bundle: str | Path | Bundle, report: str | Path) -> dict[str, Any]:
    """Keep a `device-report.json` that `kit/check.py` wrote on a device, and return it; the same one once only.

    Raises UsageError for a file that is no such report, or one of another bundle.
    """
    bundle = open_bundle(bundle)
    found = _read_report(Path(report))
    measured = found["bundle"].get("sha256")
    if measured != bundle.digest:
        raise UsageError(
            f"report {report}: measured on {found['bundle'].get('name')} (bundle.json {str(measured)[:12]}), "
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
        kept = json.loads(path.read_text(encoding="utf-8"))
        digest, reports = kept["bundle"], [dict(one) for one in kept["reports"]]
        if kept["schema"] != SCHEMA:
            raise ValueError(f"schema {kept['schema']}")
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


def _read_report(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("too large")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"report {path}: cannot be read ({why}); give device-report.json of kit/check.py") from None
    _check(found, path)
    return dict(found)


def _check(found: Any, path: Path) -> None:
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise UsageError(f"report {path}: is no device report of schema {SCHEMA}; kit/check.py writes one")
    for key, kind in _NEEDED.items():
        if type(found.get(key)) is not kind:
            raise UsageError(f"report {path}: {key} is {found.get(key)!r}; kit/check.py writes a {kind.__name__}")
    try:
        for drift, figure in _SHOWN:
            float(found["drift"][drift][figure])
        for figure in ("p50_ms", "p99_ms"):
            float(found["latency"][figure])
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"report {path}: is not whole ({error!r}); kit/check.py writes one") from None

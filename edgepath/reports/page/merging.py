"""`edgepath report page`: joins a bundle's report with what else was measured of that very bundle, in one page.

A bundle never changes, so the page lies beside it. Results name the bundle they are of by the sha256 of its
`bundle.json`; those of another bundle are refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

from jinja2 import UndefinedError

from ...bundle.bundle import Bundle, open_bundle
from ...bundle.device_reports import device_reports
from ...checks.results import Report
from ...errors import BundleError, UsageError
from ...machine.writing import replacing
from .document import Section, passed, to_html, unmeasured
from .measured import curves_section, devices_section, latency_section, probe_section, robustness_section
from .tilestrip import pictures

_LARGEST = 256 << 20  # all 4,095 pairs of PLISM's slides, twice, are some 2 MB

_NOT_WHOLE = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, UndefinedError)
_OF_BUNDLE = {"name": str, "bundle": str, "notes": list, "ran_with": dict}
_NEEDED: dict[str, dict[str, type]] = {
    "robustness": {**_OF_BUNDLE, "slides": dict, "figures": dict, "pairs": dict, "gates": list},
    "curves": {**_OF_BUNDLE, "source": dict, "curves": list},
    "probe": {**_OF_BUNDLE, "source": dict, "scores": dict, "flips": list, "gates": list},
    "probe --hest": {**_OF_BUNDLE, "source": dict, "pearson": dict, "tasks": list, "gates": list},
    "bench": {"bundles": list, "results": list},
}


def write_page(
    bundle: str | Path | Bundle,
    *,
    robustness: Sequence[str | Path] = (),
    curves: Sequence[str | Path] = (),
    probe: Sequence[str | Path] = (),
    latency: Sequence[str | Path] = (),
    out: str | Path | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write `<bundle>.report.html` beside a bundle (or `out`): its report and the given results; return what it says.

    `robustness`, `curves`, `probe` and `latency` are files of what those commands (and `bench`) print with `--json`.
    Reports of devices that were kept beside the bundle are in the page too. `result["passed"]` is the verdict over all
    gates. `probe` takes results of `--labelled` and of `--hest`. Raises UsageError for a file that is no such result
    or is of another bundle, or an output in the way.
    """
    bundle = open_bundle(bundle)
    folder = bundle.path.resolve()
    path = folder.with_name(f"{folder.name}.report.html") if out is None else Path(out)
    _check_out(path, folder, force)
    given: list[tuple[str, str | Path, Callable[[Mapping[str, Any]], Section]]] = [
        *(("robustness", file, robustness_section) for file in robustness),
        *(("curves", file, curves_section) for file in curves),
        *(("probe", file, probe_section) for file in probe),
        *(("bench", file, latency_section) for file in latency),
    ]
    sections = [_section(bundle, command, Path(file), make) for command, file, make in given]
    if reports := device_reports(bundle):
        sections.append(devices_section(reports))
    page = _page(bundle, sections)
    with replacing(path, "page") as partial:
        partial.write_text(page, encoding="utf-8")
    return {
        "schema": 1,
        "name": bundle.name,
        "bundle": bundle.digest,
        "file": str(path),
        "sections": [one.title for one in sections],
        "not_measured": unmeasured(sections),
        "passed": passed(cast(Report, bundle.manifest), sections),
    }


def _check_out(path: Path, bundle: Path, force: bool) -> None:
    final = path.resolve()
    if path.suffix != ".html" or not final.parent.is_dir() or final.is_dir():
        raise UsageError(f"page {path}: give a file that ends in .html, in a folder that exists")
    if final.is_relative_to(bundle):
        raise UsageError(f"page {path} lies in the bundle, which never changes; write it elsewhere")
    if final.exists() and not force:
        raise UsageError(f"{path} exists; give --force to replace it, or another name")


def _section(bundle: Bundle, command: str, path: Path, make: Callable[[Mapping[str, Any]], Section]) -> Section:
    found = _read(path, command)
    of = [found] if command != "bench" else [one for one in found["bundles"] if isinstance(one, dict)]
    if bundle.digest not in [one.get("bundle") for one in of]:
        measured = ", ".join(f"{one.get('name')} (bundle.json {str(one.get('bundle'))[:12]})" for one in of)
        raise UsageError(
            f"results {path}: measured on {measured or 'no bundle'}, {bundle.path} is {bundle.digest[:12]}; run "
            f"edgepath {command} on this bundle"
        )
    ran = "probe --hest" if command == "probe" and "tasks" in found else command
    try:
        return make(found)
    except _NOT_WHOLE as error:
        raise UsageError(
            f"results {path}: not whole ({error!r}); run edgepath {ran} --json with this edgepath"
        ) from None


def _read(path: Path, command: str) -> dict[str, Any]:
    give = f"give what edgepath {command} --json prints"

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a figure")

    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"more than {_LARGEST} bytes")
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"results {path}: cannot be read ({why}); {give}") from None
    form = "probe --hest" if command == "probe" and isinstance(found, dict) and "tasks" in found else command
    for key, kind in _NEEDED[form].items():
        if not isinstance(found, dict) or type(found.get(key)) is not kind:
            raise UsageError(
                f"results {path}: not of edgepath {form} (it lacks {key}, or holds another kind of it); {give}"
            )
    return dict(found)


def _page(bundle: Bundle, sections: Sequence[Section]) -> str:
    golden, _ = bundle.golden()
    try:
        report = cast(Report, bundle.manifest)
        return to_html(report, pictures(report, golden), sections, bundle.digest)
    except _NOT_WHOLE as error:  # a manifest is checked only for what running the artifact needs
        raise BundleError(f"bundle {bundle.path}: its report is not whole ({error!r}); export it again") from None

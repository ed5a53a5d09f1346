"""`edgepath report page`: joins a bundle's report with what else was measured of that very bundle, in one page.

A bundle never changes, so the page lies beside it. Results name the bundle they are of by the sha256 of its
`bundle.json`; those of another bundle are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from jinja2 import UndefinedError

from ...bundle.bundle import Bundle, open_bundle
from ...bundle.device_reports import device_reports
from ...checks.results import Report
from ...checks.verdicts import Verdict, overall
from ...errors import BundleError, UsageError
from ...machine.tables import read_json
from ...machine.writing import check_output, write_text
from ..table import Cell, failed, judged
from .document import Section, to_html, unmeasured, verdicts
from .measured import curves_section, devices_section, latency_section, probe_section, robustness_section
from .slides import slides_section
from .tilestrip import pictures

_LARGEST = 256 << 20  # all 4,095 pairs of PLISM's slides, twice, are some 2 MB

_NOT_WHOLE = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, UndefinedError)
_OF_BUNDLE = {"name": str, "bundle": str, "notes": list, "ran_with": dict}
_NEEDED: dict[str, dict[str, type]] = {
    "robustness": {**_OF_BUNDLE, "slides": dict, "figures": dict, "pairs": dict, "gates": list},
    "curves": {**_OF_BUNDLE, "source": dict, "curves": list},
    "probe": {**_OF_BUNDLE, "source": dict, "scores": dict, "flips": list, "gates": list},
    "probe hest": {**_OF_BUNDLE, "source": dict, "pearson": dict, "tasks": list, "gates": list},
    "slides": {"name": str, "bundle": str, "out": str, "notes": list, "ran_with": str, "slides": list},
    "bench": {"bundles": list, "results": list},
}


class Page(TypedDict):
    """What `write_page` says: titles of sections, kinds of which nothing was given, and the verdict over all gates."""

    schema: int
    name: str
    bundle: str
    file: str
    sections: list[str]
    not_measured: list[str]
    gates: int
    inconclusive: int
    verdict: str
    passed: bool


def write_page(
    bundle: str | Path | Bundle,
    *,
    robustness: Sequence[str | Path] = (),
    curves: Sequence[str | Path] = (),
    probe: Sequence[str | Path] = (),
    slides: Sequence[str | Path] = (),
    latency: Sequence[str | Path] = (),
    out: str | Path | None = None,
    force: bool = False,
) -> Page:
    """Write `<bundle>.report.html` beside a bundle (or `out`): its report and the given results; return what it says.

    `robustness`, `curves`, `probe`, `slides` and `latency` are files of what those commands (and `bench`) print with
    `--json`; pictures of slides are looked for where `slides` wrote them.
    Reports of devices that were kept beside the bundle are in the page too. `result["passed"]` is the verdict over all
    gates. `probe` takes results of `probe labels` and `probe hest`. Raises UsageError for a file that is no such result
    or is of another bundle, or an output in the way.
    """
    bundle = open_bundle(bundle)
    folder = bundle.path.resolve()
    path = folder.with_name(f"{folder.name}.report.html") if out is None else Path(out)
    _check_out(path, folder, force)
    sections = [
        *(_section(bundle, "robustness", file, robustness_section) for file in robustness),
        *(_section(bundle, "curves", file, curves_section) for file in curves),
        *(_section(bundle, "probe", file, probe_section) for file in probe),
        *(_section(bundle, "slides", file, slides_section) for file in slides),
        *(_section(bundle, "bench", file, latency_section) for file in latency),
    ]
    if reports := device_reports(bundle):
        sections.append(devices_section(reports))
    page, cells = _page(bundle, sections)
    write_text(path, page, "page")
    return {
        "schema": 1,
        "name": bundle.name,
        "bundle": bundle.digest,
        "file": str(path),
        "sections": [section.title for section in sections],
        "not_measured": unmeasured(sections),
        "gates": len(cells),
        "inconclusive": cells.count(Verdict.INCONCLUSIVE),
        "verdict": overall(map(judged, cells)).value,
        "passed": not any(map(failed, cells)),
    }


def _check_out(path: Path, bundle: Path, force: bool) -> None:
    final = path.resolve()
    if path.suffix != ".html" or not final.parent.is_dir() or final.is_dir():
        raise UsageError(f"--out {path}: give a file that ends in .html, in a folder that exists")
    if final.is_relative_to(bundle):
        raise UsageError(f"page {path} lies in the bundle, which never changes; write it elsewhere")
    check_output(path, force=force)


def _section(bundle: Bundle, command: str, path: str | Path, make: Callable[[Any], Section]) -> Section:
    result = _read(Path(path), command)
    of = [result] if command != "bench" else [facts for facts in result["bundles"] if isinstance(facts, dict)]
    if bundle.digest not in [facts.get("bundle") for facts in of]:
        measured = ", ".join(f"{facts.get('name')} (bundle.json {str(facts.get('bundle'))[:12]})" for facts in of)
        raise UsageError(
            f"results {path}: measured on {measured or 'no bundle'}, {bundle.path} is {bundle.digest[:12]}; run "
            f"edgepath {command} on this bundle"
        )
    ran = "probe hest" if command == "probe" and "tasks" in result else command
    try:
        return make(result)
    except _NOT_WHOLE as error:
        raise UsageError(
            f"results {path}: not whole ({error!r}); run edgepath {ran} --json with this edgepath"
        ) from None


def _read(path: Path, command: str) -> Any:
    give = f"give what edgepath {command} --json prints"
    try:
        result = read_json(path, _LARGEST)
    except ValueError as error:
        raise UsageError(f"results {path}: cannot be read ({error}); {give}") from None
    form = "probe hest" if command == "probe" and isinstance(result, dict) and "tasks" in result else command
    for key, kind in _NEEDED[form].items():
        if not isinstance(result, dict) or type(result.get(key)) is not kind:
            raise UsageError(
                f"results {path}: not of edgepath {form} (it lacks {key}, or holds another kind of it); {give}"
            )
    return result


def _page(bundle: Bundle, sections: Sequence[Section]) -> tuple[str, list[Cell]]:
    """Return the page, and the verdict of every gate on it."""
    golden, _ = bundle.golden()
    try:
        report = cast(Report, bundle.manifest)
        return to_html(report, pictures(report, golden), sections, bundle.digest), verdicts(report, sections)
    except _NOT_WHOLE as error:  # a manifest is checked only for what running the artifact needs
        raise BundleError(f"bundle {bundle.path}: its report is not whole ({error!r}); export it again") from None

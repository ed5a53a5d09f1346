"""`report page`: one page of all that was measured of a bundle, and of no other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_rendering import Tags
from typer.testing import CliRunner

from edgepath.bundle.bundle import Bundle, open_bundle
from edgepath.bundle.device_reports import add_report
from edgepath.cli import app
from edgepath.errors import BundleError, UsageError
from edgepath.reports.page.merging import write_page

OPTIONS = {
    "robustness": "--robustness",
    "curves": "--curves",
    "probe": "--probe",
    "hest": "--probe",
    "slides": "--slides",
    "bench": "--latency",
}
GIVEN = {"hest": "probe", "bench": "latency"}  # what `write_page` calls the others it is called itself


def change(path: Path, how: Callable[[Any], object]) -> None:
    found = json.loads(path.read_text())
    changed = how(found)
    path.write_text(json.dumps(found if changed is None else changed))


def run(*words: str | Path) -> Any:
    return CliRunner().invoke(app, ["report", "page", *map(str, words)])


def test_page_is_made_beside_the_bundle_of_everything_given(bundle: Bundle, results: dict[str, Path]) -> None:
    before = all(json.loads(results[name].read_text())["passed"] for name in ("robustness", "probe", "hest"))
    words = [word for name, option in OPTIONS.items() for word in (option, results[name])]
    done = run(bundle.path, *words, "--probe", results["probe"], "--json")
    told = json.loads(done.stdout)
    assert told["passed"] is (before and bundle.manifest["passed"])
    assert done.exit_code == (0 if told["passed"] else 1)
    assert told["not_measured"] == ["devices"]
    page = bundle.path.with_name("tiny.report.html")
    assert told["file"] == str(page.resolve())
    text = Tags(page.read_text(encoding="utf-8")).text
    for words_on_it in (
        "Robustness: paired",
        "Perturbation curves",
        "Tasks: labelled",
        "Gene expression: hest",
        "p50 ms",
        bundle.digest,
    ):
        assert words_on_it in text
    assert open_bundle(bundle.path).digest == bundle.digest  # which is still whole
    with pytest.raises(UsageError, match="exists; give --force"):
        write_page(bundle)
    write_page(bundle, force=True)
    assert "Robustness: paired" not in page.read_text()


def test_a_failed_gate_anywhere_fails_the_page(bundle: Bundle, results: dict[str, Path], tmp_path: Path) -> None:
    def fail(found: Any) -> None:
        found["gates"][-1] |= {"passed": False, "measured": 0.5}

    change(results["probe"], fail)
    done = run(bundle.path, "--probe", results["probe"], "--out", tmp_path / "page.html")
    assert done.exit_code == 1
    assert "page.html: FAILED" in done.stdout
    assert "not measured: robustness, curves, genes, slides, latency, devices" in done.stdout
    assert ": FAILED</title>" in (tmp_path / "page.html").read_text()


def test_what_devices_measured_is_in_the_page(bundle: Bundle, tmp_path: Path) -> None:
    report = tmp_path / "device-report.json"
    check = [sys.executable, str(bundle.path / "kit/check.py"), "--runs", "2", "--out", str(report)]
    subprocess.run(check, check=True, capture_output=True)
    add_report(bundle, report)
    done = write_page(bundle)
    assert done["passed"]
    assert "devices" not in done["not_measured"]
    text = Tags(Path(done["file"]).read_text()).text
    assert json.loads(report.read_text())["measured_at"] in text
    assert "devices 1" in text


@pytest.mark.parametrize("command", OPTIONS)
def test_results_of_another_bundle_are_refused(command: str, bundle: Bundle, results: dict[str, Path]) -> None:
    results[command].write_text(results[command].read_text().replace(bundle.digest, "0" * 64))
    given = {GIVEN.get(command, command): [results[command]]}
    again = {"hest": "probe"}.get(command, command)
    with pytest.raises(UsageError, match=rf"measured on tiny-onnx-int8 \(bundle\.json 0{{12}}\).*run edgepath {again}"):
        write_page(bundle, **given)  # type: ignore[arg-type]
    assert not bundle.path.with_name("tiny.report.html").exists()


@pytest.mark.parametrize("command", OPTIONS)
@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda found: [], "not of edgepath"),
        (lambda found: {"schema": 1}, "not of edgepath"),
        (
            lambda found: found["results"].append({}) if "results" in found else found.update(spoiled(found)),
            "not whole",
        ),
    ],
)
def test_what_is_no_such_result_is_refused(
    command: str, how: Callable[[Any], object], said: str, bundle: Bundle, results: dict[str, Path]
) -> None:
    change(results[command], how)
    with pytest.raises(UsageError, match=said):
        write_page(bundle, **{GIVEN.get(command, command): [results[command]]})  # type: ignore[arg-type]


def spoiled(found: dict[str, Any]) -> dict[str, Any]:
    """A result with all its keys and nothing in those that hold the figures."""
    emptied = {key: type(found[key])() for key in ("figures", "curves", "scores", "tasks") if key in found}
    return emptied or {"slides": [{}]}


def test_results_that_cannot_be_read_are_refused(bundle: Bundle, results: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        write_page(bundle, curves=[tmp_path / "nowhere.json"])
    results["curves"].write_text('{"a": NaN}')
    with pytest.raises(UsageError, match="NaN is not JSON"):
        write_page(bundle, curves=[results["curves"]])
    results["curves"].write_bytes(b"\xff")
    with pytest.raises(UsageError, match="cannot be read"):
        write_page(bundle, curves=[results["curves"]])
    with pytest.raises(UsageError, match="not of edgepath curves"):
        write_page(bundle, curves=[results["probe"]])


def test_a_failed_task_of_hest_fails_the_page(bundle: Bundle, results: dict[str, Path], tmp_path: Path) -> None:
    change(results["hest"], lambda found: found["gates"][-1].update(passed=False, measured=0.05))
    done = run(bundle.path, "--probe", results["hest"], "--out", tmp_path / "page.html")
    assert done.exit_code == 1
    assert "not measured: robustness, curves, tasks, slides, latency, devices" in done.stdout
    assert "gene expression 2" in Tags((tmp_path / "page.html").read_text()).text


def test_results_of_hest_without_gates_are_refused(bundle: Bundle, results: dict[str, Path]) -> None:
    change(results["hest"], lambda found: found.pop("gates") and None)
    with pytest.raises(UsageError, match="not of edgepath probe hest"):
        write_page(bundle, probe=[results["hest"]])


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("tiny/page.html", "lies in the bundle"),
        ("page.txt", "ends in .html"),
        ("nowhere/page.html", "a folder that exists"),
    ],
)
def test_an_output_in_the_way_is_refused(out: str, said: str, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        write_page(bundle, out=tmp_path / out)


def test_a_bundle_without_worst_tiles_has_a_page(altered: Callable[..., Bundle]) -> None:
    def older(folder: Path) -> None:
        change(folder / "bundle.json", lambda found: found.pop("worst") and None)

    made = altered("onnx-int8", older)
    page = Path(write_page(made)["file"]).read_text()
    assert "Tiles that drifted most" not in page


def test_a_report_that_is_not_whole_is_refused(altered: Callable[..., Bundle]) -> None:
    made = altered(
        "onnx-int8", lambda folder: change(folder / "bundle.json", lambda found: found.pop("machine") and None)
    )
    with pytest.raises(BundleError, match="its report is not whole"):
        write_page(made)

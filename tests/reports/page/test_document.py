"""The page says the verdict first, then what it stands on, what is missing, and where everything came from."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from markupsafe import Markup
from test_rendering import EVIL, Tags

from edgepath.bundle.bundle import Bundle
from edgepath.checks.verdicts import Verdict
from edgepath.exporting import Exported
from edgepath.reports.page.document import KINDS, Section, to_html, unmeasured, verdicts
from edgepath.reports.page.tilestrip import Picture, pictures
from edgepath.reports.table import Cell, failed, table

Exports = Callable[[str], Exported]
HEADER = ("gate", "of", "lost", "allowed", "95 % bounds", "n", "needed", "")
HELD = table(HEADER, [("cosine", "all", "+0.001", "<= 0.01", "", "", "", True)])
MISSED = table(HEADER, [("auroc", "linear", "+0.2", "<= 0.01", "", "", "", False)])
GOOD = Section("robustness", "Robustness", Markup("<p>good</p>"), HELD, ("a note",))
BAD = Section("tasks", "Tasks", Markup("<p>bad</p>"), MISSED)


@pytest.fixture(scope="module")
def done(exports: Exports) -> Exported:
    return exports("onnx-int8")


def test_page_lies_in_the_bundle_and_is_hashed(done: Exported) -> None:
    page = (done.bundle.path / "report.html").read_text(encoding="utf-8")
    assert "report.html" in done.bundle.manifest["files"]
    golden, _ = done.bundle.golden()
    assert page == to_html(done.report, pictures(done.report, golden))
    assert page.startswith("<!DOCTYPE html>")
    assert page.count('src="data:image/jpeg;base64,') == 8
    worst = done.report["worst"]["tiles"]
    assert page.index(f"<b>{worst[0]['cosine']:.6f}</b>") <= page.index(f"<b>{worst[-1]['cosine']:.6f}</b>")
    assert worst[0]["cosine"] == done.report["drift"]["total"]["cosine_min"]


def test_verdict_comes_first_and_says_what_it_stands_on(done: Exported) -> None:
    text = Tags(to_html(done.report, [], [GOOD])).text
    order = (
        "Inconclusive: 1 of 4 gates have too small a sample to tell; none failed",
        "Gates applied: drift 3, robustness 1.",
        "Not measured: perturbation curves, tasks",
    )
    places = [text.index(part) for part in (*order, "a note", "quantization", "good", "Where this came from")]
    assert places == sorted(places)
    for caution in done.report["cautions"]:
        assert text.index("Gates applied") < text.index(caution) < text.index("quantization")


def test_one_failed_gate_fails_the_page_and_stands_on_top(done: Exported) -> None:
    page = to_html(done.report, [], [GOOD, BAD])
    text = Tags(page).text
    assert "FAILED: 1 of 5 gates" in text
    assert "Passed" not in text
    assert text.index("auroc") < text.index("quantization")
    assert f"<title>{done.report['name']}: FAILED</title>" in page
    assert any(map(failed, verdicts(done.report, [GOOD, BAD])))
    assert not any(map(failed, verdicts(done.report, [GOOD])))
    assert any(map(failed, verdicts(done.report | {"passed": False}, [GOOD])))


@pytest.mark.parametrize("verdict", [True, False, *Verdict])
def test_a_verdict_is_the_gates_value_whatever_its_words(verdict: Cell, done: Exported) -> None:
    gates = table(HEADER, [("FAILED", "ok", "FAILED", "ok", *[""] * 3, verdict)])
    section = Section("tasks", "Tasks", Markup(""), gates)
    missed = verdict in (False, Verdict.INFERIOR)
    assert any(map(failed, verdicts(done.report, [section]))) is missed
    assert ("FAILED: 1 of 4 gates" in Tags(to_html(done.report, [], [section])).text) is missed


def test_a_page_says_passed_where_every_sample_is_large_enough(done: Exported) -> None:
    enough = [gate | {"verdict": "non-inferior"} for gate in done.report["gates"]]
    page = to_html(done.report | {"gates": enough}, [], [GOOD])
    assert "Passed: 4 of 4 gates" in Tags(page).text
    assert f"<title>{done.report['name']}: passed</title>" in page
    assert f"<title>{done.report['name']}: inconclusive</title>" in to_html(done.report, [], [GOOD])


def test_gates_of_older_bundles_are_shown_as_they_were_judged(done: Exported) -> None:
    bare = ("kind", "gate", "of", "measured", "required", "at_most", "passed")
    older = [{key: gate[key] for key in bare} for gate in done.report["gates"]]
    text = Tags(to_html(done.report | {"gates": older}, [])).text
    assert "Passed: 3 of 3 gates" in text
    assert text.count("✓ ok") == 3


def test_what_was_not_measured_says_how_it_is(done: Exported) -> None:
    page = to_html(done.report, [], [GOOD])
    assert unmeasured([GOOD]) == [kind for kind in KINDS if kind != "robustness"]
    for kind, (_, command) in KINDS.items():
        assert (Tags(f"<p>{command}").text in Tags(page).text) == (kind != "robustness")
    assert page.count("not measured; run:") == len(KINDS) - 1


def test_several_of_a_kind_are_shown_each(done: Exported) -> None:
    page = to_html(done.report, [], [GOOD, Section("robustness", "Robustness: scanners", Markup("<p>more</p>"))])
    found = re.findall(r'<section id="(robustness[^"]*)">\n<h2>([^<]*)</h2>', page)
    assert found == [("robustness", "Robustness"), ("robustness-2", "Robustness: scanners")]


def test_worst_tiles_are_shown_in_order_with_their_names_as_text(done: Exported) -> None:
    shown = [Picture("<b>.png", 0.5, "data:,"), Picture("c.png", 0.75, "data:,")]
    page = to_html(done.report, shown)
    assert page.index("<b>0.500000</b>") < page.index("<b>0.750000</b>")
    assert "<b>.png" not in page
    assert "&lt;b&gt;.png" in page
    assert f"2 of {len(done.report['held_out']['keys'])} golden tiles with the smallest cosine (total drift)" in page
    assert 'id="worst"' not in to_html(done.report, [])
    few = copy.deepcopy(done.report)  # what is slow to run is run on some of the golden tiles
    assert few["drift"]["total"] is not None
    few["drift"]["total"]["tiles"] = 5
    assert "2 of 5 golden tiles with the smallest cosine" in to_html(few, shown)


def test_page_asks_for_nothing(done: Exported) -> None:
    page = to_html(done.report, [Picture("a.png", 0.5, "data:image/jpeg;base64,AAAA")], [GOOD])
    read = Tags(page)
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(read.tags)
    assert [value for name, value in read.attributes if name in ("src", "href", "srcset")] == [
        "data:image/jpeg;base64,AAAA"
    ]
    assert not re.search(r"@import|url\(", page)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:") in read.attributes


def test_names_of_tiles_and_messages_stay_text(done: Exported) -> None:
    report = json.loads(json.dumps(done.report))
    report |= {"name": EVIL, "cautions": [EVIL], "notes": [EVIL], "skipped": [[EVIL, EVIL]]}
    report["versions"][EVIL] = EVIL
    report["machine"]["cpu"] = EVIL
    report["recipe"]["summary"] = EVIL
    report["gates"][0]["gate"] = report["gates"][0]["of"] = EVIL
    read = Tags(to_html(report, [Picture(EVIL, 0.5, "data:,")], [], digest=EVIL))
    assert "script" not in read.tags
    assert "onload" not in dict(read.attributes)
    assert read.text.count(EVIL) >= 12


def test_hashes_are_whole(bundle: Bundle) -> None:
    text = Tags(to_html(bundle.manifest, [], [], bundle.digest)).text
    assert bundle.digest in text
    assert bundle.manifest["weights"]["sha256"] in text
    for name, entry in bundle.manifest["files"].items():
        assert (entry["sha256"] in text) == (not name.startswith("kit/"))


def test_style_is_for_phones_paper_and_the_dark() -> None:
    css = (Path(__file__).parents[3] / "edgepath/reports/page/templates/page.css").read_text(encoding="utf-8")
    for medium in ("@media print", "max-width: 480px", "screen and (prefers-color-scheme: dark)"):
        assert medium in css

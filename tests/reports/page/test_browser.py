"""The page as a reader sees it: Chromium opens it at a phone's and a desktop's width, light and dark, and prints it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, find_chromium

from edgepath.bundle.bundle import Bundle
from edgepath.reports.page.merging import write_page
from edgepath.tiles.synthetic import SCANNERS, STAININGS

PHONE, DESKTOP = 390, 1280
HEST = ("CCRCC", "COAD", "IDC", "LUNG", "LYMPH_IDC", "PAAD", "PRAD", "READ", "a task of one's own")
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    binary = find_chromium()
    if binary is None:
        pytest.skip("needs Chromium or Chrome on the path, or named by $CHROMIUM (Debian: apt-get install chromium)")
    opened = Browser(binary, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def in_all_looks(result: dict[str, Any]) -> dict[str, Any]:
    """A result as large as PLISM's: what four looks measured, repeated for 91, for its width and height only."""
    looks = {f"{staining}_{scanner}": [staining, scanner] for staining in STAININGS for scanner in SCANNERS}
    result["slides"] |= {"slides": len(looks), "looks": looks}
    for model, rows in result["pairs"].items():
        pairs = enumerate(combinations(looks, 2))
        result["pairs"][model] = [rows[number % len(rows)] | {"of": list(of)} for number, of in pairs]
    return result


def in_all_tasks(result: dict[str, Any]) -> dict[str, Any]:
    """A result with as many tasks and genes as the HEST-Benchmark's, for its width and height only."""
    task = result["tasks"][0]
    genes = [gene | {"gene": f"{gene['gene']}{i}"} for i in range(17) for gene in task["genes"]][:50]
    result["tasks"] = [task | {"task": name, "genes": genes} for name in HEST]
    return result


@pytest.fixture
def page(bundle: Bundle, results: dict[str, Path], tmp_path: Path) -> Path:
    """The fullest page: 13 stainings on 7 scanners, curves, tasks, latency."""
    out = tmp_path / "page.html"
    results["robustness"].write_text(json.dumps(in_all_looks(json.loads(results["robustness"].read_text()))))
    results["hest"].write_text(json.dumps(in_all_tasks(json.loads(results["hest"].read_text()))))
    of = {name: [results[name]] for name in ("robustness", "curves")}
    write_page(bundle, **of, probe=[results["probe"], results["hest"]], latency=[results["bench"]], out=out)
    return out


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_page_asks_for_nothing_says_nothing_and_fits(browser: Browser, page: Path, width: int, scheme: str) -> None:
    browser.open(page, width, scheme)
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.evaluate(TOO_WIDE) <= 0
    assert browser.evaluate("document.querySelectorAll('script').length") == 0
    assert browser.evaluate("document.querySelectorAll('table.heat').length") == 6
    assert browser.evaluate("[...document.images].every(one => one.complete && one.naturalWidth === 224)")
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_page_in_the_bundle_fits_too(browser: Browser, bundle: Bundle, width: int) -> None:
    browser.open(bundle.path / "report.html", width)
    assert browser.complaints() == []
    assert browser.requests() == [(bundle.path / "report.html").as_uri()]
    assert browser.evaluate(TOO_WIDE) <= 0


def test_heat_maps_need_no_scrolling_on_a_phone(browser: Browser, page: Path) -> None:
    browser.open(page, PHONE)
    assert browser.evaluate("[...document.querySelectorAll('.maps .wide')].every(m => m.scrollWidth <= m.clientWidth)")


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_genes_unfold_without_making_the_page_wider(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    assert browser.evaluate("document.querySelector('#genes h2').textContent").startswith("Gene expression: hest")
    shown = "document.querySelector('#genes details table').checkVisibility()"
    assert browser.evaluate(shown) is False
    browser.evaluate("document.querySelector('#genes summary').click(), 1")
    assert browser.evaluate(shown) is True
    assert browser.evaluate(TOO_WIDE) <= 0
    assert browser.complaints() == []
    names = "[...document.querySelectorAll('#genes svg text')].every(t => t.getBoundingClientRect().left >= 0)"
    assert browser.evaluate(names)


def test_page_prints_on_few_sheets(browser: Browser, page: Path) -> None:
    browser.open(page, DESKTOP, "dark")
    printed = base64.b64decode(browser.call("Page.printToPDF", printBackground=False)["data"])
    assert printed.startswith(b"%PDF")
    assert 3 <= printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page/") <= 12


def test_what_the_tests_look_for_would_be_seen(browser: Browser, page: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    whole = page.read_text()
    broken.write_text(
        whole.replace("<main>", '<main><img src="http://127.0.0.1:9/x.png"><div style="width:5000px">wide</div>')
    )
    browser.open(broken, PHONE)
    assert any("Content Security Policy" in text for text in browser.complaints())
    assert browser.evaluate(TOO_WIDE) > 4000
    start = whole.index('<meta http-equiv="Content-Security-Policy"')
    free = whole[:start] + whole[whole.index("\n", start) :]
    broken.write_text(free.replace("<main>", '<main><img src="http://127.0.0.1:9/x.png"><script>undefined_()</script>'))
    browser.open(broken, PHONE)
    assert "http://127.0.0.1:9/x.png" in browser.requests()
    assert any("Uncaught" in text for text in browser.complaints())

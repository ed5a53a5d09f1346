"""What slides say on the page: a row each, and their pictures, the farthest from full precision first."""

from __future__ import annotations

import base64
import copy
import re
from pathlib import Path
from typing import Any

import pytest

from edgepath.bundle.bundle import Bundle
from edgepath.errors import UsageError
from edgepath.reports.page.merging import write_page
from edgepath.reports.page.slides import MOST, slides_section
from edgepath.slides.results import SlidesResult


def shown(result: SlidesResult) -> list[str]:
    return re.findall(r'<img class="wide" src="[^"]+" alt="([^"]+)">', str(slides_section(result).body))


def test_pictures_are_the_files_farthest_first(measured: dict[str, Any]) -> None:
    result: SlidesResult = copy.deepcopy(measured["slides"])
    near, far = sorted(result["slides"], key=lambda row: row["id"], reverse=True)
    near["cosine_min"], far["cosine_min"] = 0.99, 0.9
    assert shown(result) == ["far", "near"]
    body = str(slides_section(result).body)
    found = [base64.b64decode(data) for data in re.findall(r"data:image/png;base64,([^\"]+)", body)]
    folder = Path(result["out"]) / "pictures"
    assert found == [(folder / f"{name}.png").read_bytes() for name in ("far", "near")]
    assert f"{near['tiles'] + far['tiles']} tiles of 2 slides" in body


def test_of_many_pictures_some_are_shown_and_the_rest_counted(measured: dict[str, Any]) -> None:
    result: SlidesResult = copy.deepcopy(measured["slides"])
    first = result["slides"][0]
    result["slides"] = [first | {"id": str(number)} for number in range(MOST + 3)]
    assert len(shown(result)) == MOST
    assert "3 more pictures are in the folder of features" in str(slides_section(result).body)


def test_slides_without_pictures_are_a_table(measured: dict[str, Any]) -> None:
    result: SlidesResult = copy.deepcopy(measured["slides"])
    for row in result["slides"]:
        row["picture"] = None
    assert shown(result) == []
    assert "<table" in str(slides_section(result).body)


@pytest.mark.parametrize("what", ["gone", "no picture"])
def test_picture_that_is_not_there_is_one_line(
    measured: dict[str, Any], bundle: Bundle, results: dict[str, Path], tmp_path: Path, what: str
) -> None:
    name = measured["slides"]["out"]
    text = results["slides"].read_text().replace(name, str(tmp_path / "moved"))
    results["slides"].write_text(text)
    if what == "no picture":
        (tmp_path / "moved" / "pictures").mkdir(parents=True)
        for slide in ("near", "far"):
            (tmp_path / "moved" / "pictures" / f"{slide}.png").write_bytes(b"GIF89a")
    with pytest.raises(UsageError, match=r"picture .*(cannot be read|is no PNG).*again") as caught:
        write_page(bundle, slides=[results["slides"]])
    assert "\n" not in str(caught.value)
    assert not bundle.path.with_name("tiny.report.html").exists()

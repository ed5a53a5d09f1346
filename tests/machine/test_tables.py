"""JSON of others is read within limits, and what a TypedDict asks for is found in it, or said in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec
import pytest

from edgepath.errors import UsageError
from edgepath.machine.tables import check_facts, read_json


class Inner(TypedDict):
    size: Annotated[int, msgspec.Meta(ge=1, description="a number above 0 is needed")]


class Needed(TypedDict):
    name: str
    inner: Inner
    many: list[Inner]


class Facts(Needed, total=False):
    also: float


WHOLE: dict[str, Any] = {"name": "a", "inner": {"size": 1, "other": 2}, "many": [{"size": 2}], "more": None}


def test_facts_are_returned_as_they_are() -> None:
    assert check_facts(Facts, WHOLE, UsageError) is WHOLE
    assert check_facts(Facts, WHOLE | {"also": 1}, UsageError)["also"] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 1}, "name = 1; expected str"),
        ({"inner": None}, "inner is None; expected a table"),
        ({"inner": {}}, "inner.size = None; expected int"),
        ({"inner": {"size": 0}}, "inner.size = 0; a number above 0 is needed"),
        ({"many": [{"size": 1}, {"size": "2"}]}, "many.size = '2'; expected int"),
        ({"many": {}}, "many = {}; expected a list"),
        ({"also": "x"}, "also = 'x'; expected float"),
    ],
)
def test_the_first_fact_that_is_off_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_facts(Facts, WHOLE | change, UsageError)
    assert str(caught.value) == said


def test_json_is_read_within_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text('{"a": [1, 2]}')
    assert read_json(path, 13) == {"a": [1, 2]}
    with pytest.raises(ValueError, match="more than 12 bytes"):
        read_json(path, 12)
    with pytest.raises(ValueError, match="No such file"):
        read_json(tmp_path / "nowhere.json", 12)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": 1, "a": 2}', "a key stands twice among a"),
        (b"\xff", "invalid start byte"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_what_is_no_json_is_refused(raw: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=said):
        read_json(path, 1 << 20)

"""TOML and JSON as frozen dataclasses or TypedDicts, or one line that says which key is unknown, missing or off.

msgspec checks each value against its field's type, with ranges and patterns as `msgspec.Meta`, whose `description` says
what is needed; this module finds the value that is off and puts it in words.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import reprlib
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin

import msgspec
import tomli_w

from ..errors import EdgepathError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_T = TypeVar("_T")
_LONG_KEY = re.compile(r"(?:\.[^.\n=,\[\]{}]{1,60}){200}")  # the parser takes time with the square of a key's parts
Line = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z", description="expected one line of text")]
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 100
_REPR.maxlist = _REPR.maxdict = 8


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML. Raises ValueError."""
    if _LONG_KEY.search(text):
        raise ValueError("a key of more than 200 parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def parse_json(raw: bytes) -> Any:
    """Parse JSON, refusing what is none: NaN, a key twice, bytes that are not UTF-8. Raises ValueError."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(keys := {key for key, _ in pairs}) < len(pairs):
            raise ValueError(f"a key stands twice among {shown(', '.join(sorted(keys)))[1:-1]}")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise ValueError(f"{plain(number)} is beyond the range of numbers")
        return value

    try:
        values = json.loads(raw.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse, parse_float=finite)
        if b"\\ud" in raw.lower():  # half a pair of UTF-16 is no text
            json.dumps(values, ensure_ascii=False).encode()
        return values
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def read_json(path: Path, largest: int) -> Any:
    """Read a JSON file of `largest` bytes at most, as `parse_json` does. Raises ValueError, saying why it cannot."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("no regular file")  # a pipe would be waited for
        with open(path, "rb") as file:
            raw = file.read(largest + 1)
    except OSError as error:
        raise ValueError(error.strerror) from None
    if len(raw) > largest:
        raise ValueError(f"more than {largest} bytes")
    return parse_json(raw)


def to_toml(values: Mapping[str, object]) -> str:
    """Return the TOML that reads back as `values`."""
    return tomli_w.dumps(values)


def shown(value: Any) -> str:
    """Return an untrusted value as a message shows it: short, in one line, without control characters."""
    try:
        return _REPR.repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a number of {value.bit_length()} bits"


def plain(text: str) -> str:
    """Return an untrusted name without quotes, if it is short and printable."""
    return text if len(text) < 80 and text.isprintable() else shown(text)


def quoted(text: str) -> str:
    """Return an untrusted text in double quotes."""
    return f'"{shown(text)[1:-1]}"'


def read_table(kind: type[_T], values: Any, refuse: Callable[[str], EdgepathError]) -> _T:
    """Return a table as a dataclass; raise what `refuse` makes of the first problem, `KEY = VALUE; expected WHAT`."""
    for problem in _problems(kind, values, "", further_keys=False):
        raise refuse(problem)
    return msgspec.convert(values, kind)


def read_facts(
    kind: type[_T], values: Mapping[str, object], refuse: Callable[[str], EdgepathError], places: Mapping[str, str]
) -> _T:
    """Return what is needed of a table that may hold more; `places` says which fields stand deeper, as `model.name`."""
    facts = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        place = places.get(name, name)
        value: object = values
        for key in place.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        for problem in _problems(hint, value, place, further_keys=True):
            raise refuse(problem)
        facts[name] = msgspec.convert(value, hint)
    return kind(**facts)


def check_facts(kind: type[_T], values: Mapping[str, object], refuse: Callable[[str], EdgepathError]) -> _T:
    """Return a table that may hold more than the TypedDict `kind`, as it is; raise what `refuse` makes of a problem."""
    for problem in _problems(kind, values, "", further_keys=True):
        raise refuse(problem)
    return cast(_T, values)


def _problems(hint: Any, value: Any, where: str, further_keys: bool) -> Iterator[str]:
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if dataclasses.is_dataclass(kind) or typing.is_typeddict(kind) or get_origin(kind) in (dict, Mapping):
        if isinstance(value, dict):
            yield from _in_table(kind, value, f"{where}." if where else "", further_keys)
        else:
            yield f"{where or 'the file'} is {shown(value)}; expected a table"
    elif get_origin(kind) in (tuple, list) and isinstance(value, (list, tuple)):
        for item in value:
            yield from _problems(get_args(kind)[0], item, where, further_keys)
    if not _fits(hint, value):
        yield f"{where} = {_off(kind, hint, value)}"


def _in_table(kind: Any, values: Mapping[str, object], prefix: str, further_keys: bool) -> Iterator[str]:
    if get_origin(kind) in (dict, Mapping):  # a table of whatever names, all values of one type
        for key, value in values.items():
            yield from _problems(get_args(kind)[1], value, f"{prefix}{plain(key)}", further_keys)
        return
    hints = typing.get_type_hints(kind, include_extras=True)
    for key in () if further_keys else values:
        if key not in hints:
            yield f"{prefix}{plain(key)} is not a key; {did_you_mean(key, hints)}"
    if typing.is_typeddict(kind):
        needed = kind.__required_keys__
    else:
        needed = {field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
    for name, hint in hints.items():
        if name in needed and not further_keys and name not in values:
            yield f"{prefix}{name} is missing"
        if name in needed or name in values:
            yield from _problems(hint, values.get(name), prefix + name, further_keys)


def _fits(hint: Any, value: Any) -> bool:
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError:
        return False
    return True


def _off(kind: Any, hint: Any, value: Any) -> str:
    """Return a value and what it should be instead."""
    if get_origin(kind) is Literal:
        return f"{quoted(str(value))}; {did_you_mean(str(value), get_args(kind))}"
    if hint is not kind and _fits(kind, value):  # of the right type, out of range
        given = quoted(value) if kind is str else shown(msgspec.convert(value, kind))
        return f"{given}; {get_args(hint)[1].description}"
    return f"{shown(value)}; expected {'a list' if get_origin(kind) in (tuple, list) else kind.__name__}"

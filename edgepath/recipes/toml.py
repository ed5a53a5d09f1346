"""TOML read strictly: a table becomes a frozen dataclass, or one line says which key is unknown, missing or off."""

from __future__ import annotations

import dataclasses
import sys
import typing
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from ..errors import RecipeError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_T = TypeVar("_T")


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML. Raises ValueError."""
    return tomllib.loads(text)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a recipe file. Raises RecipeError with the file's name and what is wrong with it."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"recipe {path}: no such file") from None
    except OSError as error:
        raise RecipeError(f"recipe {path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"recipe {path.name}: not valid TOML ({error})") from None


def build_table(kind: type[_T], values: Any, recipe: str, where: str = "") -> _T:
    """Turn a table into a dataclass, refusing unknown keys, missing keys and values of another type."""
    if not isinstance(values, dict):
        raise RecipeError(f"{recipe}: {where or 'the file'} is {values!r}; expected a table")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    prefix = f"{where}." if where else ""
    for key in values:
        if key not in fields:
            raise RecipeError(f"{recipe}: {prefix}{key} is not a key; {did_you_mean(key, fields)}")
    hints = typing.get_type_hints(kind)
    for key, field in fields.items():
        if key not in values and field.default is dataclasses.MISSING:
            raise RecipeError(f"{recipe}: {prefix}{key} is missing")
    return kind(**{key: _value(hints[key], value, recipe, f"{prefix}{key}") for key, value in values.items()})


def _value(kind: Any, value: Any, recipe: str, where: str) -> Any:
    """Check one value against its field's type; tables and lists of tables become dataclasses."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return build_table(kind, value, recipe, where)
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise RecipeError(f"{recipe}: {where} = {value!r}; expected a list")
        return tuple(_value(get_args(kind)[0], item, recipe, where) for item in value)
    if get_origin(kind) is typing.Literal:
        allowed = get_args(kind)
        if value not in allowed:
            raise RecipeError(f'{recipe}: {where} = "{value}"; {did_you_mean(str(value), allowed)}')
        return value
    accepted = (float, int) if kind is float else (kind,)
    if type(value) not in accepted:  # not isinstance: a bool is no number
        raise RecipeError(f"{recipe}: {where} = {value!r}; expected {kind.__name__}")
    return float(value) if kind is float else value

"""Recipe files: TOML read strictly into frozen dataclasses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from ..errors import RecipeError
from ..machine.tables import parse_toml, read_table

_T = TypeVar("_T")
_LARGEST = 1 << 16


def read_toml(path: Path) -> dict[str, Any]:
    """Read a recipe file. Raises RecipeError with the file's name and what is wrong with it."""
    try:
        with open(path, "rb") as file:
            raw = file.read(_LARGEST + 1)
        if len(raw) > _LARGEST:
            raise RecipeError(f"recipe {path.name}: has more than {_LARGEST} bytes; that is no recipe")
        return parse_toml(raw.decode("utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"recipe {path}: no such file") from None
    except OSError as error:
        raise RecipeError(f"recipe {path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise RecipeError(f"recipe {path.name}: not valid TOML ({error})") from None


def build_table(kind: type[_T], values: Any, recipe: str) -> _T:
    """Turn a table into a dataclass; RecipeError for unknown keys, missing keys and values of another type or range."""
    return read_table(kind, values, lambda problem: RecipeError(f"{recipe}: {problem}"))

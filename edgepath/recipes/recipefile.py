"""A recipe as the TOML that reads back as it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .recipe import Recipe


def to_toml(recipe: Recipe) -> str:
    """Return a recipe file's text; what stands at its default is written, too."""
    values = recipe.to_json()
    return "\n".join(_table(values, "")).strip() + "\n"


def _table(values: Mapping[str, Any], name: str) -> list[str]:
    plain = {key: value for key, value in values.items() if not _is_table(value)}
    lines = [f"{key} = {_value(value)}" for key, value in plain.items()] + [""]
    for key, value in values.items():
        inner = f"{name}.{key}" if name else key
        if isinstance(value, Mapping):
            lines += [f"[{inner}]", *_table(value, inner)]
        elif _is_table(value):
            for item in value:
                lines += [f"[[{inner}]]", *_table(item, inner)]
    return lines


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def _value(value: Any) -> str:
    """JSON's strings, numbers, booleans and lists of them are TOML's, too."""
    if isinstance(value, list):
        return "[" + "".join(f"\n    {_value(item)}," for item in value) + "\n" * bool(value) + "]"
    return json.dumps(value, ensure_ascii=False)

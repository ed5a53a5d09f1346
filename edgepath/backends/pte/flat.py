"""FlatBuffers read by their schema, into tables of names and values.

ExecuTorch brings the schema of what its XNNPACK delegate reads, and a compiler that prints such a file as JSON. It
prints six decimals: too few for scales.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

_COMMENT = re.compile(r"//[^\n]*")
_BLOCK = re.compile(r"(table|union|enum)\s+(\w+)\s*(?::\s*(\w+))?[^{]*\{(.*?)\}", re.S)
_FIELD = re.compile(r"(\w+)\s*:\s*(\[?\w+\]?)\s*(?:=\s*(\w+))?")
_MEMBER = re.compile(r"(\w+)\s*(?::\s*(\w+))?\s*(?:=\s*(\w+))?\s*(?:,|$)")
# fmt: off
_SCALARS = {
    "bool": "?", "byte": "i1", "ubyte": "u1", "short": "<i2", "ushort": "<u2", "int": "<i4", "uint": "<u4",
    "long": "<i8", "ulong": "<u8", "int64": "<i8", "uint64": "<u8", "float": "<f4", "double": "<f8",
}
# fmt: on


@dataclass(frozen=True)
class Schema:
    """Tables as (field, type) in the order of their slots, unions as (member, table), enums as (value, name)."""

    tables: dict[str, list[tuple[str, str]]]
    unions: dict[str, list[tuple[str, str]]]
    enums: dict[str, tuple[str, dict[int, str]]]

    @classmethod
    def parse(cls, text: str) -> Schema:
        """Read a schema file's text; defaults of scalars other than 0 are not known here."""
        schema = cls({}, {}, {})
        for kind, name, base, body in _BLOCK.findall(_COMMENT.sub("", text)):
            if kind == "table":
                schema.tables[name] = [(field, of) for field, of, _ in _FIELD.findall(body)]
            elif kind == "union":
                schema.unions[name] = [(member, of or member) for member, of, _ in _MEMBER.findall(body.strip())]
            else:
                members = [(member, value) for member, _, value in _MEMBER.findall(body.strip())]
                schema.enums[name] = (base, {int(value or i): member for i, (member, value) in enumerate(members)})
        return schema

    def read(self, data: bytes, root: str) -> dict[str, Any]:
        """Return the table `root` that a buffer begins with; raises ValueError or IndexError for what is none."""
        return self._table(data, int(_scalar(data, 0, "<u4")), root)

    def _table(self, data: bytes, at: int, name: str) -> dict[str, Any]:
        slots = at - int(_scalar(data, at, "<i4"))
        length = int(_scalar(data, slots, "<u2"))
        fields: dict[str, Any] = {}
        slot = 4
        for field, kind in self.tables[name]:
            if kind in self.unions:  # which member it is has a slot of its own, before it
                member = self._slot(data, at, slots, length, slot)
                number = int(_scalar(data, member, "u1")) if member else 0
                which = self.unions[kind][number - 1] if number else ("", "")
                fields[f"{field}_type"], slot = which[0], slot + 2
                where = self._slot(data, at, slots, length, slot)
                fields[field] = self._table(data, _follow(data, where), which[1]) if where and number else None
            else:
                fields[field] = self._value(data, self._slot(data, at, slots, length, slot), kind)
            slot += 2
        return fields

    @staticmethod
    def _slot(data: bytes, at: int, slots: int, length: int, slot: int) -> int:
        """Return where a field is, 0 for one that is not stored."""
        offset = int(_scalar(data, slots + slot, "<u2")) if slot < length else 0
        return at + offset if offset else 0

    def _value(self, data: bytes, where: int, kind: str) -> Any:
        if kind in self.enums:
            base, members = self.enums[kind]
            return members[int(_scalar(data, where, _SCALARS[base])) if where else 0]
        if kind in _SCALARS:
            return _scalar(data, where, _SCALARS[kind]).item() if where else 0
        if not where:
            return [] if kind.startswith("[") else "" if kind == "string" else None
        where = _follow(data, where)
        if kind == "string":
            return _span(data, where + 4, int(_scalar(data, where, "<u4"))).decode()
        if not kind.startswith("["):
            return self._table(data, where, kind)
        count, of = int(_scalar(data, where, "<u4")), kind[1:-1]
        if of in _SCALARS:
            dtype = np.dtype(_SCALARS[of])
            return np.frombuffer(_span(data, where + 4, count * dtype.itemsize), dtype).tolist()
        _span(data, where + 4, 4 * count)  # so many are there, before any is read
        return [self._table(data, _follow(data, where + 4 + 4 * i), of) for i in range(count)]


def _follow(data: bytes, where: int) -> int:
    return where + int(_scalar(data, where, "<u4"))


def _scalar(data: bytes, where: int, dtype: str) -> Any:
    kind = np.dtype(dtype)
    return np.frombuffer(_span(data, where, kind.itemsize), kind)[0]


def _span(data: bytes, start: int, size: int) -> bytes:
    if start < 0 or start + size > len(data):
        raise IndexError(f"{size} bytes at {start} of {len(data)}")
    return data[start : start + size]

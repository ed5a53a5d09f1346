"""Damage of a file, drawn by a seed: bits, lengths, numbers, and of JSON one value for another."""

from __future__ import annotations

import copy
import json
import random
import re
from typing import Any

WORDS = (
    *(b"", b"\0", b"\xff" * 8, b"-1", b"1e999", b"NaN", b"null", b"[" * 9000, b'{"a":' * 5000, b"\x1b[2J", b"\n", b"'"),
    *(b"18446744073709551616", b"9" * 5000, b"0x", b"../../x", b'"', b",", b"=1+1", b"a.b." * 3000),
    *(b"%s%n", b"\\u0000"),
    *("\u202e\u2028".encode(), b"\xf0\x28\x8c\x28", b"true", b"(" * 400, b"2147483648", b"1" * 20, b"   ", b"inf"),
)
SIZES = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\0\0\0", b"\x80\0\0\0")
DEEP: Any = []
for _ in range(200):
    DEEP = [DEEP]
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, 1e308, -0.0, 0.5, "", "x", "\x1b[31m\n", "\x00"),
    *([], {}, [None], [[]], {"a": None}, "a" * 20000, [1] * 2000, "../../etc/passwd", "/etc/passwd", DEEP, "\ud800"),
)


def mutate(raw: bytes, seed: int) -> bytes:
    """Return a damaged copy; the same for the same seed."""
    draw = random.Random(seed)
    if raw[:1] in b"{[" and draw.random() < 0.6:
        try:
            values = json.loads(raw)
        except ValueError:
            pass
        else:
            return _other_value(values, draw)
    data = bytearray(raw)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        _damage(data, draw)
    return bytes(data)


def _damage(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data) + 1)
    if draw.random() < 0.3:  # headers are where sizes stand
        at = min(at, draw.randrange(256))
    kind = draw.randrange(8)
    if kind == 0 and data:
        data[at % len(data)] ^= 1 << draw.randrange(8)
    elif kind == 1 and data:
        data[at % len(data)] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        del data[at : at + draw.choice((1, 2, 4, 16, 512))]
    elif kind == 4:
        data[at:at] = draw.choice(WORDS)
    elif kind == 5:
        data[at : at + 4] = draw.choice(SIZES)
    elif kind == 6:
        start = draw.randrange(len(data) + 1)
        data[at:at] = data[start : start + draw.choice((1, 8, 64, 1024))]
    elif numbers := list(re.finditer(rb"\d+", data[:65536])):
        found = draw.choice(numbers)
        data[found.start() : found.end()] = draw.choice(WORDS)


def _drawn(draw: random.Random) -> Any:
    return copy.deepcopy(draw.choice(VALUES))


def _other_value(values: Any, draw: random.Random) -> bytes:
    for _ in range(draw.choice((1, 1, 2, 3))):
        here, key = None, None
        inner = values
        while isinstance(inner, (dict, list)) and inner and (here is None or draw.random() < 0.8):
            here, key = inner, draw.choice(list(inner)) if isinstance(inner, dict) else draw.randrange(len(inner))
            inner = here[key]
        if here is None:
            return json.dumps(_drawn(draw)).encode()
        if draw.random() < 0.15:
            del here[key]
        elif isinstance(here, dict) and draw.random() < 0.1:
            here[draw.choice(("\x1b[2J", "", "a.b", "x" * 999, "../x"))] = here.pop(key)
        else:
            here[key] = _drawn(draw)
    text = json.dumps(values)
    if draw.random() < 0.1:
        text = text.replace("0.5", "1e999").replace("1e+308", draw.choice(("NaN", "-Infinity", "1e999")))
    return text.encode()

"""The tree of errors is the one its docstring draws, and a wrong name is answered with the right one."""

from __future__ import annotations

import inspect
import re

import pytest

import edgepath.errors as errors
from edgepath.errors import EdgepathError, did_you_mean


def test_docstring_draws_the_tree_of_classes() -> None:
    drawn = {}  # class: its base, by how far it is drawn to the right
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"(    [│├└─ ]*)([A-Z]\w+)  +\S", line)
        if match:
            depth, name = len(match[1]), match[2]
            path = [step for step in path if step[0] < depth]
            drawn[name] = path[-1][1] if path else "Exception"
            path.append((depth, name))
    classes = {
        name: kind.__base__.__name__
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, Exception)
    }
    assert len(classes) > 5
    assert drawn == classes


def test_every_error_is_documented() -> None:
    for kind in EdgepathError.__subclasses__():
        assert kind.__doc__
        assert kind.__doc__ != EdgepathError.__doc__


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("percentil", ["percentile", "minmax"], 'did you mean "percentile"?'),
        ("jetson-int4", ["jetson-int8", "jetson-fp16", "onnx-int8"], 'did you mean "jetson-int8" or "jetson-fp16"?'),
        ("zzz", ["b", "a", "c"], "known: a, b, c"),
        ("", ["b", "a"], "known: a, b"),
        ("x", [], "known: "),
    ],
)
def test_nearest_names_or_all_of_them(name: str, known: list[str], said: str) -> None:
    assert did_you_mean(name, known) == said
    assert did_you_mean(name, iter(known)) == said
    assert did_you_mean(name, dict.fromkeys(known)) == said

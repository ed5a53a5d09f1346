"""Plain words: pages, help texts, table headings and public docstrings are short sentences in the field's words."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pages
import prose
import pytest

import edgepath


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_pages(page: Path) -> None:
    assert prose.problems(prose.plain(page.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_tables_of_pages(page: Path) -> None:
    rows = re.findall(r"^\|.*$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert prose.dialect(re.sub(r"`[^`]*`", "code", "\n".join(rows))) == []


@pytest.mark.parametrize("path", pages.NOTEBOOKS, ids=pages.name)
def test_notebooks(path: Path) -> None:
    assert prose.problems(prose.plain(pages.notebook_text(path))) == []


@pytest.mark.parametrize("words", sorted(words for words, _ in pages.every_command()))
def test_help(words: str) -> None:
    command = dict(pages.every_command())[words]
    texts = [command.help, *(parameter.help for parameter in command.params if getattr(parameter, "help", ""))]
    assert prose.problems(prose.plain("\n\n".join(texts))) == []


def public() -> Iterator[tuple[str, Any]]:
    for name in edgepath.__all__:
        value = getattr(edgepath, name)
        if name.startswith("__"):
            continue
        yield name, value
        for attribute, member in vars(value).items() if inspect.isclass(value) else ():
            member = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if not attribute.startswith("_") and inspect.isfunction(member):
                yield f"{name}.{attribute}", member


PUBLIC = dict(public())


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_docstrings(name: str) -> None:
    text = re.sub(r"^\s*(Args|Returns|Raises):$", "", inspect.getdoc(PUBLIC[name]) or "", flags=re.MULTILINE)
    lines = re.sub(r"^ {4}([\w, ]+): ", r"\n\n", text, flags=re.MULTILINE)
    assert prose.problems(prose.plain(re.sub(r"^ +", "", lines, flags=re.MULTILINE))) == []


@pytest.mark.parametrize("name", sorted(name for name, value in PUBLIC.items() if inspect.isfunction(value)))
def test_public_functions_say_what_they_take(name: str) -> None:
    parameters = [word for word in inspect.signature(PUBLIC[name]).parameters if word not in ("self", "cls")]
    if len(parameters) <= 3:
        return
    documented = inspect.getdoc(PUBLIC[name]) or ""
    listed = documented.partition("Args:\n")[2].partition("\n\n")[0]
    assert re.findall(r"^ {4}(\w+): ", listed, flags=re.MULTILINE) == parameters
    assert "\nReturns:\n" in documented
    assert "\nRaises:\n" in documented


def headings() -> Iterator[str]:
    """Yield every heading of a table that a command prints or a page shows."""
    for path in sorted((pages.ROOT / "edgepath" / "reports").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            lists: list[ast.AST] = []
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "table":
                lists = node.args[:1]
            elif isinstance(node, ast.Assign | ast.AugAssign):
                names = node.targets if isinstance(node, ast.Assign) else [node.target]
                named = {getattr(name, "id", "").lower().strip("_") for name in names}
                lists = (
                    [node.value] if named & {"header", "latency", "called", "groups", "how", "shown", "words"} else []
                )
            for values in lists:
                yield from (value.value for inner in ast.walk(values) for value in _texts(inner))


def _texts(node: ast.AST) -> list[ast.Constant]:
    values = node.elts if isinstance(node, ast.List | ast.Tuple) else node.values if isinstance(node, ast.Dict) else []
    return [value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]


def test_table_headings() -> None:
    found = sorted(set(headings()))
    assert {"95 % bounds", "finds itself", "parameters that differ", "p50 ms"} <= set(found)
    assert prose.dialect("\n".join(found)) == []


VAGUE = {"found", "said", "told", "one", "whole"}
SERIALIZED = {("edgepath/checks/lint.py", "found")}  # `Finding.found`, a key of `edgepath lint --json`
SOURCES = [path for room in ("edgepath", "export", "calibration") for path in sorted((pages.ROOT / room).rglob("*.py"))]


def bound_names(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and name of every variable, argument, field and attribute that code gives a value to."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case (
                ast.Name(id=str(name), ctx=ast.Store())
                | ast.Attribute(attr=str(name), ctx=ast.Store())
                | ast.arg(arg=str(name))
                | ast.ExceptHandler(name=str(name))
                | ast.MatchAs(name=str(name))
            ):
                yield node.lineno, name


def test_names_say_what_they_hold() -> None:
    places = {
        (pages.name(path), line, name)
        for path in SOURCES
        for line, name in bound_names(path.read_text(encoding="utf-8"))
        if name.strip("_") in VAGUE
    }
    assert sorted(place for place in places if (place[0], place[2]) not in SERIALIZED) == []
    assert {(path, name) for path, _, name in places} == SERIALIZED


def test_every_way_to_bind_a_name_is_seen() -> None:
    source = """
class Record:
    found: str
def read(told, *one):
    self._said = [whole for whole in told if (found := whole)]
    try:
        pass
    except OSError as said:
        match said:
            case one:
                pass
"""
    names = sorted(name for _, name in bound_names(source))
    assert names == ["_said", "found", "found", "one", "one", "said", "told", "whole"]


def test_the_checker_sees_what_it_has_to() -> None:
    page = (
        "# A title\n\nWords " + "and words " * 20 + "end. Its twin looks fine.\n\n    code has looks\n\n`looks` too.\n"
    )
    found = prose.problems(prose.plain(page))
    assert sum("words:" in problem for problem in found) == 1
    assert sum(problem.startswith('"') for problem in found) == 2

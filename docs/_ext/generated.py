"""Pages that are written from the code: commands, recipe keys, targets, results; and files outside of docs/."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
import sys
import typing
from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

OUTSIDE = {
    "contributing": "CONTRIBUTING.md",
    "security": "SECURITY.md",
    "changelog": "CHANGELOG.md",
    "calibration-packs": "calibration/README.md",
    "benchmarks": "benchmarks/README.md",
    "demo-card": "edgepath/shipped/demo/README.md",
    "demo-maker": "tools/demo_model/README.md",
}
"""Pages of the site that are files of the repository, by their name on the site."""


def write(docs: Path, root: Path) -> None:
    """Write every page: those from code to `reference/`, where they are kept, copies of files to `_generated/`."""
    copies = docs / "_generated"
    copies.mkdir(exist_ok=True)
    for stale in {path.stem for path in copies.glob("*.md")} - OUTSIDE.keys():
        (copies / f"{stale}.md").unlink()
    pages = {docs / "reference" / f"{name}.md": text for name, text in reference().items()}
    pages |= {copies / f"{name}.md": outside(root / file, copies, root) for name, file in OUTSIDE.items()}
    for path, text in pages.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:  # so that a second build is quick
            path.write_text(text, encoding="utf-8")


def reference() -> dict[str, str]:
    """Return the pages that are written from the code, by name."""
    return {"cli": cli(), "recipe": recipe(), "targets": targets(), "results": results()}


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command that is shown in a help text, by its words: `export`, `pack build`."""
    from edgepath.cli import app

    def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield name, command
            return
        for word, inner in command.commands.items():
            if not inner.hidden:
                yield from walk(f"{name} {word}".strip(), inner)

    yield from walk("", typer.main.get_command(app))


def cli() -> str:
    """Return the reference of the command line."""
    lines = [
        "# Command line",
        "",
        "This page is generated from the code. Every command prints the same with `--help` or `-h`.",
        "Results go to stdout, progress and cautions to stderr. `--json` prints a result as JSON.",
        "Exit codes: 0 passed, 1 a gate failed, 2 could not run.",
        "",
        "`edgepath --version` prints the version.",
        "",
    ]
    for name, command in commands():
        lines += [f"## edgepath {name}", "", _cell(command.help or ""), ""]
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        words = [
            ("[{}]" if not p.required else "{}").format(p.name.upper()) + ("..." if p.nargs < 0 else "")
            for p in arguments
        ]
        required = [f"{p.opts[0]} {p.name.upper()}" for p in command.params if p not in arguments and p.required]
        lines += ["```text", " ".join(["edgepath", name, *words, *required, "[OPTIONS]"]), "```", ""]
        lines += ["| | default | what it is |", "| --- | --- | --- |"]
        for parameter in command.params:
            if "--help" in parameter.opts:
                continue
            shown = (
                ", ".join(f"`{opt}`" for opt in parameter.opts)
                if parameter not in arguments
                else f"`{parameter.name.upper()}`"
            )
            lines.append(f"| {shown}{_choices(parameter)} | {_default(parameter)} | {_cell(parameter.help or '')} |")
        lines.append("")
    return "\n".join(lines)


def _choices(parameter: Any) -> str:
    kind = parameter.type_descriptor.annotation
    of = [kind, *typing.get_args(kind)]
    choices = [choice.value for one in of if inspect.isclass(one) and issubclass(one, Enum) for choice in one]
    return f" {' / '.join(choices)}" if choices else ""


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value is False or callable(value) or value == "":
        return ""
    return f"`{getattr(value, 'value', value)}`"


def _cell(text: str) -> str:
    """Return text for a cell; what stands in backticks is left as it is."""
    pieces = " ".join(text.split()).replace("|", "\\|").split("`")
    return "`".join(piece if number % 2 else piece.replace("<", "&lt;") for number, piece in enumerate(pieces))


def described(kind: type) -> dict[str, str]:
    """Return the text below each field of a class, as attributes are documented: a string after the field."""
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(kind)))
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef)).body
    found = {}
    for node, after in pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[node.target.id] = str(after.value.value)  # type: ignore[union-attr]
    return found


def recipe_keys() -> Iterator[tuple[str, str, str, str]]:
    """Yield key, type, default and description of every key of a recipe."""
    from edgepath.recipes import recipe as module

    def walk(kind: Any, prefix: str) -> Iterator[tuple[str, str, str, str]]:
        texts, hints = described(kind), typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            inner, key = hints[field.name], f"{prefix}{field.name}"
            if dataclasses.is_dataclass(inner):
                yield from walk(inner, f"{key}.")
            elif (of := typing.get_args(inner)) and dataclasses.is_dataclass(of[0]):
                yield from walk(of[0], f"{key}[].")
            else:
                default = "required" if field.default is dataclasses.MISSING else f"`{_toml(field.default)}`"
                yield key, _type(inner), default, texts.get(field.name, "")

    yield from walk(module.Recipe, "")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else "[]" if value == () else str(value)


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(f'`"{value}"`' for value in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return "list of strings"
    return {str: "string", int: "whole number", float: "number", bool: "true or false"}[hint]


def recipe() -> str:
    """Return the reference of recipe keys."""
    rows = [f"| `{key}` | {kind} | {default} | {_cell(text)} |" for key, kind, default, text in recipe_keys()]
    return "\n".join(
        [
            "# Recipe keys",
            "",
            "A recipe is a TOML file that describes one target. This page is generated from the schema in the code.",
            "An unknown key is refused, with the nearest known one. `[]` stands for a list of tables.",
            "",
            "| key | type | default | what it is |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def checks() -> str:
    """Return the table of how each target is checked here, and where its own runtime has run it."""
    from edgepath.backends import builds_of
    from edgepath.recipes.recipe import recipes

    lines = [
        "| target | linear layers | rest | checked here by | run on the device |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, found in recipes().items():
        builds, precision = builds_of(found.backend), found.precision
        cells = [f"`{name}`", precision.linear.upper(), precision.rest, builds.checked_how]
        lines.append(f"| {' | '.join([*cells, builds.ran_on or 'no'])} |")
    return "\n".join(lines)


def targets() -> str:
    """Return the reference of targets."""
    from edgepath.recipes.recipe import recipes

    lines = [
        "# Targets",
        "",
        "This page is generated from the recipes and runtimes in the code. `edgepath targets` lists them, too.",
        "[Choose a target](../howto/choose-a-target.md) says which one to take.",
        "",
        "## How each is checked",
        "",
        "[How a lowering is checked](../explain/how-a-lowering-is-checked.md) says more.",
        "",
        checks(),
        "",
        "## What each is for, and its gates",
        "",
        "| target | runtime | devices | checked with | mean cosine | 1st percentile |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in recipes().items():
        accept = found.accept
        cells = [f"`{name}`", f"`{found.backend}`", ", ".join(found.deploy.devices), f"`{found.checked_with}`"]
        lines.append(f"| {' | '.join([*cells, f'{accept.cosine_mean:g}', f'{accept.cosine_p01:g}'])} |")
    plans = [(name, plan) for name, found in recipes().items() for plan in found.deploy.plan]
    lines += [
        "",
        "## How an engine is built on a Jetson",
        "",
        "| target | release | runtime | flags | source |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, plan in plans:
        flags = " ".join(f"`{flag}`" for flag in plan.flags) or "none"
        lines.append(f"| `{name}` | {plan.release} | {plan.runtime} | {flags} | {plan.source or 'documentation'} |")
    others = [
        (name, found.deploy)
        for name, found in recipes().items()
        if found.deploy.minimum_os or found.deploy.compute_capabilities
    ]
    lines += [
        "",
        "## What a device has to have",
        "",
        "| target | smallest system | compute capabilities |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| `{name}` | {deploy.minimum_os or '-'} | {', '.join(deploy.compute_capabilities) or '-'} |"
        for name, deploy in others
    ]
    return "\n".join([*lines, ""])


def results() -> str:
    """Return the reference of what commands print with `--json`, from their types."""
    from edgepath.bundle.embedding import Embedded
    from edgepath.checks import results as checks
    from edgepath.quality import results as quality
    from edgepath.searching import Searched
    from edgepath.slides.results import SlidesResult
    from edgepath.speed.results import Bench

    kinds = {
        "export, and bundle.json": checks.Report,
        "verify": checks.Verification,
        "compare": checks.Comparison,
        "debug": checks.Debugging,
        "robustness": quality.Robustness,
        "curves": quality.Curves,
        "probe labels": quality.Probed,
        "probe hest": quality.Genes,
        "bench, and bench reference": Bench,
        "search": Searched,
        "embed": Embedded,
        "slides": SlidesResult,
    }
    lines = [
        "# Result files",
        "",
        "What commands print with `--json`. This page is generated from the types in the code.",
        "Most results have a `kind`, and say which bundle they are of by the sha256 of `bundle.json`.",
        "",
    ]
    inside: dict[str, Any] = {}
    for name, kind in kinds.items():
        lines += [f"## {name}", "", *_keys(kind, inside), ""]
    lines += ["## Tables inside results", ""]
    done: set[str] = set()
    while rest := sorted(inside.keys() - done):
        for name in rest:
            lines += [f"### {name}", "", *_keys(inside[name], inside), ""]
        done.update(rest)
    return "\n".join(lines)


def _keys(kind: Any, inside: dict[str, Any]) -> list[str]:
    """Return the table of a result's keys, and add to `inside` the types that they are of."""
    rows = ["| key | type |", "| --- | --- |"]
    for key, hint in kind.__annotations__.items():
        text = str(getattr(hint, "__forward_arg__", getattr(hint, "__name__", hint))).replace("NotRequired", "")
        rows.append(f"| `{key}` | `{text.replace('|', 'or')}` |")
        namespace = vars(sys.modules[kind.__module__])
        found = {word: namespace.get(word) for word in re.findall(r"[A-Z]\w+", text)}
        inside |= {word: of for word, of in found.items() if typing.is_typeddict(of)}
    return rows


LINK = re.compile(r"(!?\[[^\]]*\])\(([^)#:]+)(#[^)]*)?\)")


def outside(path: Path, folder: Path, root: Path) -> str:
    """Return a file of the repository as a page: links to pages of the site stay links, to folders become text."""
    return linked(path.read_text(encoding="utf-8"), path, folder, root)


def linked(text: str, path: Path, folder: Path, root: Path) -> str:
    """Return the text of `path` as a page in `folder`, its links those of the site."""
    on_site = {(root / file).resolve(): root / "docs" / "_generated" / f"{name}.md" for name, file in OUTSIDE.items()}
    on_site[root / "README.md"] = root / "docs" / "index.md"

    def link(found: re.Match[str]) -> str:
        label, target, anchor = found.group(1), (path.parent / found.group(2)).resolve(), found.group(3) or ""
        if target.is_dir():
            return label[1:-1]
        return f"{label}({os.path.relpath(on_site.get(target, target), folder)}{anchor})"

    return LINK.sub(link, text)

"""Commands that list what there is."""

import typer

from ..reports.console import print_json, print_table
from ..reports.table import table
from .options import AsJson


def targets(as_json: AsJson = False) -> None:
    """List what can be built."""
    from ..recipes.recipe import recipes

    known = recipes()
    if as_json:
        print_json([recipe.to_json() for recipe in known.values()])
        return
    rows = [[r.target, r.precision.linear, r.precision.rest.lower(), r.checked_with, r.summary] for r in known.values()]
    print_table(table(["target", "linear layers", "rest", "checked with", "what"], rows))


def models(as_json: AsJson = False) -> None:
    """List the models that are known by name; timm:NAME takes any other timm vision transformer."""
    from ..models.catalogue import model_specs

    specs = model_specs()
    if as_json:
        print_json([spec.to_json() for spec in specs])
        return
    rows = [[s.name, s.embedding, s.hub or "-", s.licence, s.summary] for s in specs]
    print_table(table(["model", "embedding", "hub", "licence", "what"], rows))


def doctor(as_json: AsJson = False) -> None:
    """Show which runtimes, extras and devices are here, and what to install for the rest."""
    from ..backends.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        print_json(diagnosis.to_json())
        return
    print_table(table(["", ""], diagnosis.machine_rows()))
    print_table(table(["what", "here", "to get it"], diagnosis.rows()))


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (
        targets,
        models,
        doctor,
    ):
        app.command()(command)

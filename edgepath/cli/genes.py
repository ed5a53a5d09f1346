"""What `probe --hest` prints."""

from pathlib import Path
from typing import Any, NoReturn

import typer

from ..reports.console import (
    print_json,
    print_table,
    progress_bars,
    say_cautions,
    verdict,
)


def show_hest(bundle: Path, folder: Path, as_json: bool, **options: Any) -> NoReturn:
    """Run the HEST-Benchmark's protocol, print what was found, and leave with the verdict's exit code."""
    from ..quality.hest.measuring import probe_hest
    from ..reports.tables.drift import gate_table
    from ..reports.tables.quality import gene_table, task_table

    with progress_bars() as progress:
        result = probe_hest(bundle, folder, progress=progress, **options)
    if as_json:
        print_json(result)
    else:
        say_cautions([*result["cautions"], *result["notes"]])
        source = result["source"]
        print(f"{source['count']} patches of {source['name']}; Pearson's correlation, mean over genes and splits")
        print_table(task_table(result))
        print_table(gene_table(result))
        print_table(gate_table(result["gates"]))
        print(f"{bundle}: {verdict(result['passed'])}")
    raise typer.Exit(0 if result["passed"] else 1)

"""What the examples ask edgepath for, it has; and the files are what their programs read."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from edgepath.cli import app

CALL = re.compile(r"edgepath slides (.*?)(?:$|\n\n)", re.S)


def calls(path: Path) -> list[list[str]]:
    """Return the arguments of each call of `edgepath slides`, comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    if path.suffix == ".yaml":
        text = yaml.safe_load("\n".join(lines))["spec"]["template"]["spec"]["containers"][0]["args"][0]
    return [shlex.split(found) for found in CALL.findall(text)]


@pytest.mark.parametrize("name", ["slurm_array.sh", "kubernetes_job.yaml", "ray_symmetric_run.sh"])
def test_examples_call_what_there_is(checkout: Path, name: str) -> None:
    slides = typer.main.get_command(app).commands["slides"].commands["embed"]  # type: ignore[attr-defined]
    known = {option for parameter in slides.params for option in parameter.opts}
    found = calls(checkout / "examples" / name)
    assert found
    for arguments in found:
        assert {one for one in arguments if one.startswith("--")} <= known
        assert "--out" in arguments


@pytest.mark.parametrize("name", ["slurm_array.sh", "ray_symmetric_run.sh"])
def test_scripts_are_bash(checkout: Path, name: str) -> None:
    subprocess.run(["bash", "-n", checkout / "examples" / name], check=True)


def test_the_job_is_indexed_and_every_index_is_a_part(checkout: Path) -> None:
    job = yaml.safe_load((checkout / "examples" / "kubernetes_job.yaml").read_text())
    assert job["spec"]["completionMode"] == "Indexed"
    (arguments,) = calls(checkout / "examples" / "kubernetes_job.yaml")
    assert arguments[arguments.index("--shard") + 1].endswith(f"/{job['spec']['completions']}")

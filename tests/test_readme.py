"""Every command, target, file and link that the README names exists as it is written there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from edgepath.cli import app
from edgepath.recipes.recipe import recipes

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "calibration/README.md", "benchmarks/README.md")


def commands(text: str, name: str) -> list[list[str]]:
    """The command lines of indented blocks that start with `name`, split into words; comments and `$ ` left out."""
    lines = re.findall(rf"^    (?:\$ )?{name} (.*)$", text, flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


EDGEPATH = [words for page in PAGES for words in commands((ROOT / page).read_text(encoding="utf-8"), "edgepath")]


@pytest.mark.parametrize("words", EDGEPATH, ids=" ".join)
def test_command_line_is_understood(words: list[str]) -> None:
    command = get_command(app)
    while isinstance(command, typer.core.TyperGroup):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words))  # parses; runs nothing


def test_both_first_commands_and_all_verbs_are_shown() -> None:
    assert commands(README, "make")[:2] == [["demo"], ["test"]]
    shown = {words[0] for words in commands(README, "edgepath")}
    assert set(get_command(app).commands) - shown <= {"calibrate"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page: str, checkout: Path) -> None:
    known = set(re.findall(r"^([a-z][\w-]*):", (checkout / "Makefile").read_text(), flags=re.MULTILINE))
    assert {words[0] for words in commands((checkout / page).read_text(encoding="utf-8"), "make")} <= known


def test_table_of_targets_is_complete() -> None:
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", README, flags=re.MULTILINE)) == set(recipes())


def test_python_example_compiles_and_uses_public_names() -> None:
    import edgepath

    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    compile(example, "README.md", "exec")
    assert set(re.findall(r"edgepath\.(\w+)\(", example)) <= set(edgepath.__all__)


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_exist(page: str, checkout: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (checkout / page).read_text(encoding="utf-8"))
    assert all(((checkout / page).parent / link).exists() for link in links)


def test_measured_figures_are_those_that_are_kept() -> None:
    kept = json.loads((ROOT / "benchmarks/results/epyc-avx2.json").read_text(encoding="utf-8"))
    measured = README.split("## Measured\n")[1].split("\n## ")[0]
    drift = re.findall(r"^\| `([a-z0-9-]+)`.*? \| (0\.9\d+) \| (0\.9\d+) \|", measured, flags=re.MULTILINE)
    assert len(drift) == 2
    for target, mean, low in drift:
        total = kept[f"{target} drift on 110 other tiles"]["total"]
        digits = len(mean) - 2
        assert (mean, low) == (f"{total['cosine_mean']:.{digits}f}", f"{total['cosine_p01']:.{digits}f}")
    beside = re.findall(r"^\| .*? \| (\d\S*) \| (\d\S*) \| (\d\S*) \|$", measured, flags=re.MULTILINE)
    shown = sorted(float(value) for row in beside for value in row)
    found = [value for key, row in kept.items() if key.startswith("drift, 1 - cosine mean") for value in row.values()]
    assert shown == pytest.approx(sorted(found), rel=0.06)
    assert len(shown) == 15
    latency = kept["latency, batch 1"]["ms"]
    for name in ("openvino-int8", "onnx-int8"):
        assert f"{latency[name]['p50']:.0f} ms" in measured, name
    for name, ratio in kept.items():
        if name.startswith("latency ratio "):
            assert f"{ratio:.2f} of" in measured, name
    roof = kept["roofline"]
    peaks, ours = ({name: value / 1e9 for name, value in roof["peaks"].items()}, roof["bundles"]["openvino-int8"])
    work = sum(ours["multiply_adds"].values()) / 1e9
    said = (
        f"{peaks['i8']:.0f} G multiply-adds a second beside {peaks['f32']:.0f} G, in one large product. At these peaks "
        f"the {work:.1f} G of a tile, {100 * ours['int8_share']:.0f} % of them in INT8, "
        f"take {ours['at_peak_ms']:.0f} ms of the {ours['measured_ms']:.0f} ms "
        f"that `openvino-int8` takes ({100 * ours['of_peak']:.1f} %)"
    )
    assert said in " ".join(measured.split())
    export = kept["export openvino-int8, 64 tiles"]
    assert f"{export['seconds']:.0f} s, {export['peak_gb']:.1f} GB" in measured
    start = json.loads((ROOT / "benchmarks/results/help.json").read_text(encoding="utf-8"))["edgepath --help"]
    assert f"{start['seconds']:.2f} s, {start['ratio']:.2f} times" in measured
    assert f"medians of {start['n']} in turn" in measured


def test_what_the_class_token_unrounded_changes_is_what_was_measured() -> None:
    kept = json.loads((ROOT / "benchmarks/results/epyc-avx2.json").read_text(encoding="utf-8"))
    table = README.split("**The class token unrounded.**")[1].split("\n| target")[0]
    targets = ("openvino-int8", "openvino-int8-cls")
    rows = re.findall(
        r"^\|.*?\| (?:program|artifact).*? \| (\S+e-\d) \| (\S+e-\d) \|(.*)\|$", table, flags=re.MULTILINE
    )
    wanted = []
    for kind in ("plain", "demo, trained"):
        found = kept[f"class token in floating point, {kind}"]
        times = " and ".join(f"{found[f'latency ratio, batch {batch}']:.2f}" for batch in (1, 4))
        for what, said in (("program", " "), ("artifact", f" {times} of `openvino-int8` ")):
            wanted.append((*(f"{found[target][what]:.1e}".replace("e-0", "e-") for target in targets), said))
    assert rows == wanted


def test_what_a_budget_and_training_change_is_what_was_measured() -> None:
    kept = json.loads((ROOT / "benchmarks/results/epyc-avx2.json").read_text(encoding="utf-8"))
    text = " ".join(README.split())
    found = kept["search, onnx-int8 with outliers, 0.75 of INT8's drift allowed"]
    before, after = (f"{found[f'drift of {what}']:.1e}".replace("e-0", "e-") for what in ("INT8", "the mixed program"))
    assert f"`onnx-int8` keeps {found['speed-up kept']:.3f} of the milliseconds that INT8 gains over FP32" in text
    assert f"the drift falls from {before} to {after} (n = {found['n']};" in text
    artifacts = (found[f"drift of {what} artifact"] for what in ("INT8's", "the mixed"))
    assert "from {:.1e} to {:.1e})".format(*artifacts).replace("e-0", "e-") in text
    assert (found["products kept"], found["of"]) == (7, 49)
    assert "seven of 49 linears stay in FP32" in text
    table = README.split("\n## Distil\n")[1].split("\n## ")[0]
    found = kept["qad, 200 steps on demo, program drift on 32 tiles of each tissue"]
    rows = re.findall(r"^\| ([\w ,]+) \| (\S+e-\d) \| (\S+e-\d) \| (\S+e-\d) \|$", table, flags=re.MULTILINE)
    ways = ("openvino-int8", "openvino-int8-cls", "trained")
    assert rows == [
        (tissue, *(f"{found[way][tissue]:.1e}".replace("e-0", "e-") for way in ways)) for tissue in found["trained"]
    ]


def test_the_demo_students_figures_are_those_that_ship() -> None:
    facts = json.loads((ROOT / "edgepath/shipped/demo/figures.json").read_text(encoding="utf-8"))
    part = " ".join(README.split("\n## Distil\n")[1].split("\n## ")[0].split())

    def accuracies(name: str) -> list[str]:
        found = facts["figures"][name]
        sets, ways = ("osteosarcoma", "oral_oscc"), ("knn", "linear")
        return [f"{found[labelled][way]['balanced_accuracy']:.2f}" for labelled in sets for way in ways]

    bone, bone_linear, oral, oral_linear = accuracies("student")
    assert f"is {bone} and {bone_linear} on osteosarcoma, {oral} and {oral_linear} on oral tissue" in part
    for name, called in (
        ("teacher", "its teacher"),
        *((name, name) for name in ("random weights", "colour histogram")),
    ):
        assert f"{called} {', '.join(accuracies(name))}" in part
    of, random = (facts["figures"][name]["scanners4_registered_cyto"] for name in ("student", "random weights"))
    assert f"{of['top1']:.0%} of".replace("%", " %") in part
    assert f"{of['top10']:.0%} among the first ten".replace("%", " %") in part
    assert f"(random weights: {100 * random['top1']:.0f} and {100 * random['top10']:.0f} %)" in part
    minutes = [f"{facts[name]['seconds'] / 60:.1f}" for name in ("teacher", "student")]
    assert f"{minutes[0]} minutes of an NVIDIA H200 (teacher) and {minutes[1]} of two CPU cores (student)" in part
    both = (facts["teacher"]["seconds"] + facts["student"]["seconds"]) / 60
    assert f"trained in {both:.0f} minutes" in README


def test_figures_of_other_machines_are_those_that_are_kept() -> None:
    kept = json.loads((ROOT / "benchmarks/results/nvidia-h200/h0-mini.json").read_text(encoding="utf-8"))
    rows = {(row["name"], row["batch"]): row for row in kept["results"]}
    part = README.split("**What a GPU takes**")[1].split("\n## ")[0]
    shown = re.findall(r"^\| ([\w, ]+) \| (\S+) ms \| (\S+) ms \| (\S+) ms \| (\d+) \|$", part, flags=re.MULTILINE)
    assert len(shown) == 5
    for name, *times, speed in shown:
        found = [rows[f"torch {name}", batch] for batch in (1, 16, 256)]
        assert [float(time) for time in times] == [float(f"{row['latency_ms']['p50']:.3g}") for row in found]
        assert speed == f"{found[-1]['tiles_per_s']:.0f}"
        assert [row["n"] for row in found] == [20, 20, 10]
    edge = json.loads((ROOT / "benchmarks/results/epyc-avx2.json").read_text(encoding="utf-8"))
    times_slower = edge["latency, batch 1"]["ms"]["onnx-int8"]["p50"] / rows["torch FP32", 1]["latency_ms"]["p50"]
    assert f"{times_slower:.0f} times what FP32 takes here" in part
    xeon = json.loads((ROOT / "benchmarks/results/intel-xeon-vnni/demo-onnx-int8.json").read_text(encoding="utf-8"))
    (row,) = (row for row in xeon["results"] if row["name"] == "demo-onnx-int8")
    assert row["n"] == 20
    full, static, dynamic = (f"{ratio['p50']:.2f}" for ratio in row["ratios"])
    said = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", README).replace("\n", " ")
    assert f"took {full} of FP32, {static} of ONNX Runtime's static INT8, {dynamic} of its dynamic INT8" in said


def test_the_demos_robustness_is_that_of_the_weights_that_ship() -> None:
    from edgepath.models.catalogue import find_model
    from edgepath.models.weights import load_model

    kept = json.loads((ROOT / "benchmarks/results/robustness-demo.json").read_text(encoding="utf-8"))
    assert kept["weights"] == load_model(find_model("demo"))[2].sha256

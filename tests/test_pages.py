"""The site: every command in a page exists, marked ones run, everything public is on a page, figures are those kept."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pages
import pytest
import typer
from PIL import Image
from typer.main import get_command

import edgepath
from edgepath import cli
from edgepath.backends import builds_of
from edgepath.models import catalogue, weights
from edgepath.models.catalogue import ModelSpec
from edgepath.recipes.recipe import recipes

SHOWN = [(pages.name(page), words) for page in pages.PAGES for words in pages.commands(page.read_text(), "edgepath")]
RUN = [
    "docs/start/first-bundle.md",
    "docs/howto/calibrate.md",
    "docs/howto/choose-a-target.md",
    "docs/howto/debug-drift.md",
    "docs/howto/verify-on-your-tiles.md",
    "docs/howto/read-the-report.md",
    "docs/howto/embed-slides.md",
]
"""Pages with commands that run, in an order in which one makes what the next one needs."""
EXAMPLES = sorted((pages.ROOT / "examples").glob("[0-9]*.py"))


@pytest.fixture(scope="module")
def generated(checkout: Path) -> ModuleType:
    """What writes pages from the code."""
    spec = importlib.util.spec_from_file_location("generated", checkout / "docs" / "_ext" / "generated.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- commands


@pytest.mark.parametrize(
    ("page", "words"), SHOWN, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_command_line_is_understood(page: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.lexists", lambda path: True)  # what a page names lies on its reader's machine
    command, words = get_command(cli.app), words[: words.index(">")] if ">" in words else words
    while isinstance(command, typer.core.TyperGroup):
        _, command, words = command.resolve_command(typer.Context(command), list(words))
    command.make_context(command.name, list(words))  # parses; runs nothing


def test_every_command_is_shown() -> None:
    shown = {" ".join(words) for _, words in SHOWN}
    default = {"slides embed": "slides", "bench bundles": "bench"}
    for words, _ in pages.every_command():
        assert any(f"{line} ".startswith(f"{default.get(words, words)} ") for line in shown), words


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_make_targets_exist(page: Path, checkout: Path) -> None:
    known = set(re.findall(r"^([a-z][\w-]*):", (checkout / "Makefile").read_text(), flags=re.MULTILINE))
    assert {words[0] for words in pages.commands(page.read_text(encoding="utf-8"), "make")} <= known


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_linked_files_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    for link in links:
        assert (page.parent / link).exists(), link


def test_python_blocks_compile() -> None:
    for page in pages.PAGES:
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            tree = ast.parse(block)
            of_edgepath = [
                node
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "edgepath"
            ]
            names = {node.attr for node in of_edgepath}
            assert names <= {*edgepath.__all__, "adapters", "torchtrt"}, pages.name(page)


@pytest.fixture
def small_demo(tiny: ModelSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with tiles as the pages name them, in which `demo` is a model of two blocks with random weights."""
    small = dataclasses.replace(tiny, name="demo")
    others = [spec for spec in catalogue.model_specs() if spec.name != "demo"]
    monkeypatch.setattr(catalogue, "_SPECS", (*others, small))
    monkeypatch.setattr(weights, "shipped_weights", lambda name: None)
    monkeypatch.chdir(tmp_path)
    tissue = edgepath.open_tiles("synthetic:48").read()
    for number, tile in enumerate(tissue):
        for folder in ("tiles", "other_tiles", "scanners/one", "scanners/two"):
            if (number < 40) if folder == "tiles" else (number % 12 == 0):
                Path(folder).mkdir(parents=True, exist_ok=True)
                shade = 0.9 if folder == "scanners/two" else 1
                Image.fromarray((tile * shade).astype(np.uint8)).save(f"{folder}/{number:02}.png")
    return tmp_path


def run(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of a page; a redirection at its end is honoured."""
    redirected = words[words.index(">") + 1] if ">" in words else None
    arguments = words[: words.index(">")] if redirected else words
    force = ["--force"] if arguments[0] in ("export", "embed") and "--force" not in arguments else []
    monkeypatch.setattr(sys, "argv", ["edgepath", *arguments, *force])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert ended.value.code in (0, None), (words, err)
    if redirected:
        Path(redirected).write_text(out, encoding="utf-8")


@pytest.mark.slow
def test_marked_commands_run(
    small_demo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = {pages.name(page) for page in pages.PAGES if "<!-- run -->" in page.read_text(encoding="utf-8")}
    assert marked == set(RUN)
    run(["export", "--target", "onnx-int8", "--calibration", "tiles/"], capsys, monkeypatch)  # what `compare` names
    for page in RUN:
        for words in pages.runnable(pages.text(page)):
            run(words, capsys, monkeypatch)


@pytest.mark.slow
def test_examples_run_in_order(
    small_demo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [path.name[:2] for path in EXAMPLES] == [f"{number:02}" for number in range(1, len(EXAMPLES) + 1)]
    for path in EXAMPLES:
        assert f"[{path.name}]({path.name})" in pages.text("examples/README.md")
        monkeypatch.setattr(sys, "argv", [str(path)])
        monkeypatch.setattr(sys, "path", list(sys.path))
        for module in [name for name in sys.modules if name == "runner"]:
            del sys.modules[module]
        runpy.run_path(str(path), run_name="__main__")
        assert capsys.readouterr().out.strip(), path.name
    sys.modules.pop("runner", None)


# --- everything public is on a page


def test_every_public_name_is_documented() -> None:
    page = pages.text("docs/reference/python.md")
    documented = set(re.findall(r"^\.\. auto\w+:: edgepath\.(\w+)$", page, flags=re.MULTILINE))
    assert documented | {"EdgepathError", "__version__"} == set(edgepath.__all__)
    assert "edgepath.__version__" in page


def test_every_error_is_documented() -> None:
    from edgepath import errors

    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert all(f"`{name}`" in pages.text("docs/reference/errors.md") for name in classes - {"Iterable"})


def test_every_command_and_option_is_documented(generated: ModuleType) -> None:
    page = generated.cli()
    for words, command in pages.every_command():
        part = page.split(f"\n## edgepath {words}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            if "--help" in parameter.opts:
                continue
            assert getattr(parameter, "help", ""), (words, parameter.name)
            named = parameter.name.upper() if parameter.param_type_name == "argument" else parameter.opts[0]
            assert f"`{named}`" in part, (words, parameter.name)


def test_every_recipe_key_is_documented(generated: ModuleType) -> None:
    keys = {key: text for key, _, _, text in generated.recipe_keys()}
    assert [key for key, text in keys.items() if not text] == []

    def walk(value: Any, prefix: str = "") -> Iterator[str]:
        for key, inner in value.items():
            if isinstance(inner, dict):
                yield from walk(inner, f"{prefix}{key}.")
            elif inner and isinstance(inner, list) and isinstance(inner[0], dict):
                yield from walk(inner[0], f"{prefix}{key}[].")
            else:
                yield f"{prefix}{key}"

    used = {key for recipe in recipes().values() for key in walk(recipe.to_json())}
    assert used - {"deploy.plan"} <= set(keys)


def test_every_target_is_documented(generated: ModuleType) -> None:
    listed = re.findall(r"^\| `([a-z0-9-]+)` \| (?:FP|INT)", generated.checks(), flags=re.MULTILINE)
    assert listed == list(recipes())
    assert generated.checks() in generated.targets()
    choose = pages.text("docs/howto/choose-a-target.md")
    assert all(f"`{target}`" in choose for target in recipes())


def test_every_environment_variable_is_documented(checkout: Path) -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (checkout / "edgepath").rglob("*.py"))
    read = set(re.findall(r"environ(?:\.get\(|\[)\"(EDGEPATH_\w+)\"", source))
    assert read == {"EDGEPATH_CACHE"}
    assert all(f"`{name}`" in pages.text("docs/reference/environment.md") for name in read)


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = {
        (page.parent / line.strip()).resolve()
        for page in (pages.ROOT / "docs/index.md", *(pages.ROOT / "docs/measured").glob("*.md"))
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for line in block.splitlines()
        if line.strip() and not line.startswith(":")
    }
    on_site = {page.with_suffix("").resolve() for page in pages.SITE} - {(pages.ROOT / "docs/index").resolve()}
    assert on_site | {path.with_suffix("").resolve() for path in pages.NOTEBOOKS} <= listed


def test_pictures_are_drawn_from_their_text(checkout: Path) -> None:
    draw = runpy.run_path(str(checkout / "docs" / "_ext" / "diagram.py"))["draw"]
    texts = sorted((checkout / "docs" / "pictures").glob("*.txt"))
    assert len(texts) >= 2
    for path in texts:
        assert path.with_suffix(".svg").read_text(encoding="utf-8") == draw(path.read_text(encoding="utf-8")), path


def test_links_of_files_from_outside_stay_links(generated: ModuleType, checkout: Path) -> None:
    page = generated.outside(checkout / "CONTRIBUTING.md", checkout / "docs" / "_generated", checkout)
    assert "](security.md)" in page


def test_the_readmes_table_of_targets_is_current(generated: ModuleType) -> None:
    section = pages.text("README.md").split("## Targets\n")[1].split("\n## ")[0]
    assert "\n".join(line for line in section.splitlines() if line.startswith("|")) == generated.checks()


def test_no_target_is_said_to_have_run_where_another_runtime_ran_it() -> None:
    page = pages.text("docs/measured/not-run.md")
    for target, found in recipes().items():
        builds = builds_of(found.backend)
        stood_in = found.checked_with != found.backend
        assert bool(builds.stand_in) == stood_in == (not builds.ran_on) == (builds.checked_how != "running it"), target
        assert builds.ran_on or f"`{target}`" in page, f"{target} was not run, and is not on the page that says so"


@pytest.mark.parametrize("name", ["cli", "recipe", "targets", "results"])
def test_pages_from_code_are_current(generated: ModuleType, name: str) -> None:
    assert pages.text(f"docs/reference/{name}.md") == generated.reference()[name], "run make docs, and commit"


# --- figures


def kept(name: str) -> Any:
    return json.loads(pages.text(f"benchmarks/results/{name}.json"))


def short(value: float) -> str:
    return f"{value:.1e}".replace("e-0", "e-")


def test_figures_without_vnni_are_those_that_are_kept() -> None:
    figures, measured = kept("epyc-avx2"), pages.text("docs/measured/epyc-avx2.md")
    drift = re.findall(r"^\| `([a-z0-9-]+)`.*? \| (0\.9\d+) \| (0\.9\d+) \|", measured, flags=re.MULTILINE)
    assert len(drift) == 2
    for target, mean, low in drift:
        total = figures[f"{target} drift on 110 other tiles"]["total"]
        digits = len(mean) - 2
        assert (mean, low) == (f"{total['cosine_mean']:.{digits}f}", f"{total['cosine_p01']:.{digits}f}")
    latency = figures["latency, batch 1"]["ms"]
    for name in ("openvino-int8", "onnx-int8"):
        assert f"{latency[name]['p50']:.0f} ms" in measured, name
    for name, ratio in figures.items():
        if name.startswith("latency ratio "):
            assert f"{ratio:.2f} of" in measured, name
    roof = figures["roofline"]
    peaks, ours = ({name: value / 1e9 for name, value in roof["peaks"].items()}, roof["bundles"]["openvino-int8"])
    work = sum(ours["multiply_adds"].values()) / 1e9
    said = (
        f"{peaks['i8']:.0f} G multiply-adds a second beside {peaks['f32']:.0f} G, in one large product. At these peaks "
        f"the {work:.1f} G of a tile, {100 * ours['int8_share']:.0f} % of them in INT8, "
        f"take {ours['at_peak_ms']:.0f} ms of the {ours['measured_ms']:.0f} ms "
        f"that `openvino-int8` takes ({100 * ours['of_peak']:.1f} %)"
    )
    assert said in " ".join(measured.split())
    export = figures["export openvino-int8, 64 tiles"]
    assert f"{export['seconds']:.0f} s, {export['peak_gb']:.1f} GB" in measured


def test_figures_with_vnni_are_those_that_are_kept() -> None:
    figures, measured = kept("epyc-vnni"), pages.text("docs/measured/epyc-vnni.md")
    text, latency = " ".join(measured.split()), figures["latency, batch 1"]
    assert f"n = {latency['n']} at batch 1" in text
    for name in ("openvino-int8", "onnx-int8"):
        assert f"| `{name}` | {latency['ms'][name]['p50']:.0f} ms" in measured
    for name, ratio in figures.items():
        if name.startswith("latency ratio "):
            assert f"{ratio:.2f} of" in measured, name
    assert f"gets {figures['openvino-int8 over itself, beside ONNX Runtime']:.2f} of its own time" in text
    assert f"1/{figures['throughput ratio openvino-int8, batch 16 / single tiles']:.2f} of the time" in text
    roof = figures["roofline"]
    peaks = {name: f"{value / 1e9:.0f} G" for name, value in roof["peaks"].items()}
    assert f"takes {peaks['i8']} multiply-adds a second in INT8 and {peaks['f32']} in FP32" in text
    assert f"would take {roof['bundles']['openvino-int8']['at_peak_ms']:.0f} ms" in text
    ours, nncf = roof["bundles"]["openvino-int8"], latency["ms"]["NNCF default INT8 (OpenVINO)"]["p50"]
    linears = ours["int8_share"] * sum(ours["multiply_adds"].values())
    alone = [linears / peak * 1e3 for peak in (roof["peaks"]["i8"], 599e9)]
    said = f"alone would take {alone[0]:.0f} ms at that peak, {alone[1]:.0f} ms at the 599 G of an earlier run"
    assert f"{said}, and 0.80 of NNCF's {nncf:.0f} ms is {0.8 * nncf:.0f} ms" in text
    for name in ("openvino-int8", "OpenVINO FP32", "onnx-int8"):
        (memory,) = figures[f"peak memory of {name}"]
        assert re.search(rf"^\| `?{name}`? \|.*\| {memory['peak_bytes'] / 1e9:.2f} GB \|$", measured, re.MULTILINE), (
            name
        )
    start = figures["edgepath --help"]
    assert f"`edgepath --help` took {start['seconds']:.2f} s here, {start['ratio']:.2f} times" in text
    assert f"medians of {start['n']} in turn" in text
    beside, slides = figures["latency ratios, batch 1"], pages.text("docs/slides.md")
    assert f"takes {beside['openvino-int8 / openvino-int8-cls']:.2f} of the time of `openvino-int8-cls`" in text
    for path in ("procedural", "CMU-1-Small-Region"):
        assert f"{figures[f'slides: tiles/s from {path} over the artifact' + chr(39) + 's alone']:.2f} |" in slides
    assert f"in turn) | {figures['slides: two Ray workers of a thread over one']:.2f} |" in slides


def test_what_exports_took_is_what_was_measured() -> None:
    figures, measured = kept("epyc-vnni-exports"), pages.text("docs/measured/epyc-vnni.md")
    taken = {name.split(",")[0].split()[-1]: row for name, row in figures.items() if name.startswith("export ")}
    assert len(taken) == 6
    for target, row in taken.items():
        stages, drift = row["stages"], row["drift"]
        cells = [f"{seconds:.0f} s" for seconds in (row["seconds"], stages["lower"], stages["run artifact"])]
        cells += [short(drift[name]["1 - cosine"]) for name in ("lowering", "total")]
        assert f"| `{target}` | {' | '.join(cells)} | {drift['lowering']['tiles']} |" in measured


def test_what_exports_and_checks_cost_is_what_was_measured() -> None:
    figures, measured = kept("epyc-vnni-costs"), pages.text("docs/measured/epyc-vnni.md")
    exports = [row for name, row in figures.items() if name.startswith("export ")]
    assert len(exports) == 3
    for row in exports:
        assert f"| {row['seconds']:.0f} s | {row['peak_gb']:.1f} GB |" in measured
    over = {name.split()[0]: value for name, value in figures.items() if name.endswith("over its passes, demo")}
    assert len(over) == 5
    for check, value in over.items():
        tiles = figures[f"{check} beside its passes, demo, openvino-int8"]["tiles embedded"]
        assert re.search(rf"^\| `{check}\b.*\| {tiles:,} \| {value:.2f} \|", measured, re.MULTILINE), check
    seconds = figures["curves beside its passes, demo, openvino-int8"]["seconds of a core"]
    assert f"took {seconds:.0f} s of CPU time" in measured


@pytest.mark.parametrize(("page", "of"), [("other-tools", "epyc-avx2"), ("epyc-vnni", "epyc-vnni")])
def test_drift_beside_other_tools_is_what_was_measured(page: str, of: str) -> None:
    figures, text = kept(of), pages.text(f"docs/measured/{page}.md")
    measured = text.split("outlier channels | `demo`, trained |")[1]
    beside = re.findall(r"^\| .*? \| (\d\S*) \| (\d\S*) \| (\d\S*) \|$", measured, flags=re.MULTILINE)
    shown = sorted(float(value) for row in beside for value in row)
    rows = [row for key, row in figures.items() if key.startswith("drift, 1 - cosine mean")]
    assert shown == pytest.approx(sorted(value for row in rows for value in row.values()), rel=0.06)
    assert len(shown) == 15


def test_what_the_class_token_in_floating_point_changes_is_what_was_measured() -> None:
    figures, page = kept("epyc-avx2"), pages.text("docs/measured/epyc-avx2.md")
    table = page.split("## The class token in floating point")[1].split("\n## ")[0]
    targets = ("openvino-int8", "openvino-int8-cls")
    rows = re.findall(
        r"^\|.*?\| (?:program|artifact).*? \| (\S+e-\d) \| (\S+e-\d) \|(.*)\|$", table, flags=re.MULTILINE
    )
    wanted = []
    for kind in ("plain", "demo, trained"):
        found = figures[f"class token in floating point, {kind}"]
        times = " and ".join(f"{found[f'latency ratio, batch {batch}']:.2f}" for batch in (1, 4))
        for what, said in (("program", " "), ("artifact", f" {times} of `openvino-int8` ")):
            wanted.append((*(short(found[target][what]) for target in targets), said))
    assert rows == wanted


def test_what_a_budget_and_training_change_is_what_was_measured() -> None:
    figures, text = kept("epyc-avx2"), " ".join(pages.text("docs/measured/epyc-avx2.md").split())
    found = figures["search, onnx-int8 with outliers, 0.75 of INT8's drift allowed"]
    before, after = (short(found[f"drift of {what}"]) for what in ("INT8", "the mixed program"))
    assert f"`onnx-int8` keeps {found['speed-up kept']:.3f} of the milliseconds that INT8 gains over FP32" in text
    assert f"the drift falls from {before} to {after} (n = {found['n']};" in text
    artifacts = (short(found[f"drift of {what} artifact"]) for what in ("INT8's", "the mixed"))
    assert "falls from {} to {}.".format(*artifacts) in text
    assert (found["products kept"], found["of"]) == (7, 49)
    assert "seven of 49 linear layers stay in FP32" in text
    found = figures["qad, 200 steps on demo, program drift on 32 tiles of each tissue"]
    table = pages.text("docs/measured/qad.md")
    rows = re.findall(r"^\| ([\w ,]+) \| (\S+e-\d) \| (\S+e-\d) \| (\S+e-\d) \|$", table, flags=re.MULTILINE)
    ways = ("openvino-int8", "openvino-int8-cls", "trained")
    assert rows == [(tissue, *(short(found[way][tissue]) for way in ways)) for tissue in found["trained"]]


def test_what_tuning_changes_is_what_was_measured() -> None:
    rows = re.findall(
        r" \| (\S+e-\d) \| (\S+e-\d) \| (\S+e-\d) \|$", pages.text("docs/measured/tuning.md"), re.MULTILINE
    )
    text = json.dumps(kept("epyc-avx2-tuning"))
    measured = {short(float(value)) for value in re.findall(r"\d\.\d+e-\d+|0\.0\d+", text)}
    assert len(rows) == 3
    assert {value for row in rows for value in row} <= measured


def test_the_demo_students_figures_are_those_that_ship() -> None:
    facts = json.loads(pages.text("edgepath/shipped/demo/figures.json"))
    page = pages.text("docs/measured/demo-model.md")
    for name in ("student", "teacher", "random weights", "colour histogram"):
        found = facts["figures"][name]
        sets, ways = ("osteosarcoma", "oral_oscc"), ("knn", "linear")
        values = [f"{found[labelled][way]['balanced_accuracy']:.2f}" for labelled in sets for way in ways]
        assert f"| {' | '.join([name, *values])} |" in page
    part = " ".join(page.split())
    of, random = (facts["figures"][name]["scanners4_registered_cyto"] for name in ("student", "random weights"))
    assert f"{of['top1']:.0%} of".replace("%", " %") in part
    assert f"{of['top10']:.0%} among the first ten".replace("%", " %") in part
    assert f"(random weights: {100 * random['top1']:.0f} and {100 * random['top10']:.0f} %)" in part
    minutes = [f"{facts[name]['seconds'] / 60:.1f}" for name in ("teacher", "student")]
    assert f"{minutes[0]} minutes of an NVIDIA H200 (teacher) and {minutes[1]} of two CPU cores (student)" in part
    both = (facts["teacher"]["seconds"] + facts["student"]["seconds"]) / 60
    assert f"took {both:.0f} minutes to train" in part


def test_figures_of_other_machines_are_those_that_are_kept() -> None:
    rows = {(row["name"], row["batch"]): row for row in kept("nvidia-h200/h0-mini")["results"]}
    page = pages.text("docs/measured/nvidia-h200.md")
    shown = re.findall(r"^\| ([\w, ]+) \| (\S+) ms \| (\S+) ms \| (\S+) ms \| (\d+) \|$", page, flags=re.MULTILINE)
    assert len(shown) == 5
    for name, *times, speed in shown:
        found = [rows[f"torch {name}", batch] for batch in (1, 16, 256)]
        assert [float(time) for time in times] == [float(f"{row['latency_ms']['p50']:.3g}") for row in found]
        assert speed == f"{found[-1]['tiles_per_s']:.0f}"
        assert [row["n"] for row in found] == [20, 20, 10]
    edge = kept("epyc-avx2")["latency, batch 1"]["ms"]["onnx-int8"]["p50"]
    assert f"{edge / rows['torch FP32', 1]['latency_ms']['p50']:.0f} times what FP32 takes here" in page
    (row,) = (row for row in kept("intel-xeon-vnni/demo-onnx-int8")["results"] if row["name"] == "demo-onnx-int8")
    assert row["n"] == 20
    full, static, dynamic = (f"{ratio['p50']:.2f}" for ratio in row["ratios"])
    said = pages.text("docs/measured/intel-xeon-vnni.md")
    assert f"took {full} of FP32, {static} of ONNX Runtime's static INT8, {dynamic} of its dynamic INT8" in said


def test_the_demos_robustness_is_that_of_the_weights_that_ship() -> None:
    figures = kept("robustness-demo")
    assert figures["weights"] == weights.load_model(catalogue.find_model("demo"))[2].sha256
    page = pages.text("docs/measured/robustness.md")
    for group, called in (("scanner", "the scanner"), ("staining", "the staining"), ("both", "both")):
        cells = []
        for name in ("full precision", "openvino-fp16", "openvino-int8", "onnx-int8"):
            of = figures["synthetic"][name]
            of = of.get("figures", of)[group]
            cells.append(" / ".join(f"{_median(of[key]):.{digits}f}" for key, digits in (("cosine", 4), ("top1", 3))))
        assert f"| {called} | {' | '.join(cells)} |" in page


def test_what_merging_tokens_costs_is_what_was_measured() -> None:
    figures, page = kept("less-work"), pages.text("docs/measured/less-work.md")
    for name, of in figures["curve, demo"].items():
        assert f"| {name} | {of['work']:.2f} | {of['cosine_mean']:.5f} | {of['cosine_p01']:.5f} |" in page
    for name, gates in figures["accept, demo"].items():
        cosines = [f"{gate['measured']:.4f}" for gate in gates["drift"]]
        assert f"| {name} | {' | '.join(cosines)} |" in page
        assert all(gate["verdict"] != "inferior" for of in gates.values() for gate in of)
    times = figures["latency by hand, h0-mini"]
    for name in ("24 from block 4", "28 from block 5"):
        shares = [f"{times[f'{name}, int8, {form}']['of plain']:.2f}" for form in ("gathered", "products")]
        assert f" | {' | '.join(shares)} | " in page


def _median(value: Any) -> float:
    return float(value["median"] if isinstance(value, dict) else value)

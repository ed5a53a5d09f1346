"""Each measurement as a section: its figures are those of the result, its gates those that were applied."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from test_rendering import EVIL, Tags

from edgepath.checks.gates import Gate
from edgepath.checks.verdicts import Verdict
from edgepath.reports.page.measured import (
    curves_section,
    devices_section,
    genes_section,
    latency_section,
    probe_section,
    robustness_section,
    tasks_section,
)

Measured = dict[str, Any]


def test_robustness_shows_medians_maps_and_every_gate(measured: Measured) -> None:
    result = measured["robustness"]
    made = robustness_section(result)
    text = Tags(made.body).text
    assert "3 locations on 4 slides" in text
    for model in ("full precision", "artifact"):
        for group in result["figures"][model].values():
            assert f"{group['top10']['median']:.4f}" in text
    assert made.body.count('<table class="heat">') == 6
    assert len(made.gates.rows) == len(result["gates"])
    assert [row[-1] for row in made.gates.rows] == [Verdict(gate["verdict"]) for gate in result["gates"]]
    assert "3 locations" in text  # of three places, no loss can be said to be small
    assert "? inconclusive" in text
    looks = result["slides"]["looks"]
    assert looks == {f"{a}_{b}": [a, b] for a in ("GMH", "KR") for b in ("AT2", "S60")}


def test_curves_show_a_plot_each_and_its_end(measured: Measured) -> None:
    made = curves_section(measured["curves"])
    assert re.findall(r'<text class="title"[^>]*>([^<]+)', made.body) == [
        c["name"] for c in measured["curves"]["curves"]
    ]
    assert made.body.count("<polyline") == 4 * len(measured["curves"]["curves"])
    last = measured["curves"]["curves"][0]["figures"]["artifact"][-1]["cosine"]
    assert f"{last:.4f}" in Tags(made.body).text
    assert not made.gates


def test_tasks_show_scores_intervals_and_flips(measured: Measured) -> None:
    result = copy.deepcopy(measured["probe"])
    flip = {"tile": EVIL, "method": "knn", "label": "benign", "full precision": "benign", "artifact": "malign"}
    result["flips"] = [flip] * 50
    made = tasks_section(result)
    read = Tags(made.body)
    assert read.tags.count("circle") == 8  # two figures of two probes on two models
    for of in result["scores"].values():
        for score in of.values():
            assert f"{score['auroc']:.3f} ({score['auroc_low']:.3f} to {score['auroc_high']:.3f})" in read.text
    assert "Predictions that changed: 50" in read.text
    assert read.text.count(EVIL) == 40
    assert "and 10 more" in read.text
    assert "script" not in read.tags
    assert len(made.gates.rows) == len(result["gates"])


def test_genes_show_both_models_by_task_and_every_gate(measured: Measured) -> None:
    result = measured["hest"]
    made = genes_section(result)
    read = Tags(made.body)
    assert made.kind == "genes"
    assert made.title == f"Gene expression: {result['source']['name']}"
    assert f"{result['source']['count']} patches" in read.text
    assert "10 principal components" in read.text
    for task in result["tasks"]:
        full, artifact = (task["scores"][model] for model in ("full precision", "artifact"))
        for score in (full, artifact):
            assert f"{score['pearson']:.4f} ± {score['std']:.4f}" in read.text
        assert f"{full['pearson'] - artifact['pearson']:+.4f}" in read.text
    assert read.tags.count("circle") == 3 * len(result["tasks"])  # two models, and what was lost
    assert [row[1] for row in made.gates.rows] == [gate["of"] for gate in result["gates"]]
    assert [row[-1] for row in made.gates.rows] == [Verdict(gate["verdict"]) for gate in result["gates"]]
    assert set(result["notes"]) == set(made.notes)


def test_dots_of_tasks_stand_where_the_axis_says(measured: Measured) -> None:
    result = copy.deepcopy(measured["hest"])
    result["tasks"] = result["tasks"][:1]
    for name, value in (("full precision", 0.45), ("artifact", 0.35)):
        result["tasks"][0]["scores"][name] |= {"pearson": value, "std": 0.1}
    body = genes_section(result).body
    axis = [float(label) for label in re.findall(r'text-anchor="middle">([^<]+)<', body)][:5]
    assert axis == [0.2, 0.3, 0.4, 0.5, 0.6]
    across = [float(x) for x in re.findall(r'text x="([\d.]+)" y="[\d.]+" text-anchor="middle"', body)][:5]
    dots = [float(x) for x in re.findall(r'circle class="\w+" cx="([\d.]+)"', body)][:2]
    for dot, share in zip(dots, (0.625, 0.375), strict=True):
        assert dot == pytest.approx(across[0] + share * (across[-1] - across[0]), abs=0.1)


def test_genes_are_folded_and_names_stay_text(measured: Measured) -> None:
    result = copy.deepcopy(measured["hest"])
    gene = {"gene": EVIL, "full precision": 0.5, "artifact": 0.3, "lost": 0.2}
    result["tasks"][0] |= {"task": EVIL, "genes": [gene] * 50}
    made = genes_section(result)
    read = Tags(made.body)
    assert "script" not in read.tags
    assert read.tags.count("details") == 1
    assert made.body.index("<details>") < made.body.index(">gene that lost most<")
    assert "Genes that lost most: 20" in read.text
    assert "0.2000" in read.text
    result["tasks"] = [task | {"genes": [gene | {"lost": -0.1}]} for task in result["tasks"]]
    assert "<details>" not in genes_section(result).body  # no gene lost anything


def test_what_probe_found_is_told_by_what_it_holds(measured: Measured) -> None:
    assert probe_section(measured["hest"]).kind == "genes"
    assert probe_section(measured["probe"]).kind == "tasks"


def test_latency_tells_what_bench_measured_and_its_gates(measured: Measured) -> None:
    result = measured["bench"]
    made = latency_section(result)
    text = Tags(made.body).text
    row = result["results"][0]
    assert f"{row['ratio']['p50']:.2f} of {row['ratio']['against']}" in text
    assert [row[0] for row in made.gates.rows] == [gate["gate"] for gate in result["gates"]]
    for verdict in Verdict:
        told = {"verdict": verdict.value, "passed": verdict is not Verdict.INFERIOR}
        gates = [gate | told for gate in result["gates"]]
        compared = {"baseline": "b.json", "worse": 1.1, "rows": [{"times": 1.25}], **told}
        made = latency_section(result | {"gates": gates, "compared": compared})
        assert {row[-1] for row in made.gates.rows} == {verdict}
        assert len(made.gates.rows) == 2
        assert "1.250" in Tags(made.body).text


def test_latency_leaves_out_what_is_not_said() -> None:
    bare = {"results": [{"name": EVIL, "latency_ms": {}}]}
    read = Tags(latency_section(bare).body)
    assert EVIL in read.text
    assert "machine: not named" in read.text
    assert "script" not in read.tags


@pytest.mark.parametrize("passed", [True, False])
def test_a_device_that_failed_is_a_failed_gate(passed: bool) -> None:
    drift = {name: {"cosine_mean": 0.9, "cosine_p01": 0.8} for name in ("total", "lowering")}
    report = {
        "measured_at": "2030-01-01",
        "device": {"board": "<a board>"},
        "ran_with": "TensorRT",
        "drift": drift,
        "latency": {"p50_ms": 1.0, "p99_ms": 2.0},
        "passed": passed,
    }
    made = devices_section([report])
    assert [row[-1] for row in made.gates.rows] == [passed]
    assert "&lt;a board&gt;" in made.body
    assert ('<td class="ok">✓ ok</td>' in made.body, '<td class="failed">✗ FAILED</td>' in made.body) == (
        passed,
        not passed,
    )


@pytest.mark.parametrize(("top1", "top10", "shown"), [(0.05, 0.4, "Top-10"), (0.7, 1.0, "Top-1")])
def test_the_share_that_tells_more_is_mapped(top1: float, top10: float, shown: str, measured: Measured) -> None:
    result = copy.deepcopy(measured["robustness"])
    gate = Gate("loss", "top10", "all", 0.0, 0.01, True, Verdict.NON_INFERIOR)
    result["gates"].append(gate.to_json())  # so few places have none
    for name, value in (("top1", top1), ("top10", top10)):
        result["figures"]["full precision"]["all"][name]["median"] = value
    assert re.findall(r"<h3>(\S+) by staining", robustness_section(result).body) == ["Cosine", shown]

"""README: one screen, and everything in it is there and true. Its commands are held with those of all pages."""

from __future__ import annotations

import json
import re
from typing import Any

import pages
import pytest

import edgepath

README = pages.text("README.md")
INT8_OVER_FP32 = "openvino-int8 / OpenVINO FP32"


def test_it_is_one_screen() -> None:
    assert len(README.splitlines()) <= 150
    assert len(README.split()) <= 1200


def test_both_first_commands_are_shown() -> None:
    assert pages.commands(README, "make")[:2] == [["demo"], ["test"]]


def test_a_stranger_gets_from_install_to_a_page() -> None:
    shown = [words[:2] if words[0] in ("report", "pack") else words[:1] for words in pages.commands(README, "edgepath")]
    wanted = [["doctor"], ["export"], ["verify"], ["robustness"], ["report", "page"], ["pack", "build"], ["slides"]]
    assert [words for words in shown if words in wanted][:5] == wanted[:5]
    assert all(words in shown for words in wanted)


def test_python_example_uses_public_names() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    compile(example, "README.md", "exec")
    assert set(re.findall(r"edgepath\.(\w+)\(", example)) <= set(edgepath.__all__)
    statements = [line for line in example.splitlines() if line.strip() and "import" not in line]
    assert len(statements) <= 6


def test_five_results_are_those_that_are_kept() -> None:
    def kept(name: str) -> Any:
        return json.loads(pages.text(f"benchmarks/results/{name}.json"))

    figures = kept("epyc-avx2")
    trained = figures["drift, 1 - cosine mean on 32 other tiles, demo, trained, openvino"]
    table = README.split("## What it achieves")[1].split("\n## ")[0]
    assert table.count("\n|") == 7

    def short(value: float) -> str:
        return f"{value:.1e}".replace("e-0", "e-")

    theirs = trained["NNCF default INT8 (OpenVINO)"]
    assert f"1 - cosine {short(trained['openvino-int8'])}; NNCF's default INT8: {short(theirs)}" in table
    assert f"{figures['latency ratio onnx-int8 / onnx-fp32']:.2f} of FP32's time" in table
    assert f"is **slower** ({figures['latency ratio openvino-int8 / OpenVINO FP32']:.2f})" in table
    export = figures["export openvino-int8, 64 tiles"]
    assert f"{export['seconds']:.0f} s and {export['peak_gb']:.1f} GB" in table
    cost = kept("epyc-vnni-costs")["export openvino-int8, 64 tiles, empty cache"]
    assert f"for `openvino-int8`, {cost['seconds']:.0f} s with VNNI;" in table
    vnni = kept("epyc-vnni")
    ours, onnx = (f"{vnni[f'latency ratio {pair}']:.2f}" for pair in (INT8_OVER_FP32, "onnx-int8 / onnx-fp32"))
    assert f"{ours} of FP32's time (`openvino-int8`), {onnx} (`onnx-int8`) |" in table.split("with VNNI?")[1]


@pytest.mark.parametrize("word", ["bundle", "recipe", "drift", "gate", "golden set", "lowering"])
def test_words_are_defined(word: str) -> None:
    assert f"- **{word.capitalize()}**: " in README
    assert re.search(rf"^{word.capitalize()}", pages.text("docs/reference/glossary.md"), flags=re.MULTILINE)

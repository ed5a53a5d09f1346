"""`tools/same_bundles.py` tells programs that are equal bit for bit from others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tools.same_bundles import main


def bundle(folder: Path, *, scale: float = 0.5, program: float = 1.0, reference: float = 1.0) -> None:
    (folder / "golden").mkdir(parents=True)
    (folder / "bundle.json").write_text(json.dumps({"program": {"a.qkv": [scale, 0.25]}}), encoding="utf-8")
    for name, value in (("program", program), ("reference", reference)):
        np.savez(folder / "golden" / f"{name}.npz", embeddings=np.full((2, 3), value, np.float32))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "equal"),
        ({"scale": 0.5000001}, "scales of 1 layers, first a.qkv"),
        ({"program": float(np.nextafter(np.float32(1), np.float32(2)))}, "program.npz"),
        ({"reference": -1.0, "scale": 2.0}, "scales of 1 layers, first a.qkv; reference.npz"),
    ],
    ids=["same", "scale", "last bit", "two"],
)
def test_a_line_says_what_differs(
    changed: dict[str, float], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle(tmp_path / "before" / "demo-a")
    bundle(tmp_path / "before" / "demo-b")
    bundle(tmp_path / "after" / "demo-a", **changed)
    assert main(tmp_path / "before", tmp_path / "after") == bool(changed)
    assert capsys.readouterr().out == f"demo-a: {said}\n"


def test_nothing_in_common_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle(tmp_path / "before" / "demo-a")
    assert main(tmp_path / "before", tmp_path / "after") == 1
    assert "no bundle is both in" in capsys.readouterr().out

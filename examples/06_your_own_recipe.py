"""Write a recipe: a stricter gate, and the class token in floating point."""

from dataclasses import replace
from pathlib import Path

import edgepath

base = edgepath.find_recipe("openvino-int8")
mine = replace(
    base,
    target="openvino-strict",
    quantize=replace(base.quantize, class_token="float"),
    accept=replace(base.accept, cosine_mean=0.999),
)
Path("openvino-strict.toml").write_text(mine.to_toml(), encoding="utf-8")

done = edgepath.export(
    "openvino-strict.toml", calibration="synthetic:64", calibration_tiles=32, out="build", force=True
)
print(done.bundle.path, f"1 - cosine = {1 - done.report['drift']['total']['cosine_mean']:.1e}")

"""What a bundle is made of is said in CycloneDX, by whose schema it is held, and by the hashes of the bundle itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from edgepath.bundle.bom import bom
from edgepath.exporting import Exported, export
from edgepath.models.catalogue import ModelSpec
from edgepath.tiles.synthetic import synthesize

Exports = Callable[[str], Exported]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx-int8", "onnx-fp32"])
def test_a_bundle_carries_a_bill_of_materials_of_the_schema(exports: Exports, target: str) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json")
    from cyclonedx.schema import SchemaVersion

    bundle = exports(target).bundle
    text = (bundle.path / "bom.json").read_text(encoding="utf-8")
    assert validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    found = json.loads(text)
    parts = {part["bom-ref"]: part for part in found["components"]}
    assert found["metadata"]["component"]["name"] == bundle.name
    assert parts["weights"]["hashes"] == [{"alg": "SHA-256", "content": bundle.weights.sha256}]
    assert parts["weights"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert parts["held_out"]["hashes"][0]["content"] == bundle.manifest["held_out"]["sha256"]
    assert ("calibration" in parts) == (target == "onnx-int8")
    assert parts["file:model.onnx"]["hashes"][0]["content"] == bundle.manifest["files"]["model.onnx"]["sha256"]
    assert {part["name"]: part["version"] for part in found["components"] if part["type"] == "library"} == {
        name: version for name, version in bundle.manifest["versions"].items() if name != "python"
    }
    (model,) = [one for one in found["dependencies"] if one["ref"] == "bundle"]
    assert set(model["dependsOn"]) <= parts.keys()
    assert bom(bundle.path, bundle.manifest) == found  # nothing in it is of the hour or the machine


@pytest.mark.slow
def test_the_sources_of_tiles_are_listed_with_their_licences(known_tiny: ModelSpec, tmp_path: Path) -> None:
    """As the table beside the tiles names them; a tile without a licence there is in none of them."""
    validation = pytest.importorskip("cyclonedx.validation.json")
    from cyclonedx.schema import SchemaVersion

    folder = tmp_path / "tiles"
    folder.mkdir()
    lines = ["path,group,licence"]
    for number, tile in enumerate(synthesize(64, seed=3)):
        Image.fromarray(tile).save(folder / f"{number:02}.png")
        group, licence = (("atlas", "CC0 1.0"), ("ring", "MIT (LICENSE)"), ("ours", ""))[number % 3]
        lines.append(f"{number:02}.png,{group},{licence}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    bundle = export(
        "onnx-int8",
        model="tiny",
        weights="random",
        calibration=folder,
        calibration_tiles=32,
        out=tmp_path,
        device="cpu",
    ).bundle
    text = (bundle.path / "bom.json").read_text(encoding="utf-8")
    assert validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    found = json.loads(text)
    sources = [part for part in found["components"] if ":" in part["bom-ref"] and part["type"] == "data"]
    assert {(part["name"], json.dumps(part["licenses"])) for part in sources} == {
        ("atlas", '[{"license": {"id": "CC0-1.0"}}]'),
        ("ring", '[{"license": {"id": "MIT"}}]'),
    }
    licensed = [key for key in bundle.manifest["held_out"]["keys"] if int(key[:2]) % 3 != 2]
    assert sum(part["tiles"] for part in bundle.manifest["held_out"]["datasets"]) == len(licensed) > 0
    assert {part["bom-ref"].partition(":")[0] for part in sources} == {"calibration", "held_out"}
    (model,) = [one for one in found["dependencies"] if one["ref"] == "bundle"]
    assert {part["bom-ref"] for part in sources} <= set(model["dependsOn"])


@pytest.mark.parametrize(
    ("licence", "wanted"),
    [
        ("CC-BY-NC-ND-4.0, gated", {"id": "CC-BY-NC-ND-4.0"}),
        ("CC0 1.0 (LICENSE)", {"id": "CC0-1.0"}),
        ("CC BY 3.0 (TCIA, quoted in README)", {"id": "CC-BY-3.0"}),
        ("MIT text (licence.txt)", {"name": "MIT text (licence.txt)"}),
        ("of our own", {"name": "of our own"}),
        (None, {"name": "not stated"}),
    ],
)
def test_licences_are_named_as_spdx_does_where_it_does(licence: str | None, wanted: dict[str, str]) -> None:
    from edgepath.bundle.bom import _licences

    assert _licences(licence) == [{"license": wanted}]

"""What a bundle is made of is said in CycloneDX, by whose schema it is held, and by the hashes of the bundle itself."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from edgepath.bundle.bom import bom
from edgepath.exporting import Exported

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


@pytest.mark.parametrize(
    ("licence", "wanted"),
    [
        ("CC-BY-NC-ND-4.0, gated", {"id": "CC-BY-NC-ND-4.0"}),
        ("of our own", {"name": "of our own"}),
        (None, {"name": "not stated"}),
    ],
)
def test_licences_are_named_as_spdx_does_where_it_does(licence: str | None, wanted: dict[str, str]) -> None:
    from edgepath.bundle.bom import _licences

    assert _licences(licence) == [{"license": wanted}]

"""What a bundle is made of, as other tools read it: `bom.json`, a machine-learning bill of materials (CycloneDX 1.6).

Written here as plain JSON: the few parts that are used take less than the library for it, which would come with eight
packages; the tests hold what is written against CycloneDX's own schema. It says nothing of when or where, so that the
same export writes the same file.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._version import __version__
from .bundle import sha256

BOM = "bom.json"
Json = dict[str, Any]  # an object of CycloneDX's schema
_SPDX = {"Apache-2.0", "MIT", "BSD-3-Clause", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0"}
_SPDX |= {"CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-NC-ND-4.0", "CC0-1.0"}


def write_bom(folder: Path, report: Mapping[str, Any]) -> None:
    """Write the bill of materials into a bundle's folder, where the artifact is, by what the bundle says of itself."""
    (folder / BOM).write_text(json.dumps(bom(folder, report), indent=2) + "\n", encoding="utf-8")


def bom(folder: Path, report: Mapping[str, Any]) -> Json:
    """Return the bill of materials, JSON-able: the artifact, its model and weights, data sets, and what built it."""
    weights, data, files = _weights(report), _data(report), _files(folder, report["artifact"]["file"])
    libraries = [_library(name, version) for name, version in report["versions"].items() if name != "python"]
    parts = [weights, *data, *files, *libraries]
    seed = json.dumps([report["name"], weights["hashes"], report["recipe"], files], sort_keys=True)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, seed)}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "edgepath", "version": __version__}]},
            "component": _artifact(report, data),
        },
        "components": parts,
        "dependencies": [
            {"ref": "bundle", "dependsOn": [part["bom-ref"] for part in (weights, *data, *files)]},
            *({"ref": part["bom-ref"]} for part in parts),
        ],
    }


def _artifact(report: Mapping[str, Any], data: list[Json]) -> Json:
    model, contract, recipe = report["model"], report["contract"], report["recipe"]
    size, dim = contract["size"], contract["dim"]
    total = report["drift"]["total"] or {}
    figures = [
        {"type": name, "value": repr(total[name]), "slice": f"{total['tiles']} held-out tiles"}
        for name in ("cosine_mean", "cosine_p01", "relative_l2")
        if name in total
    ]
    return {
        "type": "machine-learning-model",
        "bom-ref": "bundle",
        "name": report["name"],
        "description": f"{recipe['target']}: RGB tile to embedding, {recipe['backend']}",
        "licenses": _licences(model.get("licence")),
        "modelCard": {
            "modelParameters": {
                "task": "feature-extraction",
                "architectureFamily": "vision transformer",
                "modelArchitecture": str(model.get("timm_name", model["name"])),
                "datasets": [{"ref": component["bom-ref"]} for component in data],
                "inputs": [{"format": f"uint8 (N, {size}, {size}, 3)"}],
                "outputs": [{"format": f"float32 (N, {dim})"}],
            },
            "quantitativeAnalysis": {"performanceMetrics": figures},
            "considerations": {"technicalLimitations": list(report["cautions"])},
        },
        "properties": [{"name": "edgepath:passed", "value": str(report["passed"]).lower()}],
    }


def _weights(report: Mapping[str, Any]) -> Json:
    model, weights = report["model"], report["weights"]
    return {
        "type": "machine-learning-model",
        "bom-ref": "weights",
        "name": model["name"],
        "description": f"weights: {weights['source']}",
        "licenses": _licences(model.get("licence")),
        "hashes": [{"alg": "SHA-256", "content": weights["sha256"]}],
    }


def _data(report: Mapping[str, Any]) -> list[Json]:
    components = []
    for use in ("calibration", "held_out"):
        if tiles := report[use]:
            about = f"{tiles['count']} tiles of {tiles['size']} px, {use.replace('_', ' ')}, from a {tiles['kind']}"
            components.append(
                {
                    "type": "data",
                    "bom-ref": use,
                    "name": str(tiles["name"]),
                    "description": about,
                    "hashes": [{"alg": "SHA-256", "content": tiles["sha256"]}],
                    "data": [{"type": "dataset", "name": str(tiles["name"])}],
                }
            )
            components += [_dataset(use, number, part) for number, part in enumerate(tiles.get("datasets", ()), 1)]
    return components


def _dataset(use: str, number: int, dataset: Mapping[str, Any]) -> Json:
    """Return one of the sources that tiles come from, with the licence that the table beside them names."""
    return {
        "type": "data",
        "bom-ref": f"{use}:{number}",
        "name": dataset["name"],
        "description": f"{dataset['tiles']} of the tiles, {use.replace('_', ' ')}",
        "licenses": _licences(dataset["licence"]),
        "data": [{"type": "dataset", "name": dataset["name"]}],
    }


def _files(folder: Path, artifact: str) -> list[Json]:
    path = folder / artifact
    inside = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.stem}.*")
    names = sorted(file.relative_to(folder).as_posix() for file in inside if file.is_file())
    return [
        {
            "type": "file",
            "bom-ref": f"file:{name}",
            "name": name,
            "hashes": [{"alg": "SHA-256", "content": sha256(folder / name)}],
        }
        for name in names
    ]


def _library(name: str, version: str) -> Json:
    plain = re.sub(r"[-_.]+", "-", name).lower()
    return {
        "type": "library",
        "bom-ref": f"pypi:{plain}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{plain}@{version.replace('+', '%2B')}",
    }


def _licences(licence: object) -> list[Json]:
    """Return a licence as CycloneDX has it: by its SPDX id where that is known, else by what is said of it."""
    name = str(licence or "not stated")
    known = re.split(r",| \(", name)[0].strip().replace(" ", "-")
    return [{"license": {"id": known} if known in _SPDX else {"name": name}}]

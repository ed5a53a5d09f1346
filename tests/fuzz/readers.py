"""Every reader of files that come from others: seeds that it takes, and how it is called on a damaged one."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import importlib.util
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

TESTS = Path(__file__).resolve().parent.parent
SIZE, DIM = 8, 3
KEYS = ["a", "b", "c", "d"]
FLOOR = {"tiles": 4, "neighbours": 3, "worst": []} | dict.fromkeys(
    ("cosine_mean", "cosine_p01", "cosine_min", "relative_l2", "neighbour_overlap"), 1.0
)


@dataclass(frozen=True)
class Reader:
    """`seeds` are whole files by suffix; `read` is given the folder it may use and the bytes of a damaged one.

    `share` is its part of the time, more than 1 where another process reads each file first.
    """

    name: str
    seeds: Callable[[], dict[str, bytes]]
    read: Callable[[Path, str, bytes], object]
    share: float = 1


def _saved(save: Callable[[Any], object]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def _within(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _tiles() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)


# --- bundles


def _recipe() -> dict[str, Any]:
    from edgepath.recipes.recipe import find_recipe

    return find_recipe("onnx-int8").to_json()  # type: ignore[return-value]


@cache
def _files() -> dict[str, bytes]:
    rows = _tiles().mean(axis=(1, 2)).astype(np.float32)
    kit = (TESTS.parent / "export" / "kit" / "check.py").read_bytes()
    return {
        "model.onnx": b"onnx",
        "golden/tiles.npz": _saved(lambda file: np.savez_compressed(file, tiles=_tiles())),
        "golden/reference.npz": _saved(lambda file: np.savez(file, embeddings=rows)),
        "golden/program.npz": _saved(lambda file: np.savez(file, embeddings=rows)),
        "calibration.csv": b"path,sha256_pixels\na," + b"0" * 64 + b"\n",
        "ranges.npz": _saved(
            lambda file: np.savez(
                file, tiles=np.int64(4), **{"absmax/a": rows[0], "strength/a": np.ones(2), "limit/a": np.float64(1)}
            )
        ),
        "kit/check.py": kit,
    }


def _manifest(files: dict[str, bytes]) -> dict[str, Any]:
    return {
        "schema": 1,
        "name": "tiny-onnx-int8",
        "model": {"name": "tiny", "licence": "Apache-2.0", "mean": [0.5] * 3, "std": [0.5] * 3},
        "recipe": _recipe(),
        "artifact": {"file": "model.onnx", "size_bytes": 4},
        "contract": {"size": SIZE, "dim": DIM, "tokens": False, "embedding": "cls"},
        "weights": {"source": "here", "sha256": "0" * 64, "random": True},
        "held_out": {"kind": "folder", "name": "x", "count": 4, "keys": KEYS},
        "drift": {"noise_floor": FLOOR, "total": FLOOR, "quantization": FLOOR, "lowering": FLOOR},
        "program": {"a": [0.5, 0.25]},
        "calibration": None,
        "reference": "torch",
        "cautions": ["mind"],
        "versions": {"numpy": "2"},
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)} for name, data in files.items()
        },
    }


def _write(folder: Path, files: dict[str, bytes], manifest: bytes | None = None) -> Path:
    bundle = folder / "bundle"
    for name, data in files.items():
        path = bundle / name
        if not path.exists() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    (bundle / "bundle.json").write_bytes(manifest or json.dumps(_manifest(files)).encode())
    return bundle


def _use(path: Path) -> None:
    """Open a bundle, and use what stands in it as commands do."""
    from edgepath.bundle.bundle import calibrated_on, open_bundle

    bundle = open_bundle(path)
    assert bundle.recipe, bundle.golden()
    bundle.golden_embeddings("program")
    calibrated_on(bundle)


def _read_manifest(folder: Path, suffix: str, raw: bytes) -> None:
    _use(_write(folder, _files(), raw))


def _read_in_bundle(folder: Path, name: str, raw: bytes) -> None:
    from edgepath.bundle.bundle import open_bundle

    path = _write(folder, _files() | {name: raw})
    if name == "ranges.npz":
        from edgepath.program.rebuilding import _ranges

        _ranges(open_bundle(path))
    else:
        _use(path)


def _in_bundle() -> dict[str, bytes]:
    return {name: data for name, data in _files().items() if name.endswith((".npz", ".csv"))}


@cache
def _check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kit_check", TESTS.parent / "export" / "kit" / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _read_kit(folder: Path, name: str, raw: bytes) -> None:
    check = _check()
    path = _write(folder, _files(), raw) if name == ".json" else _write(folder, _files() | {name: raw})
    manifest, _, _ = check.open_bundle(path)
    check.golden(path, manifest)
    drifts = {"total": check.drift(np.ones((4, DIM)), np.ones((4, DIM)), manifest["held_out"]["keys"])}
    json.dumps(check.judge(manifest["recipe"]["accept"], drifts["total"]), allow_nan=False)


def _golden() -> dict[str, bytes]:
    facts = {
        "schema": 1,
        "model": {"mean": [0.5] * 3, "std": [0.5] * 3},
        "weights": {"sha256": "0" * 64},
        "embedding": "cls",
        "runtime": "torch",
    }
    rows = _tiles().mean(axis=(1, 2)).astype(np.float32)
    arrays = {"tiles": _tiles(), "embeddings": rows, "keys": np.array(KEYS), "facts": np.array(json.dumps(facts))}
    saves = {".npz": np.savez, "compressed.npz": np.savez_compressed}
    return {name: _saved(lambda file, save=save: save(file, **arrays)) for name, save in saves.items()}


@cache
def _bundle(folder: Path) -> Any:
    from edgepath.bundle.bundle import open_bundle

    (folder / "whole").mkdir(exist_ok=True)
    return open_bundle(_write(folder / "whole", _files()))


def _read_golden(folder: Path, suffix: str, raw: bytes) -> None:
    from edgepath.checks.golden import open_golden

    (folder / "golden.npz").write_bytes(raw)
    open_golden(folder / "golden.npz", _bundle(folder))


def _report(folder: Path) -> dict[str, Any]:
    cosines = {"cosine_mean": 1.0, "cosine_p01": 0.5}
    return {
        "schema": 1,
        "bundle": {"name": "tiny", "target": "x", "sha256": _bundle(folder).digest},
        "passed": True,
        "drift": {"total": cosines, "lowering": cosines},
        "gates": [{"gate": "cosine_mean", "measured": 0.5, "passed": True}],
        "latency": {"batch": 1, "n": 5, "p50_ms": 0.5, "p90_ms": 0.5, "p95_ms": 0.5, "p99_ms": 0.5},
        "ran_with": "ONNX Runtime 1",
        "device": {"board": "Orin", "processor": "A78"},
        "versions": {"numpy": "2"},
        "measured_at": "2026-01-01T00:00:00+00:00",
    }


def _read_report(folder: Path, suffix: str, raw: bytes) -> None:
    from edgepath.bundle.device_reports import add_report, device_name, device_reports, reports_file
    from edgepath.reports.tables.drift import device_table

    bundle = _bundle(folder)
    if suffix == "report":
        reports_file(bundle).unlink(missing_ok=True)
        (folder / "report.json").write_bytes(raw.replace(b"DIGEST", bundle.digest.encode()))
        add_report(bundle, folder / "report.json")
    else:
        reports_file(bundle).write_bytes(raw.replace(b"DIGEST", bundle.digest.encode()))
    for report in device_reports(bundle):
        device_name(report["device"])
    device_table(device_reports(bundle))


def _reports() -> dict[str, bytes]:
    report = json.dumps(_report_of("DIGEST"))
    return {
        "report": report.encode(),
        "devices": json.dumps({"schema": 1, "bundle": "DIGEST", "reports": [json.loads(report)]}).encode(),
    }


def _report_of(digest: str) -> dict[str, Any]:
    class _Opened:
        pass

    opened = _Opened()
    opened.digest = digest  # type: ignore[attr-defined]
    original, globals()["_bundle"] = _bundle, lambda folder: opened
    try:
        return _report(Path())
    finally:
        globals()["_bundle"] = original


# --- recipes, packs, tables


def _recipes() -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted((TESTS.parent / "export").glob("*/*.toml"))}


def _read_recipe(folder: Path, name: str, raw: bytes) -> None:
    from edgepath.recipes.recipe import find_recipe

    (folder / "recipe.toml").write_bytes(raw)
    json.dumps(find_recipe(str(folder / "recipe.toml")).to_json(), allow_nan=False)


@cache
def _pack() -> dict[str, bytes]:
    import tempfile

    from edgepath.tiles.packs import build_pack

    with tempfile.TemporaryDirectory() as made:
        build_pack(["synthetic:2:1"], Path(made) / "pack", 2)
        return _within(Path(made) / "pack")


def _read_pack(folder: Path, name: str, raw: bytes) -> None:
    from edgepath.tiles.packs import check_pack

    files = _pack() | {name: raw}
    if name == "tiles.csv":
        digest = hashlib.sha256(raw).hexdigest().encode()
        old = hashlib.sha256(_pack()[name]).hexdigest().encode()
        files["pack.toml"] = files["pack.toml"].replace(old, digest)
    for file, data in files.items():
        (folder / "pack" / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "pack" / file).write_bytes(data)
    check_pack(folder / "pack")


def _table() -> dict[str, bytes]:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([("path", "slide", "x", "label"), ("a.png", "s1", 1, "tumour"), ("b.png", "s2", 2, '"x", y')])
    return {"manifest.csv": text.getvalue().encode(), "tiles.csv": text.getvalue().replace(",", ";").encode()}


def _read_table(folder: Path, name: str, raw: bytes) -> None:
    from edgepath.tiles.opening import open_tiles
    from edgepath.tiles.origins import origins

    tiles = folder / "tiles"
    tiles.mkdir(exist_ok=True)
    for other in _table():
        (tiles / other).unlink(missing_ok=True)
    for tile in ("a.png", "b.png"):
        if not (tiles / tile).exists():
            Image.fromarray(_tiles()[0]).save(tiles / tile)
    (tiles / name).write_bytes(raw)
    origins(open_tiles(tiles, size=SIZE))


def _slide_list() -> dict[str, bytes]:
    return {"commas": b"slide,id,mpp\na.svs,x,0.5\n", "semicolons": b"slide;id\na.svs;x\n"}


def _read_slide_list(folder: Path, name: str, raw: bytes) -> None:
    from edgepath.slides.listing import list_slides

    (folder / "a.svs").touch()
    (folder / "slides.csv").write_bytes(raw)
    list_slides([folder / "slides.csv"])


def _geojson() -> dict[str, bytes]:
    ring = [[1.5, 1], [1, 40], [40, 40], [40, 1], [1.5, 1]]
    polygon = {"type": "Feature", "properties": {"name": "x"}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    many = {"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": [[ring], [ring, ring]]}}
    return {".geojson": json.dumps({"type": "FeatureCollection", "features": [polygon, many]}).encode()}


def _read_annotation(folder: Path, suffix: str, raw: bytes) -> None:
    from edgepath.tiles.slides.annotation import draw_annotation

    (folder / "a.geojson").write_bytes(raw)
    draw_annotation(folder / "a.geojson", 64, 64, 2)


def _bench() -> dict[str, bytes]:
    times = {"p50": 1.5, "p90": 1.5, "p95": 1.5, "p99": 1.5}
    row = {"name": "x", "batch": 1, "threads": 2, "latency_ms": times, "ratios": [{"against": "y", "p50": 0.5}]}
    machine = {"cpu": "x", "cpu_features": ["avx"], "cores": 2, "device": "x"}
    found = {"kind": "bench", "schema": 1, "results": [row], "machine": machine, "versions": {}, "model": "tiny"}
    return {".json": json.dumps(found).encode()}


def _read_bench(folder: Path, suffix: str, raw: bytes) -> None:
    from edgepath.speed.baseline import read_result

    (folder / "bench.json").write_bytes(raw)
    found = read_result(folder / "bench.json")
    found.ratios("x", 1, 2.0)
    found.notes(["tiny"], [1, 2])


# --- pixels and arrays


def _images() -> dict[str, bytes]:
    tile = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    kinds = {"png": {}, "jpeg": {"quality": 80}, "tiff": {}, "webp": {}, "bmp": {}, "jpeg2000": {}}
    found = {kind: _saved(lambda f, k=kind, o=options: tile.save(f, k, **o)) for kind, options in kinds.items()}
    found["progressive"] = _saved(lambda file: tile.save(file, "jpeg", progressive=True))
    for packing in ("tiff_lzw", "tiff_deflate", "jpeg"):
        found[packing] = _saved(lambda file, packing=packing: tile.save(file, "tiff", compression=packing))
    found["palette"] = _saved(lambda file: tile.quantize(16).save(file, "png"))
    return found


def _read_image(folder: Path, kind: str, raw: bytes) -> None:
    from edgepath.tiles.images import read_image

    (folder / "tile.png").write_bytes(raw)
    for resize in ("refuse", "squash"):
        with contextlib.suppress(_expected()):
            read_image(folder / "tile.png", 32, resize)


def _arrays() -> dict[str, bytes]:
    return {
        "rows": _saved(lambda file: np.save(file, np.arange(3))),
        "features": _saved(lambda file: np.save(file, np.ones((4, 3 + DIM), np.float32))),
    }


def _read_array(folder: Path, name: str, raw: bytes) -> None:
    from edgepath.quality.slides import choose_rows, read_rows

    (folder / "a.npy").write_bytes(raw)
    if name == "rows":
        choose_rows(4, read_rows(str(folder / "a.npy")))
        return
    from edgepath.quality.feature_folder import load_features
    from edgepath.quality.slides import synthetic_slides

    load_features(folder / "a.npy", synthetic_slides(4).slides[0], DIM)


def _origin() -> dict[str, bytes]:
    return {".json": json.dumps({"tile": "a", "sha256_pixels": "0" * 64}).encode()}


def _read_origin(folder: Path, suffix: str, raw: bytes) -> None:
    from edgepath.quality.feature_folder import ORIGIN, _check_kept
    from edgepath.quality.slides import Slide, _numbered
    from edgepath.tiles.source import TileSource

    tiles = TileSource("folder", "x", ("a", "b"), SIZE, lambda key: _tiles()[0])
    table = np.concatenate([_numbered(2), np.ones((2, DIM))], 1).astype(np.float32)
    np.save(folder / "features.npy", table)
    (folder / ORIGIN).write_bytes(raw)
    _check_kept(folder / "features.npy", Slide("x", "", "x", tiles, _numbered(2)), DIM)


def _h5ad() -> dict[str, bytes]:
    written = TESTS / "quality" / "hest" / "h5ad_files"
    return {path.name: gzip.decompress(path.read_bytes()) for path in sorted(written.glob("*.h5ad.gz"))}


def _read_h5ad(folder: Path, name: str, raw: bytes) -> None:
    from edgepath.quality.hest.h5ad import read_expression

    (folder / "a.h5ad").write_bytes(raw)
    read_expression(folder / "a.h5ad", ["000x1-1", "005x6-1"], ["EPCAM", "CD3E"])


def _hdf5() -> dict[str, bytes]:
    import h5py

    def patches(file: Any) -> None:
        with h5py.File(file, "w") as made:
            made.create_dataset("img", data=_tiles(), compression="gzip", chunks=(1, SIZE, SIZE, 3))
            made["barcode"] = np.array([[key] for key in KEYS], dtype=h5py.string_dtype())

    def plism(file: Any) -> None:
        with h5py.File(file, "w") as made:
            for i, tile in enumerate(_tiles()):
                made[f"tile_0_{i}_{i}"] = tile

    return {"patches": _saved(patches), "plism": _saved(plism)}


def _read_hdf5(folder: Path, name: str, raw: bytes) -> None:
    from edgepath.quality.hest.tasks import Sample, _barcodes
    from edgepath.quality.slides import PLISM_SUFFIX, _plism_slide

    path = folder / f"GMH_S60{PLISM_SUFFIX}"
    path.write_bytes(raw)
    if name == "patches":
        sample = Sample("x", path, _barcodes(path, SIZE, "refuse"), np.zeros((4, 1)))
        for _ in sample.tiles(SIZE, "refuse"):
            pass
    else:
        _plism_slide(path, SIZE).tiles.read()


# --- models


def _weights() -> dict[str, bytes]:
    import torch
    from safetensors.torch import save

    state = {"teacher": {"backbone.cls_token": torch.ones(1, 1, 4), "backbone.fc.weight": torch.ones(4, 4)}, "step": 3}
    flat = {"cls_token": torch.ones(1, 1, 4), "fc.weight": torch.ones(4, 4)}
    old = io.BytesIO()
    torch.save(state, old, _use_new_zipfile_serialization=False)
    return {
        "model.safetensors": save(flat),
        "model.pth": _saved(lambda file: torch.save(state, file)),
        "old.pth": old.getvalue(),
        "model.safetensors.index.json": json.dumps(
            {"metadata": {"total_size": 80}, "weight_map": dict.fromkeys(flat, "model.safetensors")}
        ).encode(),
    }


def _read_weights(folder: Path, name: str, raw: bytes) -> None:
    from edgepath.models.weightfiles import read_leaves

    for file, data in (_weights() if name.endswith(".index.json") else {}).items():
        (folder / file).write_bytes(data)
    (folder / name).write_bytes(raw)
    read_leaves(folder / name)


def _configs() -> dict[str, bytes]:
    toml = b"""schema = 1
architecture = "vit_base_patch14_reg4_dinov2"
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
licence = "MIT"
[model_args]
img_size = 224
depth = 2
mlp_ratio = 5.5
"""
    hub = {
        "architecture": "vit_base_patch14_reg4_dinov2",
        "num_classes": 0,
        "model_args": {"img_size": 224, "depth": 12, "init_values": 0.5},
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0, "license": "x"},
    }
    return {"model.toml": toml, "config.json": json.dumps(hub).encode()}


def _read_config(folder: Path, name: str, raw: bytes) -> None:
    from edgepath.models.catalogue import find_model
    from edgepath.models.configs import read_model_config, with_hub_config

    (folder / name).write_bytes(raw)
    if name.endswith(".toml"):
        read_model_config(folder / name)
    else:
        with_hub_config(find_model("timm:vit_base_patch14_reg4_dinov2"), folder)


@cache
def _artifact(kind: str) -> dict[str, bytes]:
    """Files of an artifact of one small layer, or of a bundle in the folder EDGEPATH_FUZZ_BUNDLES."""
    import tempfile

    if bundles := os.environ.get("EDGEPATH_FUZZ_BUNDLES"):
        for bundle in sorted(Path(bundles).glob(f"*-{kind}-int8")):
            return {name: data for name, data in _within(bundle).items() if name.startswith("model.")}

    with tempfile.TemporaryDirectory() as made:
        _BUILD[kind](Path(made))
        return _within(Path(made))


def _build_onnx(folder: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    axis = numpy_helper.from_array(np.ones(4, np.float32), "scale")
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale"], ["n"], epsilon=1e-6),
        helper.make_node("MatMul", ["n", "w"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", side]) for name, side in (("x", 4), ("y", 2)))
    graph = helper.make_graph(nodes, "g", [x], [y], [weight, axis])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, folder / "model.onnx")


def _build_openvino(folder: Path) -> None:
    import openvino
    from openvino import opset13

    x = opset13.parameter((1, 4), np.float32)
    y = opset13.matmul(x, opset13.constant(np.ones((4, 2), np.float32)), False, False)
    openvino.save_model(openvino.Model([y], [x]), folder / "model.xml", compress_to_fp16=False)


def _build_coreml(folder: Path) -> None:
    import coremltools
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil import types

    @Builder.program(input_specs=[Builder.TensorSpec((1, 3, 4, 4), types.fp32)], opset_version=coremltools.target.iOS17)
    def program(x: Any) -> Any:
        y = Builder.reshape(x=x, shape=(1, 48))
        return Builder.linear(x=y, weight=np.ones((2, 48), np.float32), bias=np.zeros(2, np.float32))

    image = coremltools.ImageType(name="x", shape=(1, 3, 4, 4), color_layout=coremltools.colorlayout.RGB)
    package = coremltools.convert(
        program, inputs=[image], minimum_deployment_target=coremltools.target.iOS17, skip_model_load=True
    )
    package.save(str(folder / "model.mlpackage"))


def _build_torchtrt(folder: Path) -> None:
    import torch

    model = torch.nn.Sequential(torch.nn.LayerNorm(4), torch.nn.Linear(4, 2)).eval()
    torch.export.save(torch.export.export(model, (torch.ones(2, 4),)), folder / "model.pt2")


_BUILD = {
    "onnx": _build_onnx,
    "openvino": _build_openvino,
    "coreml": _build_coreml,
    "torchtrt": _build_torchtrt,
}
_FILE = {"onnx": "model.onnx", "openvino": "model.xml", "coreml": "model.mlpackage", "torchtrt": "model.pt2"}


def _read_artifact(kind: str) -> Callable[[Path, str, bytes], None]:
    def read(folder: Path, name: str, raw: bytes) -> None:
        from edgepath.backends.reading import read_parts

        for file, data in (_artifact(kind) | {name: raw}).items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(data)
        file = folder / _FILE[kind]
        parts = read_parts(file)
        assert parts is not None
        if kind == "coreml":
            from edgepath.backends.mil_program.program import load_program

            for constant in load_program(file).constants.values():
                constant.read()

    return read


READERS = (
    Reader("manifest", lambda: {".json": json.dumps(_manifest(_files())).encode()}, _read_manifest),
    Reader("in a bundle", _in_bundle, _read_in_bundle),
    Reader(
        "kit",
        lambda: (
            {".json": json.dumps(_manifest(_files())).encode()}
            | {name: data for name, data in _files().items() if name.endswith(".npz")}
        ),
        _read_kit,
    ),
    Reader("golden set", _golden, _read_golden),
    Reader("device reports", _reports, _read_report),
    Reader("recipe", _recipes, _read_recipe),
    Reader("pack", _pack, _read_pack),
    Reader("table of tiles", _table, _read_table),
    Reader("list of slides", _slide_list, _read_slide_list),
    Reader("annotation", _geojson, _read_annotation),
    Reader("bench", _bench, _read_bench),
    Reader("image", _images, _read_image),
    Reader("array", _arrays, _read_array),
    Reader("origin", _origin, _read_origin),
    Reader("h5ad", _h5ad, _read_h5ad, share=4),
    Reader("hdf5", _hdf5, _read_hdf5, share=3),
    Reader("weights", _weights, _read_weights),
    Reader("model config", _configs, _read_config),
    Reader("onnx", lambda: _artifact("onnx"), _read_artifact("onnx")),
    Reader("openvino", lambda: _artifact("openvino"), _read_artifact("openvino")),
    Reader("coreml", lambda: _artifact("coreml"), _read_artifact("coreml")),
    Reader("torchtrt", lambda: _artifact("torchtrt"), _read_artifact("torchtrt")),
)


def _expected() -> tuple[type[BaseException], ...]:
    from edgepath.errors import EdgepathError

    return (EdgepathError, _check().CannotRun)


def refusals(folder: Path, reader: Reader, name: str, raw: bytes) -> Iterator[str]:
    """Read a damaged file, and yield the line that it is refused with, if it is; anything else is raised."""
    from edgepath.errors import one_line

    os.environ.setdefault("EDGEPATH_CACHE", str(folder / "cache"))
    try:
        reader.read(folder, name, raw)
    except _expected() as error:
        yield one_line(error)


def damaged_zip(raw: bytes, seed: int) -> bytes:
    """Return a zip whose members are damaged and whose check sums are right, so that not zip itself refuses them."""
    from mutate import mutate

    file = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
            names = archive.namelist()
            for i, name in enumerate(names):
                data = archive.read(name)
                out.writestr(name, mutate(data, seed) if i == seed % len(names) else data)
    except (zipfile.BadZipFile, ValueError):
        return mutate(raw, seed)
    return file.getvalue()

"""Packages as they lie on disk: what is read back, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgepath.backends.mil.program import Constant, Type, load_program
from edgepath.errors import BundleError

WEIGHTS = Path("Data", "com.apple.CoreML", "weights", "weight.bin")
MODEL = Path("Data", "com.apple.CoreML", "model.mlmodel")


class Small(nn.Module):
    """A convolution and a linear: 8 x 8 pixels -> 5 numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear = nn.Conv2d(3, 16, 4, stride=4), nn.Linear(64, 50)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv(pixels).flatten(1))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import coremltools

    exported = torch.export.export(Small().eval(), (torch.zeros(1, 3, 8, 8),)).run_decompositions({})
    package = coremltools.convert(
        exported,
        inputs=[coremltools.ImageType(name="tile", shape=(1, 3, 8, 8), color_layout=coremltools.colorlayout.RGB)],
        outputs=[coremltools.TensorType(name="embedding", dtype=np.float32)],
        convert_to="mlprogram",
        minimum_deployment_target=coremltools.target.iOS18,
        skip_model_load=True,
    )
    path = tmp_path_factory.mktemp("small") / "model.mlpackage"
    package.save(str(path))
    return path


@pytest.fixture
def copied(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "model.mlpackage"))


def respecified(path: Path, change: Callable[[Any], object]) -> Path:
    """Change a package's specification."""
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString((path / MODEL).read_bytes())
    change(spec)
    (path / MODEL).write_bytes(spec.SerializeToString())
    return path


def block(spec: Any) -> Any:
    function = spec.mlProgram.functions["main"]
    return function.block_specializations[function.opset]


def test_what_was_saved_is_read_back(small: Path) -> None:
    program = load_program(small)
    assert (program.image, program.size, program.outputs) == ("tile", 8, ("embedding",))
    assert program.inputs == {"tile": Type("fp32", (1, 3, 8, 8))}
    kinds = [operation.kind for operation in program.operations]
    assert kinds == ["cast", "conv", "reshape", "linear", "cast"]
    assert [operation.place for operation in program.operations] == [1, 2, 3, 4, 5]
    assert program.made_by["embedding"].outputs == {"embedding": Type("fp32", (1, 50))}
    module = Small()
    for kind, layer in (("conv", module.conv), ("linear", module.linear)):
        operation = program.operations[kinds.index(kind)]
        for parameter, value in (("weight", layer.weight), ("bias", layer.bias)):
            constant = program.constants[operation.inputs[parameter][0]]
            assert constant.type == Type("fp16", tuple(value.shape))
            np.testing.assert_array_equal(constant.read(), value.detach().numpy().astype(np.float16))
    strides = program.constants[program.operations[1].inputs["strides"][0]]
    assert np.array(strides.read()).tolist() == [4, 4]
    assert program.constants[program.operations[0].inputs["dtype"][0]].read() == "fp16"


def test_weights_are_read_late(copied: Path) -> None:
    (copied / WEIGHTS).unlink()
    program = load_program(copied)
    constant = program.constants[program.operations[1].inputs["weight"][0]]
    with pytest.raises(BundleError, match=r'"const" \(.*\): weight\.bin at 64 cannot be read'):
        constant.read()


BLOBS = {
    "fp16": ("write_fp16_data", None), "fp32": ("write_float_data", None), "int8": ("write_int8_data", (-128, 128)),
    "uint8": ("write_uint8_data", (0, 256)), "int16": ("write_int16_data", (-999, 999)),
    "uint16": ("write_uint16_data", (0, 65536)), "int32": ("write_int32_data", (-99999, 99999)),
    "uint32": ("write_uint32_data", (0, 99999)), "int4": ("write_int4_data", (-8, 8)),
    "uint4": ("write_uint4_data", (0, 16)), "uint6": ("write_uint6_data", (0, 64)),
    "uint3": ("write_uint3_data", (0, 8)), "uint2": ("write_uint2_data", (0, 4)),
    "uint1": ("write_uint1_data", (0, 2)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", BLOBS)
def test_blobs_are_those_coremltools_writes(dtype: str, tmp_path: Path) -> None:
    from coremltools.converters.mil.backend.mil.load import should_use_weight_file  # noqa: F401 - loads the library
    from coremltools.libmilstoragepython import _BlobStorageWriter

    write, span = BLOBS[dtype]
    rng = np.random.default_rng(3)
    values = rng.standard_normal(37) if span is None else rng.integers(*span, 37)
    stored = values.astype(
        {"fp16": "f2", "fp32": "f4"}.get(
            dtype, "u1" if dtype[-1] in "12346" and dtype[-2:] not in ("16", "32") else dtype
        )
    )
    if dtype == "int4":
        stored = values.astype("i1")
    writer = _BlobStorageWriter(str(tmp_path / "weight.bin"))
    offset = getattr(writer, write)(stored.view(np.uint16) if dtype == "fp16" else stored)
    del writer
    found = Constant(Type(dtype, (37,)), "here", file=tmp_path / "weight.bin", offset=offset).read()
    np.testing.assert_array_equal(found, stored)
    if dtype != "fp16":
        with pytest.raises(
            BundleError, match=rf"^here: weight\.bin at {offset} holds .* bytes of {dtype}; 74 bytes of fp16"
        ):
            Constant(Type("fp16", (37,)), "here", file=tmp_path / "weight.bin", offset=offset).read()


def first_blob(program: Any) -> Constant:
    return program.constants[program.operations[1].inputs["weight"][0]]  # type: ignore[no-any-return]


def test_damaged_weights_are_refused(copied: Path) -> None:
    whole = (copied / WEIGHTS).read_bytes()
    (copied / WEIGHTS).write_bytes(whole[:64] + b"\0" * 4 + whole[68:])
    with pytest.raises(BundleError, match=r"weight\.bin at 64 holds"):
        first_blob(load_program(copied)).read()
    (copied / WEIGHTS).write_bytes(whole[:80] + b"\xff" * 8 + whole[88:])  # where the weight itself begins
    with pytest.raises(BundleError, match=r"weight\.bin at 64 cannot be read"):
        first_blob(load_program(copied)).read()
    (copied / WEIGHTS).write_bytes(whole[:150])
    with pytest.raises(BundleError, match="ends at 150, in the middle of a weight"):
        first_blob(load_program(copied)).read()


def test_what_is_no_package_is_refused(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no Core ML package"):
        load_program(tmp_path / "nothing")
    (copied / MODEL).write_bytes(b"\xff" * 100)
    with pytest.raises(BundleError, match="its specification cannot be read"):
        load_program(copied)
    (copied / MODEL).write_bytes(b"")
    with pytest.raises(BundleError, match="is no ML program"):
        load_program(copied)
    manifest = json.loads((copied / "Manifest.json").read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = "../../elsewhere"
    (copied / "Manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="leads out of the package"):
        load_program(copied)


def bgr(spec: Any) -> None:
    spec.description.input[0].type.imageType.colorSpace = 30


def wide(spec: Any) -> None:
    spec.description.input[0].type.imageType.width = 9


def second(spec: Any) -> None:
    spec.description.input.add().name = "more"


def blocks(spec: Any) -> None:
    block(spec).operations[-1].blocks.add()


def flexible(spec: Any) -> None:
    block(spec).operations[-1].outputs[0].type.tensorType.dimensions[0].unknown.variadic = False


def elsewhere(spec: Any) -> None:
    const = next(o for o in block(spec).operations if o.attributes["val"].WhichOneof("value") == "blobFileValue")
    const.attributes["val"].blobFileValue.fileName = "@model_path/../../weight.bin"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (bgr, "a square RGB image"),
        (wide, "a square RGB image"),
        (second, r"a square RGB image; found \['tile', 'more'\]"),
        (blocks, "control flow is not evaluated"),
        (flexible, "has a flexible shape"),
        (elsewhere, "leads out of the package"),
    ],
)
def test_programs_of_another_kind_are_refused(copied: Path, change: Callable[[Any], None], said: str) -> None:
    with pytest.raises(BundleError, match=said) as caught:
        load_program(respecified(copied, change))
    assert "\n" not in str(caught.value)

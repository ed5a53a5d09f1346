"""Two front ends to TensorRT that share no code, Torch-TensorRT's and the ONNX parser: the same INT8 linears?"""

from __future__ import annotations

from typing import Any

import pytest
from conftest import MODEL, Bundles, Record

from edgepath.backends import builds_of
from edgepath.backends.reading import missing_from_engine, read_parts
from edgepath.backends.tensorrt_network.network import Network
from edgepath.backends.tensorrt_network.products import compare_networks
from edgepath.bundle.bundle import Bundle
from edgepath.machine.packages import version_of

LINEARS = 49  # of H0-mini and of demo: 12 blocks of 4, the last of which has queries apart from keys and values


@pytest.mark.long
def test_both_front_ends_have_the_same_linears(bundles: Bundles, record: Record) -> None:
    if version_of("torch-tensorrt-rtx") is None:
        pytest.skip("torch-tensorrt-rtx is not installed: needs the extra torchtrt")
    both = [bundles(target) for target in ("torchtrt-int8", "rtx-int8")]
    compared = compare_networks(*map(_network, both))
    figures: dict[str, Any] = {"int8": compared.int8, "equal": compared.equal, "in floating point": compared.floats}
    figures |= {"same inputs and outputs": compared.contract, "in the engines": [*map(_in_engine, both)]}
    record(f"INT8 linears of both front ends to TensorRT, {MODEL}", figures)
    assert compared.same
    assert (compared.equal, figures["in the engines"]) == (LINEARS, [LINEARS, LINEARS])


def _network(bundle: Bundle) -> Network:
    network = builds_of(bundle.backend).network
    assert network is not None
    return network(bundle.artifact)


def _in_engine(bundle: Bundle) -> int:
    """Return of how many INT8 linears the bundle's engine holds all integers."""
    products = read_parts(bundle.artifact, bundle.backend).products
    quantized = {str(place): product for place, product in enumerate(products) if product.scale is not None}
    return len(quantized) - len(missing_from_engine(bundle.artifact, quantized))

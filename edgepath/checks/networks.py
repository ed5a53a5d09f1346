"""The TensorRT network of an artifact, as the front end that the builder listens to understood it.

The graph that was written is one thing, what TensorRT's parser makes of it another. The network is read from TensorRT's
own bindings, computed in torch with the types it names, and held against the program: end to end with the noise floor
as the measure, since rounding amplifies, and product by product to the bit.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from ..backends import builds_of
from ..bundle.bundle import Bundle
from .drift import measure
from .parts import named_parts
from .results import NetworkFigures

if TYPE_CHECKING:
    from ..program.forms import Program


def check_network(bundle: Bundle, program: Program, tiles: np.ndarray) -> NetworkFigures | None:
    """Return what the network of a bundle's artifact computes on `tiles`, uint8 (N, S, S, 3), beside its program.

    None for a backend whose artifacts become no such network, or without the bindings that make it. Raises UsageError
    for a network with a layer that is not known here.
    """
    builds = builds_of(bundle.backend)
    if builds.network is None or any(importlib.util.find_spec(name) is None for name in builds.network_needs):
        return None
    import torch

    from ..backends.tensorrt_network.evaluation import Evaluator
    from ..backends.tensorrt_network.products import key_of, products

    network = builds.network(bundle.artifact)
    linears = products(network)
    wanted = Counter(
        key_of(product) for product in named_parts(program.lowered)[0].values() if product.scale is not None
    )
    equal = sum((Counter(key_of(product) for product in linears if product.scale is not None) & wanted).values())
    embeddings = Evaluator(network)({"tiles": torch.from_numpy(np.array(tiles, order="C"))})["embedding"].numpy()
    finite = bool(np.isfinite(embeddings).all())
    drift = measure(program(tiles), embeddings) if finite else None
    return {
        "tiles": len(tiles),
        "layers": len(network.layers),
        "int8": sum(product.scale is not None and product.weight.dtype == np.int8 for product in linears),
        "fp8": sum(product.scale is not None and product.weight.dtype != np.int8 for product in linears),
        "float": sum(product.scale is None for product in linears),
        "differ": sum(wanted.values()) - equal,
        "finite": finite,
        "cosine_mean": None if drift is None else drift.cosine_mean,
        "cosine_min": None if drift is None else drift.cosine_min,
    }

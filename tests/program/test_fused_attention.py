"""Attention as one operation of ONNX Runtime's own computes what timm's does."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from test_fold import VARIANTS, run, variant

from edgepath.models.catalogue import ModelSpec
from edgepath.program.fold import fold
from edgepath.program.forms import to_onnx
from edgepath.program.fused_attention import OPERATION, fuse

ATTENTIONS = ("h0-mini", "qk_norm", "norm after attention", "gated attention", "no qkv bias")


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize("tokens", [False, True])
def test_a_fused_model_computes_the_same(name: str, tokens: bool, tiny: ModelSpec, tiles: np.ndarray) -> None:
    assert set(ATTENTIONS) <= set(VARIANTS)
    model = fold(variant(tiny, name), tiny, tokens=tokens)
    graph = to_onnx(fuse(model))
    kinds = [node.op_type for node in graph.graph.node]
    # The two blocks' attentions, and no product of two computed values is left; but where heads are normed first.
    assert kinds.count(OPERATION) == (0 if name == "qk_norm" else 2)
    assert kinds.count("Softmax") == (2 if name == "qk_norm" else 0)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"tiles": tiles[:2]})
    wanted = run(model, tiles[:2])
    assert len(found) == len(wanted) == 1 + tokens
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-4 * float(theirs.abs().max()))

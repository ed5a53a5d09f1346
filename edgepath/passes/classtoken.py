"""The class token enters the linears as it is, beside patches in INT8: one token of hundreds, and the embedding itself.

What rounding does to a patch reaches the embedding as a mean over all patches, and mostly cancels. What it does to the
class token stays in it, block after block: on the demo model that is nine tenths of all INT8 drift. Its weights are the
same integers; only its activations are not rounded.
"""

from __future__ import annotations

from .fold import ClsOnlyBlock, EdgeModel
from .quantize import RoundingLinear

ALONE = ("attn.q", "attn.proj", "mlp.fc1", "mlp.fc2")  # what sees no other token in a ClsOnlyBlock


def spare_class_token(model: EdgeModel) -> EdgeModel:
    """Leave the class token's activations unrounded in all linears that round, in place, and return the model."""
    alone = {
        f"vit.blocks.{index}.{name}"
        for index, block in enumerate(model.vit.blocks)
        if isinstance(block, ClsOnlyBlock)
        for name in ALONE
    }
    for name, layer in model.named_modules():
        if isinstance(layer, RoundingLinear):
            layer.spared = "all" if name in alone else "first"
    return model

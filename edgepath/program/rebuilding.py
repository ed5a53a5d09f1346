"""What a bundle was made from: its model loaded again, its program built again, the tiles it was calibrated on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.bundle import Bundle
from ..errors import BundleError, UsageError, WeightsError, first_line
from ..machine.tables import plain
from ..recipes.recipe import Recipe, removed
from .quantizing import PROGRAM, make_program


def rebuild(bundle: Bundle, recipe: Recipe, vit: Any, spec: Any, *, smoothed_only: bool = False) -> Any:
    """Return a bundle's program from its model, or with `smoothed_only` its full-precision twin, layer for layer.

    Raises BundleError where ranges or scales are not those that the bundle names.
    """
    from .fold import fold
    from .rescaling import RESCALED, load_exponents, rescale
    from .smooth import smooth

    if asked := removed(bundle.manifest["recipe"]):
        raise BundleError(f"bundle {bundle.path}: its program cannot be rebuilt ({asked}); export it again")
    net = fold(vit, spec, embedding=bundle.contract.embedding, tokens=bundle.contract.tokens)
    exponents = load_exponents(bundle.unchanged(RESCALED))
    try:
        rescale(net, exponents)
    except (ValueError, RuntimeError) as error:
        raise BundleError(f"bundle {bundle.path}: {RESCALED} is not of its model ({error}); export it again") from None
    if not recipe.quantized:
        _check_same_scales(bundle, net)  # it has none
        return net
    try:
        if smoothed_only:
            smooth(net, *_ranges(bundle), alpha=recipe.quantize.smooth_alpha)
            return net
        net = _quantized(bundle, recipe, net)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:  # ranges of other layers, shapes or types
        why = first_line(error)
        raise BundleError(f"bundle {bundle.path}: its program cannot be rebuilt ({why}); export it again") from None
    _check_same_scales(bundle, net)
    return net


def same_weights(bundle: Bundle, weights_from: str | Path | None) -> tuple[Any, Any, Any]:
    """Load the full-precision model, and make sure it is the one the bundle was made from.

    Raises UsageError naming the weights that the bundle was exported from, where others were given or none are found.
    """
    from ..models.catalogue import ModelSpec
    from ..models.weights import load_model

    recorded = bundle.weights
    if weights_from is None and recorded.random:
        weights_from = "random"
    exported = f"{bundle.name} was exported from {plain(recorded.source)} (sha256 {recorded.sha256[:12]})"
    try:
        known = ModelSpec.from_json(bundle.manifest["model"])
    except UsageError as error:
        raise BundleError(f"bundle {bundle.path}: its manifest describes no model ({error}); export it again") from None
    try:
        vit, spec, weights = load_model(known, weights_from)
    except WeightsError as error:
        if weights_from is not None:
            raise
        raise WeightsError(f"{exported}; give that file or folder with --weights ({error})") from None
    if weights.sha256 != recorded.sha256:
        if weights_from is None:
            raise UsageError(f"{exported}; give that file or folder with --weights")
        raise UsageError(
            f"{exported}, {weights.source} has sha256 {weights.sha256[:12]}; give the same weights with --weights"
        )
    return vit, spec, weights


def _quantized(bundle: Bundle, recipe: Recipe, net: Any) -> Any:
    """Rebuild the program from the ranges and, where training changed it, its own numbers."""
    from .linear import load_program

    net = make_program(recipe, net, *_ranges(bundle))
    if not bundle.unchanged(PROGRAM).exists():
        return net
    try:
        return load_program(net, bundle.unchanged(PROGRAM))
    except ValueError as error:
        raise BundleError(f"bundle {bundle.path}: {PROGRAM} is not of its model ({error}); export it again") from None


def _ranges(bundle: Bundle) -> tuple[Any, Any]:
    from .calibrate import load_ranges

    try:
        ranges, plan = load_ranges(bundle.unchanged("ranges.npz"))
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise BundleError(f"bundle {bundle.path}: ranges.npz cannot be read ({error}); export it again") from None
    numbers = [*ranges.absmax.values(), *map(np.array, (*plan.limits.values(), *plan.strengths.values()))]
    if not all(np.isfinite(values).all() and (values >= 0).all() for values in numbers):
        raise BundleError(f"bundle {bundle.path}: ranges.npz holds numbers that are no magnitudes; export it again")
    return ranges, plan


def _check_same_scales(bundle: Bundle, net: Any) -> None:
    """Raise BundleError unless the rebuilt program has the scales that the bundle names, layer by layer."""
    from .linear import scales

    recorded, rebuilt_scales = bundle.program, scales(net)
    for name in sorted(recorded.keys() | rebuilt_scales.keys()):
        named, rebuilt = recorded.get(name), rebuilt_scales.get(name)
        known = named is not None and rebuilt is not None and len(named) == len(rebuilt)
        if not known or not np.allclose(named or [], rebuilt or [], rtol=5e-3, atol=0):  # FP16 itself steps by 1e-3
            raise BundleError(
                f"bundle {bundle.path}: its program cannot be rebuilt (scales of {plain(name)}: {rebuilt}, its "
                f"manifest says {named and list(named)}); export it again"
            )

"""edgepath: pathology vision transformers on the edge, exported, quantized and checked.

export        weights -> a checked bundle for one target
search        a budget of drift -> a recipe that leaves the fewest layers out of INT8
sign          a signature beside a bundle, so that others can tell who vouches for it
verify        a bundle's drift on its golden tiles, and on tiles of yours
compare       whether bundles of one model agree, pair by pair
robustness    whether a bundle finds the same tissue under another stain and scanner as its model does
curves        how far tiles that are stained, scanned or stored worse move its embeddings
probe         whether its embeddings are worth as much for a task
probe_hest    whether they tell as much about gene expression, by the HEST-Benchmark's protocol
bench         how fast bundles are, in turn with full precision, PyTorch and peers
distill       a large teacher and tiles -> a small student
embed         tiles -> a file of embeddings
open_bundle   a bundle, every hash checked; `.runner()` embeds `uint8 (N, 224, 224, 3) -> float32 (N, D)`
torch_module  a bundle as a `torch.nn.Module`, for benchmarks that take an encoder
open_tiles    a folder, pack, list or the synthetic source, as batches of tiles
build_pack    a diverse, hashed calibration pack from folders of tiles
check_pack    whether a pack is still what its manifest says
load_model    a timm vision transformer with its weights

The code lies in rooms; each imports from those below it, never from one beside it or above:

cli                      the command line
exporting, distillation  weights -> a checked bundle; a large teacher -> a small student
reports                  what a person sees: tables, pages, pictures
quality, speed, searching  is the embedding still good for something; how fast; a budget of drift -> a recipe
checks                   is the artifact its program, is it near the model
program, adapters        weights -> the one quantized program (where INT8 scales are chosen), and its forms
bundle                   the folder on disk, checked before anything of it is loaded
recipes, models          what a target asks for; which models there are
backends, tiles          one row a runtime, and how it is built for; where tiles come from
machine                  packages, hardware, progress, files written whole
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .machine.privacy import report_nothing

if TYPE_CHECKING:
    from .adapters import torch_module as torch_module
    from .bundle.bundle import Bundle as Bundle
    from .bundle.bundle import open_bundle as open_bundle
    from .bundle.embedding import embed as embed
    from .bundle.signing import sign as sign
    from .checks.comparison import compare as compare
    from .checks.verification import verify as verify
    from .distillation.training import distill as distill
    from .errors import EdgepathError as EdgepathError
    from .exporting import Exported as Exported
    from .exporting import export as export
    from .models.catalogue import ModelSpec as ModelSpec
    from .models.catalogue import find_model as find_model
    from .models.weights import Weights as Weights
    from .models.weights import load_model as load_model
    from .quality.curves import curves as curves
    from .quality.hest.measuring import probe_hest as probe_hest
    from .quality.probing import probe as probe
    from .quality.robustness import robustness as robustness
    from .recipes.recipe import Recipe as Recipe
    from .recipes.recipe import find_recipe as find_recipe
    from .searching import search as search
    from .speed.benchmark import bench as bench
    from .tiles.opening import open_tiles as open_tiles
    from .tiles.packs import build_pack as build_pack
    from .tiles.packs import check_pack as check_pack

report_nothing()

# Loaded when first used: `import edgepath` and `edgepath --help` stay quick and need no vendor package.
_HOMES = {
    "Bundle": "bundle.bundle",
    "EdgepathError": "errors",
    "Exported": "exporting",
    "ModelSpec": "models.catalogue",
    "Recipe": "recipes.recipe",
    "Weights": "models.weights",
    "bench": "speed.benchmark",
    "build_pack": "tiles.packs",
    "check_pack": "tiles.packs",
    "compare": "checks.comparison",
    "curves": "quality.curves",
    "distill": "distillation.training",
    "embed": "bundle.embedding",
    "export": "exporting",
    "find_model": "models.catalogue",
    "find_recipe": "recipes.recipe",
    "load_model": "models.weights",
    "open_bundle": "bundle.bundle",
    "open_tiles": "tiles.opening",
    "probe": "quality.probing",
    "probe_hest": "quality.hest.measuring",
    "robustness": "quality.robustness",
    "search": "searching",
    "sign": "bundle.signing",
    "torch_module": "adapters",
    "verify": "checks.verification",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)

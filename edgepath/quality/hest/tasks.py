"""The HEST-Benchmark's folder, read and checked before anything is embedded.

    DIR/<task>/var_50genes.json               {"genes": [...]}
               splits/train_0.csv, test_0.csv  sample_id, patches_path, expr_path (below the task's folder); train_1 ...
               patches/<sample>.h5             img uint8 (N, S, S, 3), barcode (N) or (N, 1)
               adata/<sample>.h5ad             counts of the same barcodes

DIR may also be one task's folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import UsageError, did_you_mean, first_line
from ...machine.hdf5 import dataset
from ...machine.hdf5_texts import read_texts
from ...machine.sheets import read_sheet
from ...machine.tables import read_json
from ...tiles.images import resize_tile
from .h5ad import read_expression

GENES = "var_50genes.json"
_COLUMNS = ("sample_id", "patches_path", "expr_path")
_SPLIT = re.compile(r"(train|test)_(\d+)\.csv", re.ASCII)
_LARGEST = 16 << 20  # bytes of a list of genes
_AT_ONCE = 64  # patches read at once: their chunks may hold parts of many


@dataclass(frozen=True)
class Sample:
    """A slide: its patches, the barcode of each, and ln(1 + counts) of the task's genes, float64 (N, genes)."""

    name: str
    patches: Path
    barcodes: tuple[str, ...]
    expression: np.ndarray

    def tiles(self, size: int, resize: str) -> Iterator[np.ndarray]:
        """Yield the patches in order, some at a time: uint8 (n, size, size, 3)."""
        import h5py

        try:
            with h5py.File(self.patches, "r") as file:
                patches = dataset(file, "img")
                for start in range(0, len(self.barcodes), _AT_ONCE):
                    pixels = np.asarray(patches[start : start + _AT_ONCE])
                    fits = pixels.shape[1] == size
                    yield pixels if fits else np.stack([resize_tile(tile, size, resize) for tile in pixels])
        except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"HEST {self.patches}: patches cannot be read ({first_line(error)}); fetch it again"
            ) from None


@dataclass(frozen=True)
class Split:
    """The names of the samples that are fitted on, and of those that are predicted."""

    train: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A cancer's samples, the genes to predict, and the benchmark's splits of the samples."""

    name: str
    genes: tuple[str, ...]
    samples: dict[str, Sample]
    splits: tuple[Split, ...]

    def __len__(self) -> int:
        return sum(len(sample.barcodes) for sample in self.samples.values())


def open_tasks(
    folder: str | Path, names: Sequence[str] = (), *, size: int = 224, resize: str = "refuse"
) -> tuple[Task, ...]:
    """Read the tasks of a folder, all of them or those of `names`; expression is held, patches are not.

    Raises UsageError naming the first file that is missing or is not what the layout says, barcodes or genes that do
    not match, and a sample that a split both fits on and predicts.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UsageError(f"HEST {root}: no such folder; give the benchmark's folder of tasks")
    folders = [root] if (root / "splits").is_dir() else sorted(path.parent for path in root.glob("*/splits"))
    if not folders:
        raise UsageError(
            f"HEST {root}: no folder in it has splits; give the benchmark's folder of tasks, or one task's"
        )
    known = [path.resolve().name for path in folders]
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f'HEST {root}: task "{unknown[0]}" is not in it; {did_you_mean(unknown[0], known)}')
    chosen = [path for path, name in zip(folders, known, strict=True) if not names or name in names]
    return tuple(_task(path, size, resize) for path in chosen)


def _task(root: Path, size: int, resize: str) -> Task:
    genes = _genes(root / GENES)
    files: dict[str, tuple[Path, Path]] = {}
    splits = [Split(*(_samples(root, path, files) for path in pair)) for pair in _splits(root / "splits")]
    for number, split in enumerate(splits):
        if both := sorted(set(split.train) & set(split.test)):
            raise UsageError(
                f"HEST {root}: split {number} both fits on and predicts {both[0]}; its figures would mean nothing"
            )
    samples = {name: _sample(name, *paths, genes, size, resize) for name, paths in files.items()}
    return Task(root.resolve().name, genes, samples, tuple(splits))


def _genes(path: Path) -> tuple[str, ...]:
    try:
        genes = read_json(path, _LARGEST)["genes"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"HEST {path}: no list of genes can be read from it ({error!r}); fetch it again") from None
    if not isinstance(genes, list) or not genes or not all(isinstance(g, str) for g in genes):
        raise UsageError(f"HEST {path}: genes is {str(genes)[:40]}; a list of names is needed")
    if len(set(genes)) < len(genes):
        raise UsageError(f"HEST {path}: a gene stands in it twice; name every gene once")
    return tuple(genes)


def _splits(folder: Path) -> list[tuple[Path, Path]]:
    """Return the pairs of files (train, test), numbered from 0 without a gap."""
    numbers = {match.group(): int(match[2]) for path in folder.iterdir() if (match := _SPLIT.fullmatch(path.name))}
    count = max(numbers.values(), default=-1) + 1
    pairs = [(folder / f"train_{i}.csv", folder / f"test_{i}.csv") for i in range(max(count, 1))]
    if missing := [path for pair in pairs for path in pair if path.name not in numbers]:
        raise UsageError(f"HEST {missing[0]}: no such file; splits are train_0.csv, test_0.csv, train_1.csv, ...")
    return pairs


def _samples(root: Path, table: Path, files: dict[str, tuple[Path, Path]]) -> tuple[str, ...]:
    """Return the samples of a split's half, and add their files (patches, expression) to `files`."""
    try:
        columns, rows = read_sheet(table)
    except (OSError, ValueError) as error:
        raise UsageError(f"HEST {table}: cannot be read ({error})") from None
    if not rows or not set(_COLUMNS) <= set(columns):
        present = ", ".join(columns) if rows else "no rows"
        raise UsageError(f"HEST {table}: needs columns {', '.join(_COLUMNS)}; found {present}")
    names = []
    for row in rows:
        name, *paths = (row[column] for column in _COLUMNS)
        places = (root / paths[0], root / paths[1])
        if missing := [path for path in places if not os.path.isfile(path)]:
            raise UsageError(f"HEST {table}: {missing[0]} of sample {name} is not there; fetch the task again")
        if files.setdefault(name, places) != places or name in names:
            raise UsageError(f"HEST {table}: sample {name} stands in it twice, or with other files than before")
        names.append(name)
    return tuple(names)


def _sample(name: str, patches: Path, expr: Path, genes: Sequence[str], size: int, resize: str) -> Sample:
    barcodes = _barcodes(patches, size, resize)
    counts = read_expression(expr, barcodes, genes)
    with np.errstate(invalid="ignore", divide="ignore"):
        logged = np.log1p(counts)  # the benchmark's only normalisation
    bad = np.argwhere(~np.isfinite(logged))
    if len(bad):
        spot, gene = bad[0]
        raise UsageError(f"HEST {expr}: {genes[gene]} of {barcodes[spot]} is {counts[spot, gene]}; a count is needed")
    return Sample(name, patches, barcodes, logged)


def _barcodes(path: Path, size: int, resize: str) -> tuple[str, ...]:
    """Return the barcode of each patch, and see that the patches are tiles."""
    import h5py

    try:
        barcodes = tuple(read_texts(path, "barcode"))
        with h5py.File(path, "r") as file:
            patches = dataset(file, "img")
            shape, kind = patches.shape, patches.dtype
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UsageError(
            f"HEST {path}: no patches and barcodes can be read from it ({first_line(error)}); fetch it again"
        ) from None
    if kind != np.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or shape[0] != len(barcodes):
        raise UsageError(
            f"HEST {path}: img is {kind} {shape} with {len(barcodes)} barcodes; uint8 (N, S, S, 3) with N are needed"
        )
    if not barcodes:
        raise UsageError(f"HEST {path}: holds no patches")
    if shape[1] != size and resize == "refuse":
        raise UsageError(
            f"HEST {path}: patches of {shape[1]} pixels, {size} are needed; choose --resize crop or --resize squash"
        )
    return barcodes

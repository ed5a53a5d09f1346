"""Feature files are read back by the libraries they are for, appear whole or not at all, and never wait in memory."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepath.bundle.features import check_features_path, write_features
from edgepath.errors import EdgepathError, MissingRuntime, UsageError

SUFFIXES = (".npz", ".h5", ".parquet")
DEAD = "0123456789abcdef"  # of a workspace whose lock nobody holds
METADATA = {"bundle": "tiny", "cautions": ["größer als µ"], "weights": {"random": True}}
# Not ASCII, in more than one byte a letter, outside the first plane, and longer than its neighbours.
NAMES = ["a/0.png", "Färbung/ß.png", "切片/0001.tif", "𝔱𝔦𝔩𝔢.png", "with space, 'quotes' and \"more\".png", "x" * 300]
EACH = pytest.mark.parametrize("suffix", SUFFIXES)


def rows(count: int, dim: int = 8, each: int = 4, names: Sequence[str] = ()) -> Iterator[tuple[list[str], np.ndarray]]:
    """Batches of `each` rows; row i holds the numbers from `i * dim` on."""
    for start in range(0, count, each):
        stop = min(start + each, count)
        values = np.arange(start * dim, stop * dim, dtype=np.float32).reshape(-1, dim)
        yield [names[i] if names else f"tile/{i:06d}.png" for i in range(start, stop)], values


def read(path: Path) -> tuple[np.ndarray, list[str], dict[str, Any]]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            assert sorted(file.files) == ["embeddings", "metadata", "paths"]
            return file["embeddings"], file["paths"].tolist(), json.loads(file["metadata"].item())
    if path.suffix == ".h5":
        import h5py

        with h5py.File(path) as file:
            assert sorted(file) == ["embeddings", "features", "paths"]
            return file["embeddings"][:], file["paths"].asstr()[:].tolist(), json.loads(file.attrs["metadata"])
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    assert table.column_names == ["embeddings", "paths"]
    metadata = json.loads(table.schema.metadata[b"edgepath"])
    values = table["embeddings"].combine_chunks()
    flat = values.flatten().to_numpy()
    assert flat.size == len(values) * values.type.list_size
    return flat.reshape(len(values), -1), table["paths"].to_pylist(), metadata


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def write(path: Path, made: int = 10, dim: int = 8, **changes: Any) -> int:
    values: dict[str, Any] = {"dim": dim, "count": made, "metadata": METADATA} | changes
    return write_features(path, rows(made, dim), **values)


# --- what is written


@EACH
@pytest.mark.parametrize(("count", "each"), [(1, 1), (10, 4), (8, 4), (3000, 7)])
def test_file_holds_rows_names_and_metadata(tmp_path: Path, suffix: str, count: int, each: int) -> None:
    path = tmp_path / f"features{suffix}"
    assert write_features(path, rows(count, each=each), dim=8, count=count, metadata=METADATA) == count
    embeddings, names, metadata = read(path)
    assert (embeddings.dtype, embeddings.shape) == (np.float32, (count, 8))
    np.testing.assert_array_equal(embeddings, np.arange(count * 8, dtype=np.float32).reshape(count, 8))
    assert names == [f"tile/{i:06d}.png" for i in range(count)]
    assert metadata == METADATA
    assert contents(tmp_path) == {path.name}


@EACH
def test_rows_join_over_many_blocks(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepath.bundle.features._BLOCK_BYTES", 1 << 10)  # 32 rows of 8, and few names at once
    assert write(tmp_path / f"f{suffix}", 501) == 501
    embeddings, names, _ = read(tmp_path / f"f{suffix}")
    np.testing.assert_array_equal(embeddings, np.arange(501 * 8, dtype=np.float32).reshape(501, 8))
    assert names == [f"tile/{i:06d}.png" for i in range(501)]


@EACH
def test_names_keep_every_letter(tmp_path: Path, suffix: str) -> None:
    write_features(tmp_path / f"ü{suffix}", rows(6, names=NAMES), dim=8, count=6, metadata=METADATA)
    assert read(tmp_path / f"ü{suffix}")[1] == NAMES


@EACH
def test_float16_and_float64_become_float32(tmp_path: Path, suffix: str) -> None:
    values = [np.full((1, 2), 0.1, dtype) for dtype in (np.float16, np.float64)]
    batches = [([f"{value.dtype}"], value) for value in values]
    write_features(tmp_path / f"f{suffix}", batches, dim=2, count=2, metadata={})
    expected = np.concatenate([value.astype(np.float32) for value in values])
    np.testing.assert_array_equal(read(tmp_path / f"f{suffix}")[0], expected)


@EACH
def test_buffer_that_a_runner_uses_again_is_copied(tmp_path: Path, suffix: str) -> None:
    buffer = np.zeros((1, 4), np.float32)

    def same_buffer() -> Iterator[tuple[list[str], np.ndarray]]:
        for i in range(3):
            buffer[:] = i
            yield [str(i)], buffer

    write_features(tmp_path / f"f{suffix}", same_buffer(), dim=4, count=3, metadata={})
    np.testing.assert_array_equal(read(tmp_path / f"f{suffix}")[0], np.repeat([[0], [1], [2]], 4, axis=1))


@EACH
def test_fewer_rows_than_announced_are_fine(tmp_path: Path, suffix: str) -> None:
    assert write(tmp_path / f"f{suffix}", 10, count=99) == 10
    assert len(read(tmp_path / f"f{suffix}")[0]) == 10


@EACH
def test_empty_batches_change_nothing(tmp_path: Path, suffix: str) -> None:
    nothing: tuple[list[str], np.ndarray] = ([], np.empty((0, 8), np.float32))
    batches = [nothing, *rows(4), nothing]
    assert write_features(tmp_path / f"f{suffix}", batches, dim=8, count=4, metadata={}) == 4
    assert len(read(tmp_path / f"f{suffix}")[1]) == 4


@EACH
def test_folder_of_the_output_is_made(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "a" / "b" / f"f{suffix}")
    assert contents(tmp_path / "a" / "b") == {f"f{suffix}"}


PEAK = """
import resource, sys
import numpy as np
from edgepath.bundle.features import write_features
count, block = int(sys.argv[2]), np.ones((64, 256), np.float32)
batches = (([f"{start + i:09d}.png" for i in range(64)], block) for start in range(0, count, 64))
assert write_features(sys.argv[1], batches, dim=256, count=count, metadata={}) == count
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@EACH
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, suffix: str) -> None:
    peaks = []
    for count in (16_384, 114_688):  # 16 MiB and 112 MiB of rows
        command = [sys.executable, "-c", PEAK, str(tmp_path / f"{count}{suffix}"), str(count)]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        (tmp_path / f"{count}{suffix}").unlink()
    # 96 MiB more rows; the allowance is for what allocators keep and for Parquet's list of row groups.
    assert peaks[1] - peaks[0] < 32, f"{peaks[0]} MiB, then {peaks[1]} MiB"


# --- whole or not at all

# A shell without job control starts what runs in the background with SIGINT ignored, and children inherit that.
HEED = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
ENDLESS = """
import sys, time
import numpy as np
from edgepath.bundle.features import write_features
def batches():
    for i in range(40):
        yield [str(i)], np.ones((1, 1 << 17), np.float32)
    print("written", flush=True)
    time.sleep(600)
write_features(sys.argv[1], batches(), dim=1 << 17, count=99, metadata={}, force=True)
"""


@EACH
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_killed_in_the_middle_leaves_nothing_under_the_final_name(
    tmp_path: Path, suffix: str, how: signal.Signals
) -> None:
    path = tmp_path / f"f{suffix}"
    process = subprocess.Popen(
        [sys.executable, "-c", HEED + ENDLESS, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    assert [name[: len(suffix) + 3] for name in contents(tmp_path)] == [f".f{suffix}."]
    process.send_signal(how)
    process.communicate()
    assert process.returncode != 0
    assert not path.exists()
    if how == signal.SIGINT:
        assert contents(tmp_path) == set()
    write(path)
    assert contents(tmp_path) == {path.name}
    assert len(read(path)[0]) == 10


@EACH
def test_error_of_the_tiles_leaves_the_old_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"f{suffix}"
    write(path, 3)

    def failing() -> Iterator[tuple[list[str], np.ndarray]]:
        yield from rows(4)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_features(path, failing(), dim=8, count=99, metadata={}, force=True)
    assert contents(tmp_path) == {path.name}
    assert len(read(path)[0]) == 3


@EACH
def test_leftovers_of_dead_writers_are_removed_and_no_others(tmp_path: Path, suffix: str) -> None:
    kept = [f".g{suffix}.{DEAD}.partial", f"f{suffix}.{DEAD}.partial"]
    for name in [f".f{suffix}.{DEAD}.partial", *kept]:
        (tmp_path / name).mkdir()
    write(tmp_path / f"f{suffix}")
    assert contents(tmp_path) == {f"f{suffix}", *kept}


@EACH
def test_existing_output_is_refused_before_any_tile_is_embedded(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"f{suffix}"
    path.write_text("precious")
    never = iter(lambda: pytest.fail("a tile was embedded"), None)
    with pytest.raises(UsageError, match="exists; give --force to replace it"):
        write_features(path, never, dim=8, count=3, metadata={})
    assert path.read_text() == "precious"
    assert write(path, force=True) == 10
    assert len(read(path)[0]) == 10


def test_output_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"

    def meanwhile() -> Iterator[tuple[list[str], np.ndarray]]:
        yield from rows(4)
        path.write_text("someone else's")

    with pytest.raises(UsageError, match="exists"):
        write_features(path, meanwhile(), dim=8, count=4, metadata={})
    assert path.read_text() == "someone else's"
    assert contents(tmp_path) == {"f.npz"}


# --- what is refused


@pytest.mark.parametrize("name", ["f.csv", "f", "f.npz.gz", "f.h5ad", ".npz"])
def test_unknown_suffix_names_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"is not known; known: \.npz, \.h5, \.hdf5, \.parquet"):
        write(tmp_path / name)
    assert contents(tmp_path) == set()


def test_folder_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.npz").mkdir()
    for force in (False, True):
        with pytest.raises(UsageError, match="is not a file"):
            check_features_path(tmp_path / "f.npz", force=force)


def test_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot be written \((Not a directory|File exists)"):
        write(tmp_path / "file" / "f.npz")


@EACH
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_row_that_is_not_finite_names_its_tile(tmp_path: Path, suffix: str, value: float) -> None:
    batches = list(rows(12))
    batches[2][1][1, 5] = value
    with pytest.raises(EdgepathError, match=r"embedding of tile/000009\.png is not finite.*edgepath verify"):
        write_features(tmp_path / f"f{suffix}", batches, dim=8, count=12, metadata={})
    assert contents(tmp_path) == set()


@EACH
def test_value_too_large_for_float32_names_its_tile(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(EdgepathError, match="embedding of big is not finite"):
        write_features(tmp_path / f"f{suffix}", [(["big"], np.full((1, 2), 1e300))], dim=2, count=1, metadata={})
    assert contents(tmp_path) == set()


@EACH
def test_no_row_is_an_error_and_writes_nothing(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(EdgepathError, match="not one tile could be embedded; nothing was written"):
        write(tmp_path / f"f{suffix}", 0, count=5)
    assert contents(tmp_path) == set()


@EACH
def test_name_that_is_no_text_is_refused(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(EdgepathError, match=r"the name '\\udcff\.png' is not UTF-8") as caught:
        write_features(tmp_path / f"f{suffix}", rows(1, names=["\udcff.png"]), dim=8, count=1, metadata={})
    str(caught.value).encode()
    assert contents(tmp_path) == set()


@pytest.mark.parametrize(
    ("batches", "count"),
    [
        ([(["a"], np.zeros((1, 7), np.float32))], 1),
        ([(["a"], np.zeros((2, 8), np.float32))], 2),
        ([(["a"], np.zeros(8, np.float32))], 1),
        ([(["a"], np.zeros((1, 8), np.float32)), (["b"], np.zeros((1, 8), np.float32))], 1),
    ],
    ids=["dim", "names", "one-dimensional", "more than announced"],
)
def test_batches_that_break_the_contract_are_bugs(tmp_path: Path, batches: Any, count: int) -> None:
    with pytest.raises(ValueError, match=r"embeddings of shape|were announced"):
        write_features(tmp_path / "f.npz", batches, dim=8, count=count, metadata={})
    assert contents(tmp_path) == set()


def test_metadata_with_nan_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path / "f.npz", metadata={"x": float("nan")})
    assert contents(tmp_path) == set()


@pytest.mark.parametrize(("suffix", "package"), [(".h5", "h5py"), (".parquet", "pyarrow")])
def test_missing_package_names_its_command(tmp_path: Path, suffix: str, package: str) -> None:
    script = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from edgepath.errors import MissingRuntime\nfrom edgepath.bundle.features import write_features\n"
        "try: write_features(sys.argv[1], iter(lambda: 1 / 0, None), dim=8, count=1, metadata={})\n"
        "except MissingRuntime as error: print(error)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / f"f{suffix}")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"{suffix} needs {package}; pip install 'edgepath[features]'" in said
    assert contents(tmp_path) == set()
    assert issubclass(MissingRuntime, EdgepathError)


# --- a full disk


@EACH
def test_disk_that_is_too_small_is_refused_before_any_tile_is_embedded(small_disk: Path, suffix: str) -> None:
    never = iter(lambda: pytest.fail("a tile was embedded"), None)
    with pytest.raises(UsageError, match=r"needs about .* MB, 1\.0 MB are free there; write elsewhere"):
        write_features(small_disk / f"f{suffix}", never, dim=1024, count=1024, metadata={})
    assert contents(small_disk) == set()


@EACH
def test_disk_that_fills_meanwhile_is_one_line(small_disk: Path, suffix: str) -> None:
    path = small_disk / f"f{suffix}"

    def filling() -> Iterator[tuple[list[str], np.ndarray]]:
        (small_disk / "ballast").write_bytes(bytes(900 << 10))
        yield from rows(100, dim=1024)

    with pytest.raises(UsageError, match=r"^disk full while writing .* free; nothing was kept") as caught:
        write_features(path, filling(), dim=1024, count=100, metadata={})
    assert "\n" not in str(caught.value)
    assert contents(small_disk) == {"ballast"}


@EACH
def test_file_size_limit_is_one_line_too(tmp_path: Path, suffix: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, limits[1]))
        with pytest.raises(UsageError, match="disk full"):
            write(tmp_path / f"f{suffix}", 100, dim=1024)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path) == set()


@pytest.mark.parametrize("name", ["f.h5", "f.H5", "f.hdf5", "f.HDF5"])
def test_hdf5_by_any_of_its_names_has_what_slide_tools_read(tmp_path: Path, name: str) -> None:
    import h5py

    places = {"0": (0, 224), "1": (448, -1), "2": (1, 2)}
    embeddings = np.arange(24, dtype=np.float32).reshape(3, 8)
    for coords in (places, {"0": (0, 0)}, None):
        batches = iter([(["0", "1"], embeddings[:2]), (["2"], embeddings[2:])])
        write_features(tmp_path / name, batches, dim=8, count=3, metadata={}, force=True, coords=coords)
        with h5py.File(tmp_path / name) as file:
            assert np.array_equal(file["features"][:], embeddings)
            assert file["features"] == file["embeddings"]  # one dataset of two names: nothing is there twice
            assert ("coords" in file) == (coords is places)
            if coords is places:
                assert file["coords"][:].tolist() == [list(place) for place in places.values()]

"""What every test shares: the real tiles, caches of its own, no hub, and few threads."""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from edgepath.bundle.bundle import Bundle, open_bundle
from edgepath.exporting import Exported, export
from edgepath.machine.garbage import spare_old_objects
from edgepath.models import catalogue as models
from edgepath.models.catalogue import ModelSpec

CHECKOUT = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Set what libraries read when they are first imported, so before any test module is."""
    spare_old_objects()
    cache = tempfile.TemporaryDirectory(prefix="edgepath-tests-")
    config.add_cleanup(cache.cleanup)
    # An example may take what it takes on a busy machine. The same examples each time, so that a failure is the
    # change's; `--hypothesis-profile search` looks for new ones, many times as many.
    slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("edgepath", slow, derandomize=True)
    settings.register_profile("search", slow, max_examples=3000)
    settings.load_profile(config.getoption("--hypothesis-profile") or "edgepath")
    # The user's caches stay out of the tests, and the tests out of the user's caches and off the network.
    os.environ.update(EDGEPATH_CACHE=cache.name, HF_HOME=f"{cache.name}/huggingface", HF_HUB_OFFLINE="1")
    # A number of threads that does not depend on the machine keeps sums, and so the figures compared, the same.
    # Two workers side by side have one each: threads that wait for each other's cores take ten times as long.
    threads = os.environ.get("EDGEPATH_TEST_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, threads)
    # PyTorch's threads that wait would spin on the one core their worker has: four times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if worker and cores and int(os.environ["PYTEST_XDIST_WORKER_COUNT"]) >= len(cores):
        # A core each: runtimes that choose their number of threads themselves would spin on the other worker's.
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have slow tests: one that comes last keeps one worker busy while the other waits."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Modules and tests stay until the end: no collection of garbage has to look at them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout the tests run from."""
    return CHECKOUT


@pytest.fixture(scope="session")
def real_tiles() -> Path:
    """The folder of real tiles beside the checkout; tests that need it are skipped where it is not."""
    folder = CHECKOUT.parent / "shared" / "tiles"
    if not (folder / "manifest.csv").is_file():
        pytest.skip("needs the real tiles: ../shared/tiles (with manifest.csv) beside the checkout")
    return folder


@pytest.fixture(scope="session")
def real_inputs() -> Path:
    """The folder of damaged files beside the checkout; tests that need it are skipped where it is not."""
    folder = CHECKOUT.parent / "shared" / "inputs"
    if not (folder / "README.md").is_file():
        pytest.skip("needs the damaged files: ../shared/inputs beside the checkout")
    return folder


@pytest.fixture(scope="session")
def tiny() -> ModelSpec:
    """H0-mini's block structure, registers and patch size at 96 x 2: what every pass has to get right, in a second."""
    h0_mini = models.find_model("h0-mini")
    arguments = {**h0_mini.timm_args, "embed_dim": 96, "num_heads": 3, "depth": 2}
    return ModelSpec("tiny", "for tests", h0_mini.timm_name, arguments, h0_mini.mean, h0_mini.std, "Apache-2.0")


@pytest.fixture(scope="session")
def known_tiny(tiny: ModelSpec) -> Iterator[ModelSpec]:
    """`tiny`, found by that name like the models that come with edgepath."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "_SPECS", (*models.model_specs(), tiny))
        yield tiny


@pytest.fixture(scope="session")
def tiles() -> np.ndarray:
    """24 synthetic tiles of as many looks, uint8 (24, 224, 224, 3)."""
    from edgepath.tiles.synthetic import synthesize

    return synthesize(24, seed=7)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB; tests that need it are skipped where it cannot be mounted."""
    (tmp_path / "disk").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path / "disk")]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root and the right to mount")
    yield tmp_path / "disk"
    subprocess.run(["umount", tmp_path / "disk"], check=True)


@pytest.fixture(scope="session")
def exports(known_tiny: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Return `tiny` exported for a target, at first use; 32 synthetic tiles to calibrate on, 24 golden ones."""
    out = tmp_path_factory.getbasetemp()
    out = (out.parent if "PYTEST_XDIST_WORKER" in os.environ else out) / "exports"  # workers share them
    out.mkdir(exist_ok=True)

    @functools.cache
    def exported(target: str) -> Exported:
        if target.startswith("executorch-"):
            pytest.importorskip("executorch", reason="needs the extra executorch")
        with FileLock(out / f"{target}.lock"):
            folder = out / f"{known_tiny.name}-{target}"
            if folder.is_dir():
                bundle = open_bundle(folder)
                return Exported(bundle, {key: value for key, value in bundle.manifest.items() if key != "files"})
            return export(
                target, model=known_tiny.name, calibration="synthetic:96", calibration_tiles=32, out=out, device="cpu"
            )

    return exported


@pytest.fixture
def altered(exports: Callable[[str], Exported], tmp_path: Path) -> Callable[..., Bundle]:
    """Return a copy of an exported bundle whose files were changed, and whose manifest says so as if all were well."""

    def alter(target: str, change: Callable[[Path], object]) -> Bundle:
        folder = tmp_path / "altered"
        shutil.copytree(exports(target).bundle.path, folder)
        change(folder)
        manifest = json.loads((folder / "bundle.json").read_text())
        for name in manifest["files"]:
            data = (folder / name).read_bytes()
            manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        (folder / "bundle.json").write_text(json.dumps(manifest))
        return open_bundle(folder)

    return alter

"""Promises about what is shipped: the wheel, its dependencies, a light start, and no trace of one machine."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import edgepath
from edgepath.machine.shipped import data_folder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
# What the package may use but must not need: everything beyond the base dependencies.
# fmt: off
OPTIONAL = (
    "coremltools", "h5py", "huggingface_hub", "matplotlib", "nncf", "onnx", "onnx_ir", "onnxruntime", "onnxscript",
    "openvino", "polygraphy", "pyarrow", "safetensors", "scipy", "sklearn", "tensorrt", "tensorrt_rtx_bindings", "timm",
    "torch", "torch_tensorrt", "torchao", "torchvision",
)
# fmt: on
# The only modules that are PyTorch's own: they rewrite, export and run its programs.
NEED_TORCH = (
    "edgepath.machine.inference",
    *(
        f"edgepath.program.{name}"
        for name in (
            "calibrate",
            "fold",
            "formats",
            "forms",
            "own_embeddings",
            "decomposed",
            "delegable",
            "fused_attention",
            "headroom",
            "linear",
            "operations",
            "qad",
        )
    ),
    *(f"edgepath.program.{name}" for name in ("rescaling", "sensitivity", "smooth", "split_projections", "tune")),
    *(f"edgepath.models.{name}" for name in ("checkpoints", "fitting", "inert", "weightfiles", "weights")),
    *("edgepath.backends.mil_program", "edgepath.backends.onnx.evaluation", "edgepath.backends.onnx.ops"),
    *(f"edgepath.backends.tensorrt_network.{name}" for name in ("evaluation", "ops")),
    *(f"edgepath.distillation.{name}" for name in ("checkpoint", "heads", "loader", "loop", "losses", "networks")),
    *(f"edgepath.distillation.{name}" for name in ("dryrun", "processes", "run", "runfolder", "training")),
    *("edgepath.adapters", "edgepath.quality.plism", "edgepath.quality.pairs"),
)
WITHOUT_OPTIONAL = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL}:
            raise ModuleNotFoundError(f"{{name}} is not installed in this test", name=name)

sys.meta_path.insert(0, Refuse())
"""


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command; on failure show what it printed."""
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="session")
def project(checkout: Path) -> dict[str, Any]:
    return tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def tracked(checkout: Path) -> list[str]:
    """Every file of the project: what git tracks, and what it would track on `git add`."""
    if not (checkout / ".git").exists():
        pytest.skip("needs a git checkout: compares with the files git tracks")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=checkout).stdout
    return sorted(name for name in set(listed.split("\0")) - {""} if (checkout / name).is_file())


@pytest.fixture(scope="session")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel made from the checkout, the sdist, and the wheel made from the sdist."""
    folder = tmp_path_factory.mktemp("built")
    build = (sys.executable, "-m", "build", "--no-isolation")
    run(*build, "--wheel", "--outdir", folder / "checkout", checkout, cwd=folder)
    run(*build, "--sdist", "--outdir", folder / "sdist", checkout, cwd=folder)
    (sdist,) = (folder / "sdist").iterdir()
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # from Python 3.11.4 on
        archive.extractall(folder)
    run(*build, "--wheel", "--outdir", folder / "again", folder / sdist.name.removesuffix(".tar.gz"), cwd=folder)
    (wheel,), (again,) = (folder / "checkout").iterdir(), (folder / "again").iterdir()
    return {"wheel": wheel, "sdist": sdist, "again": again}


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def test_wheel_holds_the_tracked_files_and_nothing_else(
    built: dict[str, Path], tracked: list[str], checkout: Path
) -> None:
    expected = {}
    for name in tracked:
        top = name.partition("/")[0]
        if top == "edgepath":
            expected[name] = (checkout / name).read_bytes()
        elif top in ("export", "calibration"):
            expected[f"edgepath/_data/{name}"] = (checkout / name).read_bytes()
    shipped = {name: data for name, data in contents(built["wheel"]).items() if ".dist-info/" not in name}
    assert sorted(shipped) == sorted(expected)
    assert shipped == expected


def test_only_edgepath_is_installed_at_the_top(built: dict[str, Path], project: dict[str, Any]) -> None:
    top = {name.partition("/")[0] for name in contents(built["wheel"])}
    assert top == {"edgepath", f"edgepath-{project['project']['version']}.dist-info"}


def test_wheel_from_the_sdist_is_the_same(built: dict[str, Path]) -> None:
    assert contents(built["again"]) == contents(built["wheel"])


def test_sdist_holds_what_the_tests_need(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "Makefile", "constraints.txt", "pyproject.toml", "tests/conftest.py"} <= names


def test_data_folders_are_found_in_the_checkout(checkout: Path) -> None:
    assert data_folder("export") == checkout / "export"
    assert data_folder("calibration") == checkout / "calibration"
    assert data_folder("export").is_dir()
    assert data_folder("calibration").is_dir()


def test_data_folders_are_found_in_an_installed_wheel(built: dict[str, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(built["wheel"]) as archive:
        archive.extractall(tmp_path)
    script = "from edgepath.machine.shipped import data_folder as f; print(f('export')); print(f('calibration'))"
    found = run(sys.executable, "-c", script, cwd=tmp_path).stdout.split("\n")[:2]
    assert [Path(line) for line in found] == [tmp_path / "edgepath/_data" / name for name in ("export", "calibration")]
    assert all(any(Path(line).iterdir()) for line in found)


def test_data_folders_hold_no_packages(tracked: list[str]) -> None:
    assert not [n for n in tracked if n.startswith(("export/", "calibration/")) and n.endswith("__init__.py")]


def test_installed_version_is_the_projects(project: dict[str, Any]) -> None:
    assert version("edgepath") == edgepath.__version__ == project["project"]["version"]


def modules(checkout: Path) -> list[str]:
    names = (path.relative_to(checkout).with_suffix("").parts for path in (checkout / "edgepath").rglob("*.py"))
    return sorted(
        {".".join(parts).removesuffix(".__init__") for parts in names if "_data" not in parts} - {"edgepath.__main__"}
    )


def test_every_other_module_imports_without_the_optional_packages(checkout: Path) -> None:
    light = [name for name in modules(checkout) if not name.startswith(NEED_TORCH)]
    assert "edgepath.cli" in light
    script = WITHOUT_OPTIONAL + "import importlib\n" + "".join(f"importlib.import_module({name!r})\n" for name in light)
    run(sys.executable, "-W", "error", "-c", script, cwd=checkout)


def test_what_runs_outside_the_package_imports_what_is_there(checkout: Path) -> None:
    """Benchmarks are not run by the tests, and their imports are not all at the top."""
    files = [path for folder in ("benchmarks", "tools") for path in (checkout / folder).rglob("*.py")]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    asked = {
        (str(node.module), name.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("edgepath.")
        for name in node.names
    }
    assert len(asked) > 20
    known = set(modules(checkout))
    lost = [
        f"{module}.{name}"
        for module, name in sorted(asked)
        if f"{module}.{name}" not in known and not (module in known and hasattr(importlib.import_module(module), name))
    ]
    assert lost == []


@pytest.mark.parametrize("arguments", [["--help"], ["targets"], ["models"]], ids=" ".join)
def test_command_works_without_the_optional_packages(arguments: list[str], checkout: Path) -> None:
    script = WITHOUT_OPTIONAL + f"sys.argv = {['edgepath', *arguments]!r}\nfrom edgepath.cli import main\nmain()"
    assert run(sys.executable, "-W", "error", "-c", script, cwd=checkout).stdout.strip()


@pytest.mark.parametrize("package", ["jinja2", "matplotlib", "msgspec", "numpy", "rich"])
def test_help_imports_nothing_heavy(package: str, checkout: Path) -> None:
    script = "import sys\nfrom edgepath.cli import main\nsys.argv = ['edgepath', '--help']\ntry:\n    main()\n"
    script += f"finally:\n    assert {package!r} not in sys.modules"
    run(sys.executable, "-c", script, cwd=checkout)


def requirements(project: dict[str, Any]) -> list[tuple[str, Requirement]]:
    """Each direct dependency with the extra that asks for it."""
    table = {"": project["project"]["dependencies"], **project["project"]["optional-dependencies"]}
    parsed = [(extra, Requirement(line)) for extra, lines in table.items() for line in lines]
    return [(extra, need) for extra, need in parsed if need.name != "edgepath"]


def on(python: str) -> dict[str, str]:
    return {"python_version": python, "python_full_version": f"{python}.0"}


def test_every_tested_python_is_named(project: dict[str, Any]) -> None:
    named = {line.rpartition(" ")[2] for line in project["project"]["classifiers"] if " :: 3." in line}
    assert named == set(PYTHONS)


def test_constraints_pin_every_direct_dependency(project: dict[str, Any], checkout: Path) -> None:
    lines = (checkout / "constraints.txt").read_text(encoding="utf-8").splitlines()
    form = r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+(; python_version (<|>=) '3\.11')?"
    assert [line for line in lines if not re.fullmatch(form, line)] == []
    for python in PYTHONS:
        here = [line for line in map(Requirement, lines) if line.marker is None or line.marker.evaluate(on(python))]
        pins = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in here}
        assert len(pins) == len(here), f"Python {python}: a package is pinned twice"
        for extra, need in requirements(project):
            if "python_version" in str(need.marker) and not need.marker.evaluate(on(python)):
                continue
            pin = pins.get(canonicalize_name(need.name))
            assert pin is not None, f"extra {extra!r}, Python {python}: {need} is not pinned"
            assert pin in need.specifier, f"extra {extra!r}, Python {python}: {need} does not allow the tested {pin}"


def test_all_is_every_extra_from_the_public_registry_but_betas_and_large_ones(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    (everything,) = (Requirement(line) for line in extras["all"])
    assert everything.extras == set(extras) - {"all", "dev", "docs", "coreai", "executorch"}


def test_no_tracked_file_names_a_machine_or_a_package_index(tracked: list[str], checkout: Path) -> None:
    everyones = {Path("/"), Path("/home"), Path(tempfile.gettempdir())}
    paths = [re.escape(f"{folder}/") for folder in {checkout, checkout.parent, Path.home()} - everyones]
    refused = re.compile(
        r"/home/\w+/|/Users/\w+/|pypi\.org|pythonhosted\.org|download\.pytorch\.org"
        r"|(index-url|find-links|registry|resolved)[\"' =:]+[a-z]+://|" + "|".join(paths)
    )
    found = []
    for name in tracked:
        data = (checkout / name).read_bytes()
        if b"\0" not in data:
            lines = enumerate(data.decode("utf-8").splitlines(), 1)
            found += [f"{name}:{number}: {line.strip()[:120]}" for number, line in lines if refused.search(line)]
    assert found == []


def test_every_make_target_is_documented(checkout: Path) -> None:
    text = (checkout / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):", text, flags=re.MULTILINE))
    assert set(re.findall(r"^#   make ([\w-]+) +\S", text, flags=re.MULTILINE)) == targets
    (phony,) = re.findall(r"^\.PHONY: (.+)", text, flags=re.MULTILINE)
    assert set(phony.split()) == targets
    assert set(re.findall(r"^make ([\w-]+)", run("make", "help", cwd=checkout).stdout, flags=re.MULTILINE)) == targets

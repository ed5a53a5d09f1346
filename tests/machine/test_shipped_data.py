"""The folders of recipes and packs are found beside the package, or inside it where it was installed."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from edgepath.machine import shipped as data


@pytest.mark.parametrize("name", ["export", "calibration"])
@pytest.mark.parametrize("installed", [False, True])
def test_folder_inside_the_package_comes_first(tmp_path: Path, name: str, installed: bool) -> None:
    package = tmp_path / "edgepath"
    (package / "_data" if installed else package).mkdir(parents=True)
    shutil.copy(data.__file__, package / "data.py")
    spec = importlib.util.spec_from_file_location("copy_of_data", package / "data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.data_folder(name) == (package / "_data" if installed else tmp_path) / name


def test_recipes_lie_in_the_folder_that_is_found() -> None:
    assert list(data.data_folder("export").rglob("*.toml"))


def test_link_to_the_package_leads_to_its_data(tmp_path: Path) -> None:
    (tmp_path / "checkout" / "edgepath").mkdir(parents=True)
    shutil.copy(data.__file__, tmp_path / "checkout" / "edgepath" / "data.py")
    (tmp_path / "edgepath").symlink_to(tmp_path / "checkout" / "edgepath")
    spec = importlib.util.spec_from_file_location("linked_data", tmp_path / "edgepath" / "data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.data_folder("export") == tmp_path.resolve() / "checkout" / "export"

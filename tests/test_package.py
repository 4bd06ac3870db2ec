"""The wheel: every module, and the marker by which type checkers read our hints in an installed copy."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.test_house import ORDER


@pytest.mark.processes
def test_the_wheel_holds_every_module_and_the_marker_of_its_types(tmp_path: Path) -> None:
    for name in ORDER:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    found = [*tmp_path.rglob("*.py"), *tmp_path.glob("sampling/web/static/*")]
    wanted = {path.relative_to(tmp_path).as_posix() for path in found}
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        ".",
    ]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == wanted | {f"{name}/py.typed" for name in ORDER}

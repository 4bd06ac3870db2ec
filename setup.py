"""Where a wheel puts our packages: inside `intarsia`, so that their names collide with no others.

pyproject.toml holds everything else. A checkout (`pip install -e .`) has the packages in its root.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

# What commands read, and what the docs' commands are given, beside the packages.
_FOLDERS = ("configs", "examples/coco-mini", "examples/demo-vae", "examples/edits")
# `import intarsia` of an installed copy puts our packages first; then intarsia itself takes this one's place.
_DOOR = '''\
"""Intarsia, installed: importing it makes dataprep, sampling, evaluation, training and slurm importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "_packages"))
del sys.modules[__name__]
import intarsia  # noqa: F401
'''


class BuildPackages(build_py):
    """Builds `intarsia/_packages/PACKAGE`, with configs and examples, as they lie in a checkout."""

    def run(self) -> None:
        """Build; an editable install stays as it is."""
        if self.editable_mode:
            super().run()
            return
        built = Path(self.build_lib)
        shutil.rmtree(built, ignore_errors=True)  # of an earlier version
        self.build_lib = str(built / "intarsia" / "_packages")
        super().run()
        for name in _FOLDERS:
            shutil.copytree(name, Path(self.build_lib, name), ignore=shutil.ignore_patterns("__pycache__"))
        (built / "intarsia" / "__init__.py").write_text(_DOOR, encoding="utf-8")


class NameOnePackage(bdist_wheel):
    """Writes the one top-level name into the wheel's list of them."""

    def egg2dist(self, egginfo_path: str, distinfo_path: str) -> None:
        """Make the metadata of a wheel from those of the source."""
        super().egg2dist(egginfo_path, distinfo_path)
        if not self.get_finalized_command("build_py").editable_mode:
            Path(distinfo_path, "top_level.txt").write_text("intarsia\n", encoding="utf-8")


setup(cmdclass={"build_py": BuildPackages, "bdist_wheel": NameOnePackage})

"""The wheel: one top-level name, beside distributions that install packages of our other names."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from intarsia.weights import save_model
from tests.paths import COCO_MINI, ROOT
from tests.sampling.tiny import tiny_model
from tests.test_house import ORDER

DATA = ["configs", "examples/coco-mini", "examples/demo-vae", "examples/edits"]
BUILD = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "."]
FOREIGN = [
    "dataprep",
    "training",
    "slurm",
]  # as PyPI's dataprep and slurm, and open_clip_torch 2.24, install them
SCRIPTS = ["intarsia", *(f"intarsia-{name}" for name in ORDER[1:])]


def call(command: Sequence[object], cwd: Path, **more: str) -> str:
    """What a command prints; it sees no PYTHONPATH."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | more
    words = [str(word) for word in command]
    run = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is made of, with leftovers of an earlier build."""
    folder = tmp_path_factory.mktemp("source")
    for name in (*ORDER, *DATA):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    (folder / "build/lib/training").mkdir(parents=True)
    (folder / "build/lib/training/old.py").touch()
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    call([sys.executable, "-m", "pip", *BUILD], source)
    [wheel] = source.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel and the foreign packages; the libraries are this environment's."""
    folder = tmp_path_factory.mktemp("venv")
    call([sys.executable, "-m", "venv", "--without-pip", folder], folder)
    [site] = folder.glob("lib/python*/site-packages")
    [libraries] = [path for path in sys.path if (Path(path) / "torch").is_dir()]
    (site / "libraries.pth").write_text(libraries)
    for name in FOREIGN:
        (site / name).mkdir()
        (site / name / "__init__.py").write_text("FOREIGN = True")
    python = folder / "bin/python"
    call(
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel],
        folder,
    )
    return python


@pytest.fixture(scope="module")
def basic(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel and what it needs without extras; linked, not copied."""
    folder = tmp_path_factory.mktemp("basic")
    call([sys.executable, "-m", "venv", "--without-pip", folder], folder)
    [site] = folder.glob("lib/python*/site-packages")
    python = folder / "bin/python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index"]
    call([*install, wheel], folder)
    [own] = site.glob("intarsia-*.dist-info")
    for one in needed(PathDistribution(own)):
        for first in {file.parts[0] for file in one.files or ()} - {"..", "__pycache__"}:
            if not (site / first).exists():
                (site / first).symlink_to(one.locate_file(first))
    return python


def needed(ours: Distribution) -> list[Distribution]:
    """The distributions that one needs without extras, and those that they need."""
    found: dict[str, Distribution] = {}
    wanted: list[tuple[Distribution, set[str]]] = [(ours, set())]
    while wanted:
        one, extras = wanted.pop()
        for requirement in map(Requirement, one.requires or ()):
            marker = requirement.marker
            asked = marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""})
            if asked and requirement.name not in found:
                found[requirement.name] = distribution(requirement.name)
                wanted.append((found[requirement.name], requirement.extras))
    return list(found.values())


@pytest.mark.whole
def test_without_extras_pictures_are_edited(basic: Path, tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path / "model")
    edits = ROOT / "examples/edits"
    inputs = ["--image", COCO_MINI / "images/000000017029.jpg", "--mask", edits / "dog.mask.png"]
    inputs += ["--exemplar", edits / "dog.exemplar.jpg", "--model", "model", "--num-inference-steps", 2]
    for command, more in (("edit", ()), ("invert", ("--method", "direct"))):
        words = ["-m", "intarsia", "sampling", command, *inputs, *more, "--out", f"{command}.png"]
        call([basic, *words], tmp_path)
        assert (tmp_path / f"{command}.png").is_file()


@pytest.mark.whole
@pytest.mark.parametrize(
    "words", ["training none.yaml", "dataprep build coco --annotations a.json --images i --out o"]
)
def test_without_extras_other_packages_say_what_to_install(basic: Path, tmp_path: Path, words: str) -> None:
    command = [basic, "-m", "intarsia", *words.split()]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    extra = words.split()[0]
    wanted = f"error: cv2 is not installed; install it by: python -m pip install -e '.[{extra}]'\n"
    assert (run.returncode, run.stderr) == (1, wanted)


def test_the_image_and_make_setup_install_with_one_script() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = re.findall(r"^RUN (.*)$", (ROOT / "Dockerfile").read_text(), re.M)
    wanted = ",".join(name for name in extras if name != "dev")
    assert lines == [f"/opt/intarsia/docker/install.sh --system {wanted}"] * 2
    assert re.search(r"^\t.* docker/install.sh dev$", (ROOT / "Makefile").read_text(), re.M)
    assert "make setup" in (ROOT / ".ci/run").read_text().splitlines()


@pytest.mark.whole
def test_the_wheel_holds_everything_under_one_name(source: Path, wheel: Path) -> None:
    wanted = [
        path
        for name in ORDER
        for kind in ("*.py", "*.sh", "py.typed")
        for path in (source / name).rglob(kind)
    ]
    wanted += (source / "sampling/web/static").iterdir()
    wanted += [path for name in DATA for path in (source / name).rglob("*") if path.is_file()]
    names = zipfile.ZipFile(wheel).namelist()
    held = {name for name in names if ".dist-info/" not in name}
    inside = {f"intarsia/_packages/{path.relative_to(source).as_posix()}" for path in wanted}
    assert held == inside | {"intarsia/__init__.py"}
    [listed] = [name for name in names if name.endswith("/top_level.txt")]
    assert zipfile.ZipFile(wheel).read(listed) == b"intarsia\n"


@pytest.mark.whole
def test_an_archive_of_the_source_makes_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    build = "import setuptools.build_meta as b; print(b.build_sdist('.'))"
    archive = source / call([sys.executable, "-c", build], source).split()[-1]
    shutil.unpack_archive(archive, tmp_path, filter="data")
    [unpacked] = tmp_path.iterdir()
    call([sys.executable, "-m", "pip", *BUILD], unpacked)
    [again] = unpacked.glob("*.whl")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


@pytest.mark.whole
def test_foreign_packages_of_our_names_stay_and_ours_come_after_intarsia(
    python: Path, tmp_path: Path
) -> None:
    call(
        [python, "-c", "import training, dataprep, slurm as s; assert training.FOREIGN and s.FOREIGN"],
        tmp_path,
    )
    ours = "import intarsia, training.config, dataprep.cli, slurm.cli; from sampling import EditSettings"
    call([python, "-c", ours], tmp_path)
    printed = call([python, "-m", "intarsia", "path"], tmp_path)
    assert (Path(printed.strip()) / "configs/train/demo.yaml").is_file()


@pytest.mark.whole
@pytest.mark.parametrize("script", SCRIPTS)
def test_each_console_script_finds_ours(script: str, python: Path, tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()  # also in the user's own folder
    (tmp_path / "training/__init__.py").write_text("raise SystemExit('foreign')")
    name = script.removeprefix("intarsia-")
    printed = call([python.with_name(script), "--help"], tmp_path)
    assert printed.startswith(f"usage: python -m {name}" if name != script else "usage: intarsia")
    if name != script:
        assert call([python, "-m", "intarsia", name, "--help"], tmp_path) == printed


@pytest.mark.whole
def test_a_folder_with_a_package_called_dataprep_is_refused_by_build(python: Path, tmp_path: Path) -> None:
    (tmp_path / "dataprep").mkdir()
    (tmp_path / "dataprep/__init__.py").touch()
    command = [python.with_name("intarsia"), "dataprep", "build", "coco", "--annotations"]
    command += [COCO_MINI / "annotations.json", "--images", COCO_MINI / "images", "--out", "shards"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    sentence = (
        "has a package of its own called dataprep, which Ray's workers would import; run the command in"
    )
    assert run.returncode == 1 and sentence in run.stderr


@pytest.mark.whole
def test_an_installed_copy_builds_trains_and_edits(python: Path, tmp_path: Path) -> None:
    intarsia = [python, "-m", "intarsia"]
    for name in ("configs", "examples"):
        shutil.copytree(Path(call([*intarsia, "path"], tmp_path).strip()) / name, tmp_path / name)
    coco = tmp_path / "examples/coco-mini"
    files = ["--annotations", coco / "annotations.json", "--images", coco / "images", "--out", "shards"]
    call([*intarsia, "dataprep", "build", "coco", *files, "--image-size", "64"], tmp_path)
    words = ["data.shards=shards", "run=run", "max_steps=1", "global_batch_size=2", "micro_batch_size=1"]
    words += ["preview.every_steps=0", "validation.every_steps=0"]
    torchrun = [
        python,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "1",
        "-m",
        "intarsia",
    ]
    call([*torchrun, "training", "configs/train/demo.yaml", *words], tmp_path, WANDB_MODE="offline")
    edits = tmp_path / "examples/edits"
    files = ["--image", coco / "images/000000017029.jpg", "--mask", edits / "dog.mask.png"]
    files += ["--exemplar", edits / "dog.exemplar.jpg", "--out", "edit.png", "--num-inference-steps", "2"]
    call([python.with_name("intarsia-sampling"), "edit", "--model", "run/model", *files], tmp_path)
    assert (tmp_path / "edit.png").stat().st_size > 1000

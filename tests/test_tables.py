"""What a page lists is what the code has: options, reasons, extras, recipes, folders."""

import re
import tomllib
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from typing import Any

from dataprep.options import add_source_commands
from dataprep.records import RejectReason
from intarsia.command_line import Parser
from intarsia.config import build_config
from tests.paths import ROOT
from training.config import TrainConfig, may_change
from training.option_groups import LoraConfig

# The row `model.*` stands for these, which configs/model and other sections of the page describe.
GEOMETRY = ("unet", "vae", "image_encoder", "text_encoder", "noise", "init", "image_size", "compose")
BATCH = {"micro_batch_size", "grad_accum_steps", "global_batch_size"}  # "the batch options"


def page(name: str, start: str, end: str) -> str:
    """The text of a page between two of its words."""
    found = re.search(f"{re.escape(start)}(.*?){re.escape(end)}", (ROOT / name).read_text(), re.S)
    assert found, (name, start, end)
    return found[1]


def leaves(content: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{above}{name}.")
        else:
            yield above + name


def options_of_training() -> set[str]:
    lora = {f"lora.{name}" for name in LoraConfig.model_fields}
    return {*leaves(build_config(TrainConfig, {}, "").model_dump(mode="json"))} - {"lora"} | lora


def first_cells(text: str) -> Iterator[str]:
    """Names in the first column of tables; `.x` behind `a.b` is `a.x`."""
    for row in re.findall(r"^\| (`.*?) \|", text, re.M):
        group = ""
        for name in re.findall(r"`([^`]+)`", row):
            group = group if name.startswith(".") else name.rpartition(".")[0]
            yield group + name if name.startswith(".") else name


def test_every_option_of_training_has_a_row_and_every_row_is_one() -> None:
    tables = [page("docs/training.md", "\n## Options", "\n## Metrics")]
    tables.append(page("docs/training.md", "\n## Text", "\n## The order"))
    shown = {*first_cells("".join(tables))} - {"model.*", "speed.*"}
    geometry = tuple(f"model.{name}" for name in GEOMETRY)
    options = options_of_training()
    assert {name for name in options - shown if not name.startswith(geometry)} == set()
    assert shown - options - {"model.noised"} == set()  # a group, null unless it is used


def test_the_page_names_what_may_change_between_two_calls_of_a_run() -> None:
    text = page("docs/training.md", "These may change between two calls:", "RUN/.lock")
    free, _, fixed = text.partition("`speed.*` except ")
    patterns = [*re.findall(r"`([^`]+)`", free), "model.init.*", "speed.*", "run", "data.shards", *BATCH]
    kept = {f"speed.{name}" for name in re.findall(r"`(\w+)`", fixed)}
    for name in options_of_training():
        said = name not in kept and any(fnmatch(name, pattern) for pattern in patterns)
        assert may_change(name) is said, name


def test_the_page_has_every_option_and_every_reason_of_data_prep() -> None:
    build, text = Parser(prog="build"), (ROOT / "docs/dataprep.md").read_text()
    add_source_commands(build, lambda _: 0)
    options = {option for action in build._actions for option in options_below(action.choices)}
    assert len(options) > 40
    assert {name for name in options if not re.search(rf"{name}(?![\w-])", text)} == {"-h", "--help"}
    assert [reason.value for reason in RejectReason if f"`{reason.value}`" not in text] == []


def options_below(commands: Any) -> Iterator[str]:
    for parser in commands.values() if isinstance(commands, dict) else ():
        assert isinstance(parser, ArgumentParser)
        for action in parser._actions:
            yield from action.option_strings


def test_pages_have_every_extra_every_recipe_and_every_folder() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = page("docs/install.md", "Extras:", "\n- ")
    assert {name for name in project["optional-dependencies"] if f"`{name}`" not in extras} == {"dev"}
    recipes = page("docs/training.md", "\n## Recipes", "\n## Options")
    assert [path for path in (ROOT / "configs/train").glob("*.yaml") if f"`{path.name}`" not in recipes] == []
    shown, package = set(), ""
    tree = page("README.md", "\n## Where things are", "\n## ")
    for depth, name in re.findall(r"^ {4}(  )?(\w+)/ ", tree, re.M):
        package = package if depth else name
        shown.add(f"{package}/{name}" if depth else name)
    folders = {str(file.parent.relative_to(ROOT)) for file in ROOT.glob("*/*/__init__.py")}
    assert {name for name in folders - shown if not name.startswith(("tests/", "benchmarks/"))} == set()

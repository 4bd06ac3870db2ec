"""Every command in README and docs: its parser takes it and another test runs it, or a table says why not.

So a renamed option or a misspelt key of a config is found here, and a command that nothing runs. A required
argument may be missing: pages leave out what was said before.
"""

import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from intarsia.command_line import Parser
from intarsia.config import load_config
from intarsia.errors import UsageError
from tests.paths import ROOT
from tests.test_docs import PAGES
from training.config import TrainConfig

PACKAGES = ("dataprep", "training", "sampling", "evaluation", "slurm")
SCRIPTS = {
    "slurm/train.sh": ["training"],
    "slurm/dataprep.sh": ["dataprep"],
    "slurm/sample.sh": ["sampling", "batch"],
    "slurm/evaluate.sh": ["evaluation"],
}
ENDS = (SystemExit, AttributeError, TypeError)  # the last two: where an argument that is missing is needed
NOT_TRIED = {  # beginning of a command -> why
    "apptainer build": "needs Apptainer and Docker",
    "curl ": "downloads gigabytes",
    "unzip ": "of what curl gets",
    "docker ": "needs a Docker daemon; tests/test_package.py has the RUN lines",
    "hf auth login": "the Hub's own command",
    "wandb ": "W&B's own command, which needs a server",
    "make ": "tests/test_docs.py: every target exists",
    "pip install": "installs",
    "python -m pip": "tests/test_package.py makes and installs the wheel",
    "python -m pytest": "pytest's own",
    "python -m benchmarks.": "minutes of computing; each benchmark has a test",
    "python examples/": "tests/examples runs them",
    "python -m dataprep build lines": "a source that the page adds; tests/test_extending.py runs it",
    "python -m evaluation folders": "a bench that the page adds",
    "python -m evaluation bench mine.csv --results RESULTS --with": "a number that the page adds",
    "source ": "the shell's own",
    "export ": "the shell's own",
}
RUN_IN = {  # command -> the file of tests/ that runs it
    "dataprep build boxes": "dataprep/test_boxes_csv.py",
    "dataprep build coco": "dataprep/test_estimate.py",
    "dataprep build openimages": "dataprep/test_estimate.py",
    "dataprep build pairs": "dataprep/test_pairs.py",
    "dataprep build video": "dataprep/test_video.py",
    "dataprep build voc": "dataprep/test_voc.py",
    "dataprep build yolo": "dataprep/test_yolo.py",
    "dataprep duplicates": "dataprep/test_filters.py",
    "dataprep index": "dataprep/test_foreign.py",
    "dataprep pull": "test_hub.py",
    "dataprep push": "test_hub.py",
    "dataprep show": "dataprep/test_sight.py",
    "dataprep stats": "dataprep/test_sight.py",
    "dataprep verify": "dataprep/test_verify.py",
    "evaluation anyinsertion": "evaluation/test_object_benches.py",
    "evaluation bench": "evaluation/test_exemplars.py",
    "evaluation bench run": "evaluation/test_exemplars.py",
    "evaluation cocoee": "evaluation/test_exemplars.py",
    "evaluation cocoee run": "evaluation/test_exemplars.py",
    "evaluation cocoee-sources": "evaluation/test_cocoee_sources.py",
    "evaluation compare": "evaluation/test_exemplars.py",
    "evaluation dreambooth run": "evaluation/test_object_benches.py",
    "evaluation fid": "evaluation/test_sets_command.py",
    "evaluation identity": "evaluation/test_identity.py",
    "evaluation judge export": "evaluation/test_judge.py",
    "evaluation judge import": "evaluation/test_judge.py",
    "evaluation piebench": "evaluation/test_piebench.py",
    "evaluation piebench run": "evaluation/test_piebench_run.py",
    "sampling batch": "sampling/test_cli.py",
    "sampling edit": "sampling/test_cli.py",
    "sampling export": "sampling/test_cli.py",
    "sampling import": "sampling/test_cli.py",
    "sampling invert": "sampling/test_invert_prompts.py",
    "sampling merge-lora": "sampling/test_cli.py",
    "sampling pull": "test_hub.py",
    "sampling push": "test_hub.py",
    "sampling serve": "web/test_browser.py",
    "sampling show": "sampling/test_cli.py",
    "slurm doctor": "slurm/test_doctor.py",
    "slurm submit": "slurm/test_submit.py",
    "training cache-latents": "training/test_latents.py",
    "training ema": "training/test_ema.py",
    "training estimate": "training/test_estimate.py",
    "training report": "training/test_report.py",
}
PROGRAMS = "python|torchrun|sbatch|intarsia|make|docker|apptainer|hf|wandb|curl|unzip|pip|source|export"
STARTS = rf"(?:[A-Z_]+=\S+ )*(?:{PROGRAMS}) [^\s<]"
PAGES_WITH_COMMANDS = [page for page in PAGES if page.name not in ("CHANGELOG.md",)]
OPEN = ("…", "...")  # what the reader is to fill in
VALUES = {"N": "2", "NAME": "a100-80"}


class Command(NamedTuple):
    """A command of a page."""

    page: str
    text: str


def commands_of(page: Path) -> Iterator[Command]:
    """Commands in indented blocks, and in backticks where they name one of our packages or scripts."""
    text, name = page.read_text(), str(page.relative_to(ROOT))
    for block in re.findall(r"(?:^    .*\n?)+", text, re.M):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            for part in line.strip().split(" && "):
                if re.match(STARTS, part):
                    yield Command(name, part)
    for inline in re.findall(r"`([^`\n]+)`", re.sub(r"^    .*$", "", text, flags=re.M)):
        if re.match(STARTS, inline) and ours(words_of(inline)):
            yield Command(name, inline)


def words_of(text: str) -> list[str]:
    """The words, without a comment and without the brackets of what may be left out."""
    text = re.sub(r"\[(-[^\]]+|a\.b=c[^\]]*|FOLDER[^\]]*)\]", r"\1", re.sub(r"\s+#.*", "", text))
    try:
        words = shlex.split(text)
    except ValueError:
        return []
    return [VALUES.get(word, word) for word in words if word != "a.b=c"]


def ours(words: list[str]) -> list[str]:
    """Package and arguments of a command of ours, in whatever way it is started; else nothing."""
    for number, word in enumerate(words):
        if word in SCRIPTS:
            return [*SCRIPTS[word], *words[number + 1 :]]
        before = words[number - 1] if number else ""
        if word in PACKAGES and before in ("-m", "intarsia"):
            return words[number:]
    return []


def complaint(words: list[str]) -> str:
    """What the package's own parser says against a command; nothing where it takes it."""
    package, *rest = words
    arguments = [
        "x" if word in OPEN else word  # the value of an option, or more words
        for before, word in zip(words, rest, strict=False)
        if word not in OPEN or before.startswith("--")
    ]
    if package == "training" and arguments and not is_command_beside(arguments[0]):
        return config_complaint(arguments)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(*ENDS):
        importlib.import_module(f"{package}.__main__").main(arguments)
    return said.getvalue()


def is_command_beside(word: str) -> bool:
    return word in ("cache-latents", "ema", "estimate", "report")


def config_complaint(arguments: list[str]) -> str:
    """`python -m training CONFIG a.b=c`: the config must exist if it is one of ours, with these keys."""
    config = ROOT / (arguments[0] if arguments[0].startswith("configs/") else "configs/train/demo.yaml")
    overrides = [word for word in arguments[1:] if not word.startswith("--")]
    try:
        load_config(TrainConfig, config, overrides)
    except UsageError as error:
        return str(error)
    return ""


@pytest.fixture
def parsing_only(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No command does anything, and none misses an argument; the names of those that would have run."""
    ran: list[str] = []
    error = Parser.error

    def let_open(self: Parser, message: str) -> None:
        if not message.startswith("the following arguments are required"):
            error(self, message)

    def set_defaults(self: Parser, **values: Any) -> None:
        if "run" in values:
            values["run"] = lambda _: ran.append(self.prog)
        super(Parser, self).set_defaults(**values)

    monkeypatch.setattr(Parser, "error", let_open)
    monkeypatch.setattr(Parser, "set_defaults", set_defaults, raising=False)
    return ran


COMMANDS = [command for page in PAGES_WITH_COMMANDS for command in commands_of(page)]


@pytest.mark.parametrize("page", sorted({command.page for command in COMMANDS}))
def test_every_command_is_one_that_its_parser_takes(page: str, parsing_only: list[str]) -> None:
    wrong = {}
    for _, text in (command for command in COMMANDS if command.page == page):
        if any(text.startswith(start) for start in NOT_TRIED):
            continue
        words = ours(words_of(text))
        if said := complaint(words) if words else "not a command of ours, and not in the table":
            wrong[text] = said
    assert not wrong


def test_a_test_runs_every_command(parsing_only: list[str]) -> None:
    for _, text in COMMANDS:
        words = ours(words_of(text))
        if words and "=" not in text.split()[0] and not any(text.startswith(start) for start in NOT_TRIED):
            complaint(words)
    shown = {name.removeprefix("python -m ") for name in parsing_only}
    assert sorted(shown ^ RUN_IN.keys()) == []
    for name, file in RUN_IN.items():
        called = ", ".join(f'"{word}"' for word in name.split()[1:])
        assert called in (ROOT / "tests" / file).read_text(), f"{file} does not run {name}"


def test_every_reason_is_used() -> None:
    unused = [start for start in NOT_TRIED if not any(c.text.startswith(start) for c in COMMANDS)]
    assert not unused
    assert len(COMMANDS) > 150


def test_what_is_wrong_is_found(parsing_only: list[str]) -> None:
    right = "sbatch --array=0-7 slurm/sample.sh jobs.csv --model m --out o --num-inference-steps 5"
    assert not complaint(ours(words_of(right))) and parsing_only == ["python -m sampling batch"]
    assert not complaint(ours(words_of("python -m dataprep build coco … --image-size 64  # why")))
    for text, said in {
        "python -m sampling edit … --mdoel m": "unrecognized arguments: --mdoel",
        "torchrun -m training configs/train/none.yaml": "does not exist",
        "torchrun -m training configs/train/demo.yaml optimizer.lrr=1": "lrr",
        "python -m slurm doctor --nodes two": "invalid int value",
        "intarsia dataprep biuld": "invalid choice",
    }.items():
        assert said in complaint(ours(words_of(text))), text

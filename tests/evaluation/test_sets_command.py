"""`fid`: folders and statistics, kept and read again."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.nets import tiny_clip
from evaluation.benches.bench import BENCHES
from evaluation.cli import main
from evaluation.measures import features
from evaluation.scoring.distributions import frechet_distance, kernel_distance
from evaluation.scoring.moments import moments_of
from evaluation.scoring.scorer import progress
from sampling.pictures import read_picture
from tests.paths import ROOT


def fill_folder(folder: Path, shift: int, count: int = 24) -> Path:
    rng = np.random.default_rng(shift)
    folder.mkdir()
    for number in range(count):
        y, x = np.mgrid[:60, :80]
        waves = 127 + 90 * np.sin(x[..., None] / rng.uniform(3, 20) + y[..., None] / 9 + rng.uniform(0, 6, 3))
        Image.fromarray((waves + shift).clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def sets(tmp_path) -> tuple[Path, Path, list[str]]:
    clip = tiny_clip(tmp_path / "clip", width=8)
    options = ["--features", "clip-b32", "--weights", f"clip-b32={clip}", "--store", str(tmp_path / "store")]
    return fill_folder(tmp_path / "a", 0), fill_folder(tmp_path / "b", 40), options


def test_the_command_gives_what_the_functions_give(sets, tmp_path, capsys) -> None:
    a, b, options = sets
    assert main(["fid", str(a), str(b), *options, "--kid", "--save", str(tmp_path / "a.npz")]) == 0
    shown = capsys.readouterr().out
    measure = features.clip("clip-b32", {"clip-b32": tmp_path / "clip"}).whole
    rows = [
        measure.network.run(np.stack([measure.prepare(read_picture(p)) for p in sorted(folder.iterdir())]))
        for folder in (a, b)
    ]
    distance = frechet_distance(*(moments_of([row]) for row in rows))
    assert float(shown.split()[2]) == pytest.approx(distance, abs=1e-4)
    assert float(shown.split("10³ ")[1].split()[0]) == pytest.approx(
        1e3 * kernel_distance(*rows).mean, abs=1e-2
    )
    assert "24 pictures, clip-b32/bicubic224/v1@" in shown
    assert main(["fid", str(tmp_path / "a.npz"), str(b), *options]) == 0
    again = capsys.readouterr().out
    assert again.splitlines()[0] == shown.splitlines()[0]
    assert main(["fid", str(tmp_path / "a.npz"), str(tmp_path / "a.npz")]) == 0  # needs no network at all
    assert capsys.readouterr().out.startswith("Fréchet distance 0.0000")


def test_test2017_is_looked_at_through_its_middle(sets, capsys) -> None:
    a, b, options = sets
    options[1] = "clip-b32-test2017"
    assert main(["fid", str(a), str(b), *options]) == 0
    shown = capsys.readouterr().out
    assert f"{a}: 24 pictures, clip-b32/middle512-bicubic224/v1@" in shown
    assert f"{b}: 24 pictures, clip-b32/bicubic224/v1@" in shown


def test_too_few_pictures_are_told_and_none_refused(sets, tmp_path, capsys) -> None:
    a, _, options = sets
    few = fill_folder(tmp_path / "few", 1, 5)
    assert main(["fid", str(a), str(few), *options]) == 0
    assert "warning: 5 pictures leave a covariance of 8 dimensions" in capsys.readouterr().err
    assert main(["fid", str(a), str(tmp_path / "store"), *options]) == 1
    assert "holds 0 pictures" in capsys.readouterr().err
    assert main(["fid", str(a), str(tmp_path / "x.npz"), "--kid", *options]) == 2
    assert "--kid needs the pictures themselves" in capsys.readouterr().err
    np.savez(tmp_path / "wide.npz", mu=np.zeros(9), sigma=np.eye(9))
    assert main(["fid", str(a), str(tmp_path / "wide.npz"), *options]) == 1
    assert "statistics of 8 and of 9 dimensions cannot be compared" in capsys.readouterr().err
    assert main(["fid", str(a), str(few), "--save", str(tmp_path / "stats.npy"), *options]) == 2
    assert "stats.npy must end in .npz; other files are not read again" in capsys.readouterr().err


class Stream:
    def __init__(self, terminal: bool) -> None:
        self.terminal, self.text = terminal, ""

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_progress_is_one_line_on_a_terminal_and_few_lines_elsewhere() -> None:
    for terminal in (True, False):
        stream, times = Stream(terminal), iter(range(100))
        with progress("fid", stream, lambda times=times: next(times)) as report:
            for done in range(1, 31):
                report(done, 30)
        assert stream.text.count("\n") == (1 if terminal else 4)
        assert "fid: 1/30, 1.0/s, 29 s left" in stream.text
        assert "fid: 30/30, 1.0/s" in stream.text


def options_of(words: list[str], capsys) -> set[str]:
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    return set(re.findall(r"--[a-z][a-z0-9-]+", capsys.readouterr().out)) - {"--help", "--debug"}


def test_the_docs_name_every_option_and_their_commands_parse(capsys) -> None:
    text = (ROOT / "docs" / "evaluation.md").read_text()
    documented = set(re.findall(r"--[a-z][a-z0-9-]+", text))
    runs = options_of(["cocoee", "run"], capsys) | options_of(["bench", "run"], capsys)
    scoring = [[name] for name in (*BENCHES, "compare", "fid", "cocoee-sources")]
    scoring += [["judge", "export"], ["judge", "import"]]
    valid = set().union(*(options_of(words, capsys) for words in scoring))
    own = {"--shard", "--edits-at-once", "--model", "--fit", "--no-composite"}
    assert own <= runs
    assert valid <= documented
    edits = options_of(["piebench", "run"], capsys)
    assert documented <= valid | own | edits | {"--array"}  # sbatch's
    for line in re.findall(r"python -m evaluation (.*)", text):
        words = line.split("`")[0].split()
        assert set(re.findall(r"--[a-z][a-z0-9-]+", line)) <= options_of(
            words[: 1 + (words[1] in ("run", "export", "import"))], capsys
        )

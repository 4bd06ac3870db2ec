"""Links, file names and dotted module names in Markdown: what they point at exists."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.paths import ROOT

PACKAGES = ["intarsia", "dataprep", "sampling", "evaluation", "training", "slurm", "benchmarks", "tests"]
# A changelog names files as they were when its line was written.
HISTORY = {"CHANGELOG.md"}
LINK = re.compile(
    r"\]\(\s*<?([^)\s>]+)>?(?:\s+[\"'][^)]*)?\)|^\[[^\]]+\]:\s*(\S+)|(?:href|src)=\"([^\"]+)\"", re.M
)
FOLDERS = [*PACKAGES, "configs", "docs", "examples", ".github"]
FILE = re.compile(rf"(?<![\w/.:-])(?:{'|'.join(FOLDERS)})(?:/[\w.*-]+)+\.(?:py|sh|ya?ml|md)\b")
PLACEHOLDER = re.compile(r"/[A-Z]+\.(?:py|sh|ya?ml)")  # examples/NAME.py
BLOCK_OF_FILE = re.compile(r"^```python\n# (\S+\.py)$", re.M)  # what the reader is to write
DOTTED = re.compile(rf"(?<![\w/.-])(?:{'|'.join(PACKAGES)})(?:\.[A-Za-z_]\w*)+(?!\w)")
SUFFIXES = {"md", "py", "sh", "yaml", "json", "jsonl", "csv", "png", "html", "npz"}


def markdown_files(root: Path) -> list[Path]:
    """Every Markdown file of the checkout but those in ignored folders."""
    ignored = {line.strip("/") for line in (root / ".gitignore").read_text().splitlines()} | {".git"}
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in ignored]
        found += [Path(folder, name) for name in files if name.endswith(".md")]
    return sorted(found)


def without_code(text: str) -> str:
    """The text with code blocks and inline code blanked: brackets there are no links."""
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    text = re.sub(r"^(```|~~~).*?^\1", "", path.read_text(), flags=re.M | re.S)
    seen: Counter[str] = Counter()
    names = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", text, re.M):
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)  # the words of a link
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        names.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return names


def dead_links(path: Path) -> Iterator[str]:
    for groups in LINK.findall(without_code(path.read_text())):
        target = unquote(next(filter(None, groups)))
        if re.match(r"[a-z][a-z0-9+.-]*:", target):  # another site, or mail
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            yield target


def lost_files(path: Path, root: Path) -> Iterator[str]:
    text = path.read_text()
    written = BLOCK_OF_FILE.findall(text)
    for name in FILE.findall(text):
        if name not in written and not PLACEHOLDER.search(name) and not any(root.glob(name)):
            yield name


def lost_names(path: Path, root: Path) -> Iterator[str]:
    text = path.read_text()
    written = [name.removesuffix(".py").replace("/", ".") for name in BLOCK_OF_FILE.findall(text)]
    for name in DOTTED.findall(text):
        parts = name.split(".")
        own = any(f"{name}.".startswith(f"{module}.") for module in written)
        if not own and parts[-1] not in SUFFIXES and not is_defined(parts, root):
            yield name


def is_defined(parts: list[str], root: Path) -> bool:
    """Whether a dotted name is a module, or the longest module in front of it defines the next word."""
    for length in range(len(parts), 0, -1):
        place = root.joinpath(*parts[:length])
        module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if length == len(parts) and (place.is_dir() or module.is_file()):
            return True
        if module.is_file():
            definition = rf"^\s*(?:def|class) {parts[length]}\b|^{parts[length]}\b|\"{parts[length]}\""
            return bool(re.search(definition, module.read_text(), re.M))
    return False


PAGES = markdown_files(ROOT)
COMMANDS = [*PAGES, ROOT / ".pre-commit-config.yaml", *sorted((ROOT / ".github").rglob("*.yml"))]
each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


@each_page
def test_no_relative_link_is_dead(path: Path) -> None:
    assert not list(dead_links(path))


@each_page
def test_every_file_that_is_named_exists(path: Path) -> None:
    if path.name not in HISTORY:
        assert not list(lost_files(path, ROOT))


@each_page
def test_every_dotted_name_is_defined(path: Path) -> None:
    if path.name not in HISTORY:
        assert not list(lost_names(path, ROOT))


PAGE = """\
[a](other.md#one-word) [b](other.md#one-word-1) [c](other.md#a-twice-and-so-on) [d](#here) [e](https://x.y/z)
[f](gone.md) [g](other.md#no-heading) ![h](gone.png) [i](#away) `[code](gone)` <img src="lost.jpg">

# Here

[j]: gone.txt

dataprep/build.py, dataprep/gone.py, RUN/config.yaml, dataprep/NAME.py, dataprep/*.py, dataprep/*.sh
mine/own.py, dataprep.build, dataprep.build.run, dataprep.build.walk, dataprep.gone, dataprep.md

```python
# dataprep/yours.py
```

dataprep/yours.py, dataprep.yours
"""


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_target_of_make_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = re.findall(r"(?:^    |`|(?:run|entry): )make (?:--silent )?([a-z-]+)", path.read_text(), re.M)
    assert set(named) <= targets


def test_what_is_dead_is_found(tmp_path: Path) -> None:
    headings = ["# One word", "## `A` twice, and so on", "# One word", "```", "# no heading", "```"]
    (tmp_path / "other.md").write_text("\n".join(headings))
    (tmp_path / "dataprep").mkdir()
    (tmp_path / "dataprep/build.py").write_text("def run():\n    pass\n")
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    dead = ["#away", "gone.md", "gone.png", "gone.txt", "lost.jpg", "other.md#no-heading"]
    assert sorted(dead_links(page)) == dead
    assert list(lost_files(page, tmp_path)) == ["dataprep/gone.py", "dataprep/*.sh"]
    assert list(lost_names(page, tmp_path)) == ["dataprep.build.walk", "dataprep.gone"]

"""The laws that can be read off the source: who imports whom, how long things are, what --help loads."""

import ast
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.paths import ROOT

ORDER = ["intarsia", "dataprep", "sampling", "evaluation", "training", "slurm"]
HEAVY = ["torch", "ray", "diffusers", "deepspeed", "transformers", "starlette", "albumentations"]
LONG = ("loop.py", "cli.py", "__main__.py")  # whose functions may have 120 lines
DOORS = {"intarsia": 22}  # folders that may have more than 15 modules
EVERYWHERE = {"main", "add", "run"}  # the same word for the same thing in every package
TWICE = {  # public names that may be defined in several places, and why
    "log": "the logger of a module",
    "SOURCE": "the value of a module of dataprep/sources, that a row of SOURCES names",
    "KIND": "the value of a module of intarsia/conditions, that a row of CONDITIONS names",
    "MASK": "the value of a module of dataprep/masks, that a row of MASKS names",
    "TOWER": "the value of a module of intarsia/towers, that a row of TOWERS names",
    "TASK": "the value of a module of training/objective, that a row of TASKS names",
    "COUPLING": "the value of a module of sampling/couplings, that a row of COUPLINGS names",
    "PAINTER": "the value of a module of sampling/painters, that a row of PAINTERS names",
}


def sources(root: Path) -> dict[str, Path]:
    """Module -> file of all packages; a package is called by its own name."""
    paths = [path for package in ORDER for path in sorted((root / package).rglob("*.py"))]
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }


def imports(path: Path) -> Iterator[str]:
    """All that a file imports, inside functions too; `from a import b` is a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def upward(root: Path) -> list[str]:
    """Imports of packages that stand right of the importing one."""
    rank = {package: number for number, package in enumerate(ORDER)}
    return [
        f"{module} imports {name}"
        for module, path in sources(root).items()
        for name in imports(path)
        if rank.get(name.split(".")[0], 0) > rank[module.split(".")[0]]
    ]


def rings(root: Path, words: int) -> list[str]:
    """Imports that lie on a ring of modules, or, with two words of their names, of chapters and doors."""
    modules, edges = sources(root), defaultdict(set)
    for module, path in modules.items():
        for name in imports(path):
            target = name if name in modules else name.rpartition(".")[0]
            here, there = (".".join(full.split(".")[:words]) for full in (module, target))
            if target in modules and here != there:
                edges[here].add(there)

    def reached(start: str) -> set[str]:
        found, new = set(), {start}
        while new:
            found |= new
            new = set().union(*(edges[node] for node in new if node in edges)) - found
        return found

    return [f"{a} -> {b}" for a in sorted(edges) for b in sorted(edges[a]) if a in reached(b)]


def too_long(root: Path) -> list[str]:
    """Files of more than 400 lines, and functions of more than 60."""
    found = []
    for path in sources(root).values():
        text = path.read_text()
        if text.count("\n") > 400:
            found.append(f"{path.relative_to(root)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > (120 if path.name in LONG else 60):
                    found.append(f"{path.relative_to(root)}: {node.name} has {lines} lines")
    return found


def crowded(root: Path) -> list[str]:
    """Folders of more than 15 modules."""
    counts = Counter(path.parent.relative_to(root).as_posix() for path in sources(root).values())
    return [f"{folder}: {count} modules" for folder, count in counts.items() if count > DOORS.get(folder, 15)]


def twice(root: Path) -> list[str]:
    """Public classes, functions and constants that are defined in more than one place."""
    places = defaultdict(list)
    for module, path in sources(root).items():
        for node in ast.parse(path.read_text()).body:
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    names = [name]
                case ast.Assign(targets=targets):
                    names = [target.id for target in targets if isinstance(target, ast.Name)]
                case ast.AnnAssign(target=ast.Name(id=name)):
                    names = [name]
                case _:
                    names = []
            for name in names:
                if not name.startswith("_") and name not in EVERYWHERE and name not in TWICE:
                    places[name].append(module)
    return [f"{name}: {', '.join(modules)}" for name, modules in places.items() if len(modules) > 1]


def misnamed(root: Path) -> list[str]:
    """Modules of commands/ that declare no command, or another than their own name says."""
    found = []
    for path in (path for path in sources(root).values() if path.parent.name == "commands"):
        text = path.read_text()
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        added = [call.args[0] for call in calls if getattr(call.func, "attr", "") == "add_parser"]
        named = [word.value for word in added if isinstance(word, ast.Constant)]  # others: rows of a table
        words = [name.replace("-", "_").replace(" ", "_") for name in named]
        if path.stem != "__init__" and words != [path.stem.rstrip("_")]:
            found.append(f"{path.relative_to(root)} declares {named}")
    return found


LAWS: dict[str, Callable[[Path], list[str]]] = {
    "imports point down only": upward,
    "chapters form no ring": partial(rings, words=2),
    "modules form no ring": partial(rings, words=9),
    "files and functions can be read": too_long,
    "folders hold a chapter": crowded,
    "a public name is defined once": twice,
    "a command has its module's name": misnamed,
    "no module bears a standard library's name": lambda root: [
        module for module in sources(root) if module.rpartition(".")[2] in sys.stdlib_module_names
    ],
}


@pytest.mark.parametrize("law", LAWS)
def test_the_house_keeps(law: str) -> None:
    assert LAWS[law](ROOT) == []


BROKEN = {  # law -> files that break it, and what is said of them
    "imports point down only": (
        {"sampling/a/b.py": "def f():\n    from training.loop import run"},
        ["sampling.a.b imports training.loop.run"],
    ),
    "chapters form no ring": (
        {
            "slurm/__init__.py": "",
            "slurm/door.py": "from slurm.a.one import f",
            "slurm/a/one.py": "def f():\n    from slurm.b import two",
            "slurm/b/two.py": "import slurm.door",
            "slurm/b/three.py": "from slurm.b.two import g",
        },
        ["slurm.a -> slurm.b", "slurm.b -> slurm.door", "slurm.door -> slurm.a"],
    ),
    "modules form no ring": (
        {"slurm/b/two.py": "from slurm.b import three", "slurm/b/three.py": "from slurm.b.two import g"},
        ["slurm.b.three -> slurm.b.two", "slurm.b.two -> slurm.b.three"],
    ),
    "files and functions can be read": (
        {
            "slurm/long.py": "# line\n" * 401,
            "slurm/a/f.py": "async def f():\n" + "    g()\n" * 60,
            "slurm/cli.py": "def f():\n" + "    g()\n" * 119,
        },
        ["slurm/a/f.py: f has 61 lines", "slurm/long.py: 401 lines"],
    ),
    "folders hold a chapter": (
        {
            f"{folder}/m{n}.py": ""
            for folder, most in (("intarsia", 22), ("slurm/a", 16))
            for n in range(most)
        },
        ["slurm/a: 16 modules"],
    ),
    "a public name is defined once": (
        {
            "intarsia/a.py": "class Plan: ...\n_own = 1\ndef main(): ...",
            "slurm/b/c.py": "Plan: int = 2\n_own = 1\ndef main(): ...",
        },
        ["Plan: intarsia.a, slurm.b.c"],
    ),
    "a command has its module's name": (
        {
            "slurm/commands/cache_all.py": "commands.add_parser('cache-all')",
            "slurm/commands/import_.py": "commands.add_parser('import')",
            "slurm/commands/sets.py": "commands.add_parser('fid')",
            "slurm/commands/shared.py": "",
        },
        ["slurm/commands/sets.py declares ['fid']", "slurm/commands/shared.py declares []"],
    ),
    "no module bears a standard library's name": (
        {"slurm/a/json.py": "", "slurm/a/b.py": ""},
        ["slurm.a.json"],
    ),
}


@pytest.mark.parametrize("law", LAWS)
def test_a_house_that_breaks_it_is_seen(law: str, tmp_path: Path) -> None:
    files, found = BROKEN[law]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert LAWS[law](tmp_path) == found


@pytest.mark.processes
def test_an_import_of_what_does_not_exist_fails_the_check(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(
        "import pyarrow\nfrom training.no_such_module import nothing\nimport no_such_library\n"
    )
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path), str(tmp_path / "one.py")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert re.findall(r"one.py:(\d+): error: .*import-not-found", run.stdout) == ["2", "3"]


QUICK = [
    ["dataprep", "--help"],
    ["dataprep", "build", "coco", "--help"],
    ["dataprep", "show", "--help"],
    ["training", "configs/train/demo.yaml", "data.recipe=none"],
    ["training", "--help"],
    ["training", "estimate", "--help"],
    ["training", "report", "--help"],
    ["training", "ema", "--help"],
    ["training", "ema", "run", "--sigma-rel", "9"],
    ["training", "configs/train/demo.yaml", "optimizer.no_such_key=1"],
    ["sampling", "--help"],
    ["sampling", "edit", "--help"],
    ["evaluation", "--help"],
    ["evaluation", "cocoee", "--help"],
    ["evaluation", "cocoee", "run", "--help"],
    ["evaluation", "compare", "--help"],
    ["evaluation", "piebench", "--help"],
    ["evaluation", "piebench", "run", "--help"],
    ["evaluation", "piebench", "run", "--bench", "x", "--results", "y", "--model", "z", "--method", "best"],
    ["evaluation", "fid", "--help"],
    ["sampling", "serve", "--help"],
    ["sampling", "push", "--help"],
    ["dataprep", "pull", "--help"],
    ["slurm", "--help"],
    ["intarsia", "--help"],
    ["intarsia", "training", "--help"],
    ["slurm", "doctor"],
]


@pytest.mark.processes
@pytest.mark.parametrize("command", QUICK, ids=" ".join)
def test_help_and_config_errors_load_nothing_heavy(command: list[str]) -> None:
    probe = (
        "import runpy, sys\n"
        f"sys.argv = {command!r}\n"
        "try:\n"
        f"    runpy.run_module({command[0]!r}, run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n"
        "    pass\n"
        f"print('LOADED', sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "LOADED []" in run.stdout

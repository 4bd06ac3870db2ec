"""The examples of docs/extending.md, as a reader would type them in."""

import re
from pathlib import Path

from tests.paths import ROOT

_BLOCK = re.compile(r"```python\n# (\S+)\n(.*?)```", re.DOTALL)


def examples() -> dict[str, str]:
    """File named in a block's first line -> its code; blocks of one file follow each other."""
    found: dict[str, str] = {}
    for name, code in _BLOCK.findall((ROOT / "docs" / "extending.md").read_text()):
        found[name] = found.get(name, "") + code
    return found


def write_example(folder: Path, module: str, file: str, row: str) -> None:
    """Write an example as `folder`/`module`.py, with its row in it, so that importing it adds the row.

    Args:
        folder: a folder of Python's path.
        module: name to give it.
        file: file that the document names.
        row: file of the table, in which the document's rows for this example are.
    """
    table = row.removesuffix(".py").replace("/", ".")
    own = file.removesuffix(".py").replace("/", ".")
    [line] = [line for line in examples()[row].splitlines() if own in line]
    imports = f"import {module}\nfrom {table} import *"
    (folder / f"{module}.py").write_text(f"{examples()[file]}\n\n{imports}\n\n{line.replace(own, module)}\n")

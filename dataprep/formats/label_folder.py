"""A folder with a file of labels for each picture: which files are labels, and which are not."""

from collections.abc import Collection
from pathlib import Path

from intarsia.errors import UserError
from intarsia.files import walk_files


def label_files(
    folder: Path, option: str, ending: str, others: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """The files of labels below a folder, and all other files there; both as sorted paths.

    Args:
        folder: folder with or without sub-folders.
        option: option that names it, for messages.
        ending: end of the names of label files, in lower case.
        others: names of files that end so and are something else, in lower case.

    Raises:
        UserError: if there is no such folder, no file of labels in it, or two for one picture.
    """
    if not folder.is_dir():
        raise UserError(f"{option} {folder} is not a folder; give the folder of the label files (*{ending})")
    labels: dict[str, str] = {}
    rest = []
    for path in sorted(path for path, _ in walk_files(folder)):
        name = path.rpartition("/")[2].lower()
        if not name.endswith(ending) or name.startswith(".") or name in others:
            rest.append(path)
            continue
        known = labels.setdefault(path[: -len(ending)], path)
        if known != path:
            raise UserError(f"{folder}: {known} and {path} are about one picture; remove one of them")
    if not labels:
        raise UserError(
            f"{option} {folder} holds no label file (*{ending}); give the folder of the label files"
        )
    return list(labels.values()), rest

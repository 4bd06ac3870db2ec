"""Which file an annotated picture is: millions of names, looked up in columns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from intarsia.errors import UserError
from intarsia.files import walk_files

EXTENSIONS = (
    ".jpg",
    ".jpeg",
    ".jfif",
    ".jpe",
    ".jif",
    ".jfi",
    ".pjpeg",
    ".mpo",
    ".png",
    ".apng",
    ".webp",
    ".bmp",
    ".dib",
    ".gif",
    ".tif",
    ".tiff",
    ".avif",
    ".heic",
    ".heif",
    ".hif",
    ".jp2",
    ".j2k",
    ".jpx",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
)
# Pictures that are not read: they are found by a name without extension, too, so that this can be reported.
OTHER_EXTENSIONS = (
    *(".tga", ".psd", ".jxl", ".exr", ".hdr", ".svg", ".ico", ".pcx", ".dds", ".qoi", ".xcf", ".pdf", ".jxr"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw", ".dcm", ".wdp", ".sgi"),
)
_CHUNK = 1 << 16
_FOLDERS, _EXTENSION = r"^.*/", r"\.[^./]*$"


@dataclass(frozen=True)
class PictureIndex:
    """The picture files of a store.

    Attributes:
        paths: text [F]; of files with equal names the first one is used.
        others: text, sorted: the files that are not pictures by their names. One that is annotated under
            exactly its name counts: its content decides.
    """

    paths: pa.Array
    others: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))

    def find(self, files: Sequence[str], image_ids: Sequence[str]) -> pa.Array:
        """The path of each picture, text [P]; empty where no file is it.

        A picture is looked for by its annotated file, or by its id where none is annotated: as a path, a file
        name, a file name without extension, or a path without extension; of several such files the first
        counts. One that is annotated in a folder which is not there is looked for without it
        (`_without_folders`). Names with `\\` that are not found so are taken as Windows' paths.
        """
        # In columns of Arrow: as Python objects, two million names would take gigabytes.
        wanted = pa.array((file or name for file, name in zip(files, image_ids, strict=True)), pa.string())
        names = pc.replace_substring_regex(self.paths, r"^.*/", "")
        stems = pc.replace_substring_regex(names, r"\.[^.]*$", "")
        found = self._strictly(wanted, names, stems)
        if found.null_count and pc.any(pc.match_substring(wanted, "\\")).as_py():
            wanted = pc.if_else(pc.is_valid(found), wanted, pc.replace_substring(wanted, "\\", "/"))
            found = pc.coalesce(found, self._strictly(wanted, names, stems))
        # Names with a folder that does not exist: data is often moved without its annotations.
        places = found.fill_null(-1).to_numpy()
        rows = np.flatnonzero((places < 0) & pc.match_substring(wanted, "/").to_numpy(zero_copy_only=False))
        if len(rows) and len(self.paths):
            once = wanted.take(pa.array(rows)).dictionary_encode()
            others = self._without_folders(once.dictionary, names, stems)
            # The number of pictures that claim each file; one that was found above counts twice.
            claims = np.bincount(others[others >= 0], minlength=len(self.paths))
            claims[places[places >= 0]] += 2
            others[claims[others] > 1] = -1  # another picture's too: the boxes of one would go to the other
            places = places.copy()
            places[rows] = others[once.indices.to_numpy()]
        files = pc.fill_null(self.paths.take(pa.array(places, mask=places < 0)), "")
        if (places < 0).any() and len(self.others):
            files = pc.if_else(pc.equal(files, ""), self._of_other_kind(wanted), files)
        return files

    def _of_other_kind(self, wanted: pa.Array) -> pa.Array:
        """text [wanted], empty for none: files that are not pictures by their names."""
        named = self.others.filter(_ends_with(self.others, OTHER_EXTENSIONS))
        found: pa.Array = pa.nulls(len(wanted), pa.string())
        for files, cut in (
            (self.others, ""),
            (self.others, _FOLDERS),
            (named, f"{_FOLDERS}|{_EXTENSION}"),
            (named, _EXTENSION),
        ):
            known = pc.replace_substring_regex(files, cut, "") if cut else files
            found = pc.coalesce(found, files.take(pc.index_in(wanted, value_set=known)))
        return found.fill_null("")

    def _strictly(self, wanted: pa.Array, names: pa.Array, stems: pa.Array) -> pa.Array:
        """int32 [wanted], null for none: from the strictest meaning of a name to the loosest."""
        found: pa.Array = pa.nulls(len(wanted), pa.int32())
        for known in (lambda: self.paths, lambda: names, lambda: stems, self._bare_paths):
            if found.null_count:  # a name that is found is not looked for again
                found = pc.coalesce(found, pc.index_in(wanted, value_set=known()))
        return found

    def _bare_paths(self) -> pa.Array:
        """The paths without their extensions."""
        return pc.replace_substring_regex(self.paths, r"\.[^./]*$", "")

    def _without_folders(self, wanted: pa.Array, names: pa.Array, stems: pa.Array) -> np.ndarray:
        """int [wanted], -1 for none: the files at these paths without some folders in front, or by name.

        The name alone, with or without extension, must be that of a single file: among several, it is unknown
        which one is meant.
        """
        found: pa.Array = pa.nulls(len(wanted), pa.int32())
        # One folder less at a time: the longest path that matches is the best.
        while pc.any(pc.match_substring(wanted, "/")).as_py():
            wanted = pc.replace_substring_regex(wanted, r"^[^/]*/", "")
            found = pc.coalesce(found, pc.index_in(wanted, value_set=self.paths))
        places = found.fill_null(-1).to_numpy().copy()
        for known in (names, stems):
            # Equal names get equal codes, so the count of a code is the number of files with that name.
            coded = known.dictionary_encode().indices.to_numpy()
            hits = pc.index_in(wanted, value_set=known).fill_null(-1).to_numpy()
            single = np.bincount(coded)[coded[hits]] == 1
            places = np.where((places < 0) & (hits >= 0) & single, hits, places)
        return places


def index_paths(paths: Iterable[str]) -> PictureIndex:
    """An index of the files at `paths`: JPEGs before other formats, otherwise in sorted order."""
    names = {True: _Names(), False: _Names()}
    for path in paths:
        if is_text(path):
            names[is_picture_name(path)].append(path)
    joined, others = (names[kind].finish() for kind in (True, False))
    # If several files have one name the first is used, and the order of a folder's listing is arbitrary.
    jpeg = pc.match_substring_regex(joined, r"\.jpe?g$", ignore_case=True)
    order = pc.sort_indices(
        pa.table({"jpeg": jpeg, "path": joined}), sort_keys=[("jpeg", "descending"), ("path", "ascending")]
    )
    return PictureIndex(joined.take(order), others.take(pc.sort_indices(others)))


class _Names:
    """Texts as a column; a Python list of all names would take several times the memory."""

    def __init__(self) -> None:
        self._chunks: list[pa.Array] = []
        self._piece: list[str] = []

    def append(self, name: str) -> None:
        """Append a name."""
        self._piece.append(name)
        if len(self._piece) == _CHUNK:
            self._chunks.append(pa.array(self._piece, pa.string()))
            self._piece = []

    def finish(self) -> pa.Array:
        """All names."""
        return pa.concat_arrays([*self._chunks, pa.array(self._piece, pa.string())])


def _ends_with(names: pa.Array, extensions: Sequence[str]) -> pa.Array:
    pattern = "|".join(extension.removeprefix(".") for extension in extensions)
    return pc.match_substring_regex(names, rf"\.(?:{pattern})$", ignore_case=True)


def index_pictures(folder: Path | str) -> PictureIndex:
    """Every picture below `folder`, with any sub-folders (train_0 … train_f, val2017) or none.

    Raises:
        UserError: if there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"the folder of pictures {root} does not exist")
    return index_paths(path for path, _ in walk_files(root))


def is_picture_name(path: str, more: tuple[str, ...] = ()) -> bool:
    """Whether a name is text and ends as a picture's does, or in one of `more`."""
    return path.lower().endswith((*EXTENSIONS, *more)) and is_text(path)


def is_text(path: str) -> bool:
    """Whether a name is text: no annotation can hold one that is not UTF-8."""
    return path.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in path)

"""Which file an annotated picture is: millions of names, looked up in columns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".avif",
    ".jp2",
    ".ppm",
    ".pgm",
)
_CHUNK = 1 << 16


@dataclass(frozen=True)
class PictureIndex:
    """The picture files of a store.

    Attributes:
        paths: text [F]; of files with equal names the first one is used.
    """

    paths: pa.Array

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
        return pc.fill_null(self.paths.take(pa.array(places, mask=places < 0)), "")

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
    """An index of the pictures among `paths`: JPEGs before other formats, otherwise in sorted order."""
    chunks: list[pa.Array] = [pa.array([], pa.string())]
    piece: list[str] = []
    for path in paths:
        if is_picture_name(path):
            piece.append(path)
            if len(piece) == _CHUNK:  # a Python list of all names would take several times the memory
                chunks.append(pa.array(piece, pa.string()))
                piece = []
    joined = pa.concat_arrays([*chunks, pa.array(piece, pa.string())])
    # If several files have one name the first is used, and the order of a folder's listing is arbitrary.
    jpeg = pc.match_substring_regex(joined, r"\.jpe?g$", ignore_case=True)
    order = pc.sort_indices(
        pa.table({"jpeg": jpeg, "path": joined}), sort_keys=[("jpeg", "descending"), ("path", "ascending")]
    )
    return PictureIndex(joined.take(order))


def index_pictures(folder: Path | str) -> PictureIndex:
    """Every picture below `folder`, with any sub-folders (train_0 … train_f, val2017) or none.

    Raises:
        UserError: if there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"the folder of pictures {root} does not exist")
    return index_paths(path for path, _ in walk_files(root))


def is_picture_name(path: str) -> bool:
    """Whether a name ends as a picture's does and is text: no annotation can hold one that is not UTF-8."""
    text = path.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in path)
    return text and path.lower().endswith(EXTENSIONS)

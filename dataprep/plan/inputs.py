"""What a build is made from: annotations, names of pictures, masks; read and planned."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dataprep.choose.filters import check_options, read_lines, rules_of
from dataprep.pictures.index import EXTENSIONS, PictureIndex, index_paths
from dataprep.pictures.stores import locate, open_store, packed_tars
from dataprep.pictures.tar_store import unpack_tars
from dataprep.plan.check_notes import check_inputs, check_notes
from dataprep.plan.mistakes import refuse_fractions
from dataprep.plan.plan import BuildConfig, BuildPlan, make_build_plan
from dataprep.plan.remarks import missing_pictures, plan_remarks
from dataprep.records import REASONS, Annotations, FilterRules, RejectReason
from dataprep.sources.source import SEGMENTATIONS, source_of
from intarsia.errors import UsageError, UserError
from intarsia.words import counted

_ONE = {"pictures": "picture", "boxes": "box", "files": "file"}

_SLICE = 10_000  # boxes whose outlines are looked at together


@dataclass(frozen=True)
class BuildRequest:
    """What a build is made from, and how.

    Attributes:
        config: options that decide the result.
        inputs: files and folders by role: those of the source, and exclude if it is given.
        images: folder of pictures, tars (one per line), or an address.
        out: shard folder.
        command: command line, for the data set card.
        workers: number of processes; None for one per CPU.
        ray_address: address of a running Ray cluster; None for a local Ray.
        verbose: whether Ray and its workers may print.
    """

    config: BuildConfig
    inputs: dict[str, Path]
    images: Path | str
    out: Path
    command: str = ""
    workers: int | None = None
    ray_address: str | None = None
    verbose: bool = False


def read_annotations(request: BuildRequest, rules: FilterRules) -> Annotations:
    """Read the request's annotation files; the rules may be applied on the way.

    Raises:
        UserError: for a file that is missing or wrong, or two pictures with one sample key.
    """
    name = request.config.source
    source = source_of(name)
    check_inputs(source, request.inputs)
    notes = source.read(request.inputs, rules, request.config.needs_masks)
    check_notes(name, source, notes)
    return notes


def new_plan(request: BuildRequest, unpack: bool = True, as_shown: bool = True) -> BuildPlan:
    """Read annotations and the names of the pictures, and plan; no picture is opened.

    Args:
        request: request of the build.
        unpack: whether to unpack packed tars beside the folder; otherwise they are assumed to hold all that
            is annotated.
        as_shown: whether boxes count as far as pictures show them, see `FilterRules`.

    Raises:
        UserError: if an input cannot be read, or nothing is left to build.
    """
    families = source_of(request.config.source).families(request.inputs)
    _check_masks(request)
    if request.config.recipe is not None:
        from dataprep.draw.pipeline import check_pipeline

        check_pipeline(request.config.recipe)
    annotations = read_annotations(request, rules_of(request.config, families, as_shown))
    refuse_fractions(annotations, " ".join(str(path) for path in request.inputs.values()))
    check_options(request.config, annotations.flags, {*families, *annotations.labels})
    excluded = frozenset(read_lines(request.inputs["exclude"]) if "exclude" in request.inputs else ())
    index = _picture_names(request, annotations, unpack)
    plan = make_build_plan(annotations, index, request.config, families, excluded, as_shown)
    if excluded and annotations.image_ids and not (plan.fate == REASONS.index(RejectReason.EXCLUDED)).any():
        raise UsageError(
            f"--exclude {request.inputs['exclude']}: no picture has a name of this list ({min(excluded)!r}); "
            f"give those of the annotations ({annotations.image_ids[0]!r}), or leave it out"
        )
    if not len(plan.order):
        missing = missing_pictures(plan, index)
        raise UserError(
            f"nothing is left to build: nothing is kept of {_rejected_in_words(plan)}; "
            f"{missing}{'; ' * bool(missing)}check --images {request.images} and the filters"
        )
    if request.config.requires_masks:
        _check_outlines(plan)
    return replace(plan, remarks=plan_remarks(plan, index))


def _check_outlines(plan: BuildPlan) -> None:
    """Refuse a recipe that needs object masks where not one of the kept boxes has one."""
    outlines = plan.annotations.segmentation
    for start in range(0, len(plan.rows), _SLICE):
        part = outlines(plan.rows[start : start + _SLICE]) if outlines else []
        if any(outline.as_py() for outline in part):
            return
    raise UserError(
        f"--recipe {plan.config.drawing.name} needs object masks, and none of the {len(plan.rows):,} kept "
        "boxes has one; choose another recipe, or annotations with masks"
    )


def _rejected_in_words(plan: BuildPlan) -> str:
    """`17 pictures (no_box 17) and 24 boxes (picture_unknown 24)`."""
    counts = plan.counts()
    parts = []
    for what, given in counts["in"].items():
        numbers = sorted(counts["rejected"][what].items(), key=lambda item: -item[1])
        reasons = ", ".join(f"{reason} {number}" for reason, number in numbers)
        parts.append(counted(given, _ONE[what], what) + (f" ({reasons})" if reasons else ""))
    return " and ".join(parts)


def pictures_place(request: BuildRequest) -> str:
    """Where workers find the pictures: those of packed tars are unpacked beside the shard folder."""
    images = locate(request.images)
    if packed_tars(images):
        return str(request.out.resolve().with_name(f"{request.out.resolve().name}.pictures"))
    return images


def _picture_names(request: BuildRequest, notes: Annotations, unpack: bool) -> PictureIndex:
    """The existing files; if these cannot be listed without reading them all, those annotated."""
    place, packed = pictures_place(request), packed_tars(locate(request.images))
    if packed and unpack:
        rows = notes.picture[notes.picture >= 0]
        pictures = np.unique(rows).tolist()
        wanted = {notes.files[p] or notes.image_ids[p] for p in pictures}
        wanted |= {names[p] for names in notes.other_names for p in pictures if names[p]}
        wanted |= set(notes.views.files if notes.views is not None else ())
        wanted |= {name.replace("\\", "/") for name in wanted}
        unpack_tars(packed, wanted | {name.rpartition("/")[2] for name in wanted}, Path(place))
    index = None if packed and not unpack else open_store(place, str(request.out)).index()
    if index is not None:
        return index
    if notes.views is not None:
        return index_paths(notes.views.files)
    return index_paths(
        (file or (name if name.lower().endswith(EXTENSIONS) else f"{name}.jpg")).replace("\\", "/")
        for file, name in zip(notes.files, notes.image_ids, strict=True)
    )


def _check_masks(request: BuildRequest) -> None:
    config, given = request.config, SEGMENTATIONS in request.inputs
    source = source_of(config.source)
    if source.pairs and config.max_iou is not None:
        raise UsageError(
            f"--max-iou compares the boxes of one picture, the source {config.source} has one of each; leave "
            "it out"
        )
    if given and not config.needs_masks and not source.pairs:
        raise UsageError(
            "--segmentations is for --object-masks or --exemplar-background: give one, or leave it out"
        )
    asked = "--object-masks and --exemplar-background need"
    if config.requires_masks:
        asked = f"--recipe {config.drawing.name} needs"
    if config.needs_masks and not source.has_masks:
        remedy = "choose another recipe" if config.requires_masks else "leave them out"
        raise UsageError(
            f"{asked} object masks, which annotations of the source {config.source} do not have; {remedy}"
        )
    if config.needs_masks and source.mask_hint and not given:
        raise UsageError(
            f"{asked} the masks: give --segmentations FOLDER with the PNGs, and {source.mask_hint}"
        )


def restore_pictures(request: BuildRequest) -> None:
    """Unpack packed tars again, if the pictures were deleted since the build was planned."""
    if packed_tars(locate(request.images)) and not Path(pictures_place(request)).is_dir():
        new_plan(request)

"""The options that name what paints, and what they mean."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from intarsia.errors import UsageError, UserError
from sampling.painters.naming import chosen, painter_names
from sampling.painters.painter import PAINTERS, painter_of
from sampling.settings import MachineSettings
from sampling.told import PartNames, check_scales


def add_painter_options(group: argparse._ActionsContainer) -> None:
    """What paints."""
    words = ", ".join(painter_names())
    group.add_argument(
        "--model",
        metavar="MODEL",
        help=f"model folder, or another painter: a name ({words}), with its weights as NAME:FILE "
        "(docs/sampling.md)",
    )
    group.add_argument(
        "--painter", choices=tuple(PAINTERS), default="own", help="what paints; --model NAME says the same"
    )
    group.add_argument(
        "--model-dir",
        type=Path,
        metavar="DIR",
        help="folder where --model looks for weights that it does not name, or that are not a path",
    )
    default = MachineSettings().iopaint_url
    group.add_argument(
        "--iopaint-url",
        default=default,
        metavar="URL",
        help="address of a running IOPaint server, for --model iopaint:NAME (default %(default)s)",
    )


def check_painter(arguments: argparse.Namespace) -> None:
    """Look at what `add_painter_options` named before anything is loaded.

    From then on `painter` and `model` are the painter's name and the path of its weights.

    Raises:
        UsageError: for a model that is missing, or the name of a painter that is not here.
        UserError: for one that the painter cannot take.
    """
    if not isinstance(arguments.model, Path):  # of `add_painter_options`, and not yet settled
        folder = getattr(arguments, "model_dir", None)
        if folder is not None and not folder.is_dir():
            raise UsageError(f"--model-dir {folder} is not a folder")
        arguments.painter, arguments.model = chosen(arguments.model, arguments.painter, folder)
    painter_of(arguments.painter).check(arguments.model)


def about_seeds(arguments: argparse.Namespace) -> Iterator[str]:
    """A remark if several seeds are asked of a painter whose edits do not depend on them."""
    uses = painter_of(arguments.painter).uses(arguments.model)
    if arguments.num_images > 1 and uses is not None and "seed" not in uses:
        yield f"{arguments.painter} does not use a seed: its {arguments.num_images} edits are equal"


def told_parts(arguments: argparse.Namespace) -> PartNames:
    """What the model is told, once `check_painter` has accepted it.

    Raises:
        UsageError: for the guidance scale of a part that it is not told.
    """
    parts = painter_of(arguments.painter).parts(arguments.model)
    names = ("guidance_scale", "text_guidance_scale")
    given = [name for name in names if isinstance(getattr(arguments, name, None), tuple)]
    try:
        check_scales(parts, given)
    except UserError as error:
        raise UsageError(str(error)) from None
    return parts

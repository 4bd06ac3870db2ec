"""The options of an upsampler, and what is refused before it is loaded."""

import argparse
from pathlib import Path

from intarsia.errors import UsageError, UserError
from intarsia.model_folder import check_model_folder, is_upsampler


def add_upsampler_options(group: argparse._ActionsContainer) -> None:
    """Add the folder of an upsampler, and the level of the low-resolution picture's noise."""
    add_upsampler_option(group)
    group.add_argument(
        "--low-res-noise",
        type=int,
        default=0,
        metavar="N",
        help="of an upsampler: size of the model's errors as a level of noise (default 0 = none)",
    )


def add_upsampler_option(group: argparse._ActionsContainer) -> None:
    """Add the folder of an upsampler."""
    group.add_argument(
        "--upsampler",
        type=Path,
        metavar="DIR",
        help="model trained with model.low_res, which paints a window larger than the model's square again "
        "at its own resolution, in place of enlarging it",
    )


def check_upsampler_option(folder: Path | None, arguments: argparse.Namespace) -> None:
    """Refuse a folder without an upsampler; None is accepted.

    Raises:
        UsageError: with another painter than `own`, which has none, and for a level without an upsampler.
        UserError: for another folder.
    """
    if folder is None:
        if level := getattr(arguments, "low_res_noise", 0):
            raise UsageError(f"--low-res-noise {level} needs an upsampler; give its folder, --upsampler")
        return
    painter = getattr(arguments, "painter", "own")
    if painter != "own":
        raise UsageError(f"--upsampler does not go with --painter {painter}; remove one of the two")
    check_model_folder(folder)
    if not is_upsampler(folder):
        raise UserError(
            f"{folder} is a model that paints without a low-resolution picture; --upsampler takes one that "
            "was trained with model.low_res"
        )

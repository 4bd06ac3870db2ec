"""`python -m dataprep show OUT`: a contact sheet of samples, or of one picture drawn often by a recipe."""

import argparse
from pathlib import Path

from intarsia.command_line import Commands
from intarsia.errors import UsageError
from intarsia.words import counted


def add(commands: Commands) -> None:
    """Add `show` to the command line."""
    parser = commands.add_parser("show", help="draw a contact sheet of samples, as PNG or HTML")
    parser.add_argument("folder", type=Path, metavar="OUT", nargs="?", help="shard folder")
    parser.add_argument("--out", type=Path, required=True, help="file to write, sheet.png or sheet.html")
    parser.add_argument("--number", type=int, help="number of samples (default 12, of a recipe 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice (default %(default)s)")
    parser.add_argument("--class", dest="label", metavar="NAME", help="only samples of this class")
    parser.add_argument(
        "--worst",
        metavar="MEASURE",
        help="the worst samples by a measure, not a choice at random: smallest-mask, largest-mask, "
        "largest-squash, longest-box, fewest-pixels",
    )
    recipe = parser.add_argument_group("one picture drawn by a recipe, in place of OUT")
    recipe.add_argument("--recipe", metavar="NAME", help="recipe, or a file NAME.yaml")
    recipe.add_argument("--image", type=Path, help="picture file")
    recipe.add_argument(
        "--box", type=_corners, metavar="X0,Y0,X1,Y1", help="box in pixels (default: the object's bounds)"
    )
    recipe.add_argument("--object-mask", type=Path, metavar="PNG", help="object's mask, not 0 = object")
    parser.set_defaults(run=_show)


def _corners(text: str) -> tuple[int, ...]:
    try:
        x0, y0, x1, y1 = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form X0,Y0,X1,Y1") from None
    return x0, y0, x1, y1


def _show(options: argparse.Namespace) -> int:
    from dataprep.look.contact_sheet import write_contact_sheet
    from dataprep.look.pick import Choice

    if options.number is not None and options.number < 1:
        raise UsageError(f"--number {options.number}: at least 1 is needed")
    if options.recipe is not None:
        return _try_recipe(options)
    if options.folder is None:
        raise UsageError("give a shard folder, or --recipe with --image")
    if options.image or options.box or options.object_mask:
        raise UsageError("--image, --box and --object-mask belong to --recipe; give it, or leave them out")
    choice = Choice(options.number or 12, options.seed, options.label, options.worst)
    number = write_contact_sheet(options.folder, options.out, choice)
    print(f"{counted(number, 'sample')} in {options.out}")
    return 0


def _try_recipe(options: argparse.Namespace) -> int:
    from dataprep.draw.recipe import load_recipe
    from dataprep.look.contact_sheet import write_samples
    from dataprep.look.try_recipe import RecipeTrial, draw_often

    if options.folder or options.label or options.worst:
        raise UsageError("--recipe draws one picture; leave the shard folder, --class and --worst out")
    if options.image is None:
        raise UsageError("--recipe needs --image, the picture to draw")
    recipe = load_recipe(options.recipe)
    trial = RecipeTrial(options.image, options.box, options.object_mask, seed=options.seed)
    samples = draw_often(recipe, trial, options.number or 20)
    write_samples(samples, options.out, f"{options.image.name} by {recipe.name}")
    print(f"{counted(len(samples), 'sample')} by the recipe {recipe.name} in {options.out}")
    return 0

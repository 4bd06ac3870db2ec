"""The options that all sampling commands share, and the settings they make."""

import argparse
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import get_args

from intarsia.architecture import MAPS
from intarsia.config import build_config
from intarsia.errors import UsageError, UserError
from intarsia.files import is_same_file
from intarsia.towers.settings import read_clip_vision
from sampling.jobs import FILES, structure_sources
from sampling.painters.options import check_painter, told_parts
from sampling.samplers import SAMPLERS
from sampling.settings import (
    Dtype,
    EditSettings,
    ExemplarBackground,
    Fit,
    KnownRegion,
    MachineSettings,
    MatchColour,
)
from sampling.told import PartNames, check_outline, check_told
from sampling.upsampler.options import add_upsampler_options, check_upsampler_option

_DEFAULT = EditSettings()


def numbers(count: int | None = None) -> Callable[[str], tuple[float, ...]]:
    """A function that reads `1,3,5` as numbers; exactly `count` of them if that is given."""

    def read(text: str) -> tuple[float, ...]:
        try:
            values = tuple(float(word) for word in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} must be numbers with commas between them") from None
        if count is not None and len(values) != count:
            raise argparse.ArgumentTypeError(f"{text!r} must be {count} numbers with a comma between them")
        return values

    return read


def add_model_option(group: argparse._ActionsContainer) -> None:
    """Which model paints, for a command that only the own painter can do."""
    group.add_argument("--model", type=Path, metavar="DIR", help="model folder")
    group.set_defaults(painter="own")


def add_file_options(
    parser: argparse.ArgumentParser,
    out: str,
    add_what_paints: Callable[[argparse._ActionsContainer], None],
    prompt: bool = False,
    mask: bool = True,
) -> None:
    """Add the files of one edit.

    Args:
        parser: parser of the command.
        out: help text of --out.
        add_what_paints: function that adds --model.
        prompt: whether the command takes a prompt, with an exemplar or without.
        mask: whether a mask is always needed; if not, an exemplar is not, either.
    """
    group = parser.add_argument_group("files")
    add_what_paints(group)
    group.add_argument("--image", type=Path, required=True, metavar="FILE", help="the picture to edit")
    group.add_argument(
        "--mask", type=Path, required=mask, metavar="FILE", help="mask of the picture's size; white = repaint"
    )
    what = "picture of the object to paint"
    group.add_argument("--exemplar", type=Path, required=mask and not prompt, metavar="FILE", help=what)
    outline = "mask of the exemplar's size; white = the object, which is cut out"
    group.add_argument("--exemplar-mask", type=Path, metavar="FILE", help=outline)
    if prompt:
        words = "what to paint in words, for a model that is told text"
        group.add_argument("--prompt", metavar="TEXT", default="", help=words)
    group.add_argument("--out", type=Path, required=True, metavar="FILE.png", help=out)


def check_files(
    arguments: argparse.Namespace,
    written: Iterable[Path],
    check: Callable[[PartNames], None] | None = None,
) -> None:
    """Check the files of `add_file_options` before anything is loaded, and make OUT's folder.

    Args:
        arguments: parsed arguments of the command.
        written: all files that it will write.
        check: function that raises a UserError if the model does not take what is given; by default one
            for an edit's exemplar and prompt.

    Raises:
        UsageError: if OUT is not a PNG or is a folder, an input would be replaced, the model needs an
            exemplar or a prompt that is not given, or is not told what is given, or an exemplar mask is
            given without an exemplar.
        UserError: if there is no model, or OUT's folder is not writable.
    """
    out, maps = arguments.out, structure_sources(getattr(arguments, "structure", ()))
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out} must end in .png; another format would change pixels outside the mask")
    for path in written:
        if path.is_dir():
            raise UsageError(f"{path} is a folder; give --out the name of a file")
        for name in FILES:
            given = getattr(arguments, name)
            if given is not None and is_same_file(path, given):
                raise UsageError(
                    f"{path} would replace the {name.replace('_', ' ')} itself; give --out another name"
                )
        for name, source in maps.items():
            if is_same_file(path, source):
                raise UsageError(f"{path} would replace the map {name} itself; give --out another name")
    check_painter(arguments)
    parts = told_parts(arguments)
    try:
        check_outline([name for name in FILES if getattr(arguments, name) is not None])
        if check:
            check(parts)
        else:
            check_told(parts, arguments.exemplar is not None, getattr(arguments, "prompt", ""))
    except UserError as error:
        raise UsageError(str(error)) from None
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"--out {out}: {out.parent} is not writable; choose another folder")


def add_shard_option(parser: argparse._ActionsContainer) -> None:
    """Add the choice of a part of a list."""
    parser.add_argument(
        "--shard",
        type=_shard,
        default=(0, 1),
        metavar="I/N",
        help="do every N-th row, beginning with row I (0 = first): one process per GPU, or a job array",
    )


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} must be I/N with I from 0 to N - 1, such as 0/8")
    return int(match[1]), int(match[2])


def add_input_options(parser: argparse.ArgumentParser) -> None:
    """Add the ways to read masks and exemplars."""
    group = parser.add_argument_group("reading")
    group.add_argument("--invert-mask", action="store_true", help="black is repainted, not white")
    group.add_argument(
        "--exemplar-background",
        choices=get_args(ExemplarBackground),
        default="crop",
        help="around the object of an exemplar with an alpha channel or a mask: CLIP's mean colour, cropped "
        "to the object (crop, the default) or not (neutral); white, black or grey, as data prep's recipes",
    )


def add_structure_option(parser: argparse.ArgumentParser) -> None:
    """Add the sources of structure maps."""
    group = parser.add_argument_group("structure, for a model with structure maps")
    group.add_argument(
        "--structure",
        nargs="+",
        default=[],
        metavar="MAP",
        help="edges (of what is under the mask), exemplar (its edges), a FILE with edges, or MAP=FILE for "
        f"other maps ({', '.join(MAPS)}); default none",
    )


def add_sampler_options(parser: argparse.ArgumentParser) -> None:
    """Add the sampler's options."""
    enough = ", ".join(f"{name} {sampler.steps}" for name, sampler in SAMPLERS.items())
    karras = ", ".join(name for name, sampler in SAMPLERS.items() if sampler.karras)
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--guidance-scale",
        type=numbers(),
        metavar="W[,W...]",
        help="how strongly to follow the exemplar; 1 = no guidance; several make a grid "
        f"(default {_DEFAULT.guidance_scale:g})",
    )
    group.add_argument(
        "--text-guidance-scale",
        type=numbers(),
        metavar="W[,W...]",
        help="how strongly to follow the prompt; 1 = no guidance; several make a grid "
        f"(default {_DEFAULT.text_guidance_scale:g})",
    )
    group.add_argument(
        "--guidance-interval",
        type=numbers(2),
        default=_DEFAULT.guidance_interval,
        metavar="LOW,HIGH",
        help="guide only if the noise level is between these, 0 = clean, 1 = pure noise (default 0,1)",
    )
    group.add_argument(
        "--num-inference-steps",
        type=int,
        default=_DEFAULT.num_inference_steps,
        metavar="N",
        help="denoising steps (default %(default)s)",
    )
    group.add_argument(
        "--scheduler",
        choices=SAMPLERS,
        default=_DEFAULT.scheduler,
        help=f"default %(default)s; steps that are usually enough: {enough}",
    )
    group.add_argument(
        "--clip-guidance",
        type=float,
        default=_DEFAULT.clip_guidance,
        metavar="W",
        help="guidance by a noised encoder; 1 = Bayes' rule, 0 = none (default)",
    )
    add_noised_option(group)
    add_upsampler_options(group)
    group.add_argument("--karras", action="store_true", help=f"Karras' noise levels, for {karras}")
    group.add_argument(
        "--eta", type=float, default=_DEFAULT.eta, metavar="E", help="fresh noise in ddim's steps, 0 to 1"
    )
    _add_known_region(group)


def add_noised_option(group: argparse._ActionsContainer) -> None:
    """Add the folder of the noised encoder that guides."""
    group.add_argument(
        "--noised-clip", type=Path, metavar="DIR", help="its folder, from training with task=noised-clip"
    )


def add_style_option(group: argparse._ActionsContainer) -> None:
    """Add the tower that the method style needs beside a model without an encoder of exemplars."""
    group.add_argument(
        "--style-tower",
        type=Path,
        metavar="DIR",
        help="folder of CLIP's vision tower, whose view of the picture the method style learns from (for "
        "Stable Diffusion 1: clip-vit-base-patch16)",
    )


def _add_known_region(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--known-region",
        choices=get_args(KnownRegion),
        default=_DEFAULT.known_region,
        help="how the surroundings are kept: the model's own channels, replacement at every step, or both "
        "(default %(default)s)",
    )
    group.add_argument(
        "--resample",
        type=int,
        default=_DEFAULT.resample,
        metavar="R",
        help="with replacement: make each step R times, with noise added again (RePaint)",
    )
    group.add_argument(
        "--latent-blend",
        action="store_true",
        help="put the picture's latents around the edit before decoding",
    )


def add_canvas_options(parser: argparse.ArgumentParser) -> None:
    """Add the ways to fit a picture to the model's square, and the result to the picture."""
    group = parser.add_argument_group("canvas")
    group.add_argument(
        "--fit",
        choices=get_args(Fit),
        default=_DEFAULT.fit,
        help="resize: squash the picture; pad: keep its proportions; crop: a window around the mask; auto: "
        "crop if the mask is small in the picture, else resize (default)",
    )
    group.add_argument(
        "--context",
        type=float,
        default=_DEFAULT.context,
        metavar="C",
        help="a crop's window is 1 + C times the mask's longer side (default %(default)s)",
    )
    group.add_argument(
        "--blend",
        type=int,
        default=_DEFAULT.blend,
        metavar="N",
        help="fade the edit in over N pixels inside the mask (default %(default)s)",
    )
    group.add_argument(
        "--match-colour",
        choices=get_args(MatchColour),
        default=_DEFAULT.match_colour,
        help="correct the edit's colours by the known ring around the mask: its mean, or also its standard "
        "deviation (default %(default)s)",
    )
    group.add_argument(
        "--no-composite",
        dest="composite",
        action="store_false",
        help="show everything that the model painted; by default the input's pixels stay outside the mask",
    )


def add_dtype_option(parser: argparse.ArgumentParser) -> None:
    """Add the precision of the weights that are written."""
    parser.add_argument(
        "--dtype",
        choices=get_args(Dtype),
        default="float32",
        help="precision of the weights (default %(default)s)",
    )


def add_machine_options(parser: argparse.ArgumentParser, batches: bool = True) -> None:
    """Add the device and precision; `batches`: also the number of edits at the same time."""
    default = MachineSettings()
    group = parser.add_argument_group("machine")
    group.add_argument(
        "--device",
        default=default.device,
        help="cpu, cuda, cuda:1, mps ...; auto takes a GPU if there is one",
    )
    precision = group.add_mutually_exclusive_group()
    precision.add_argument(
        "--dtype",
        choices=("auto", *get_args(Dtype)),
        default=default.dtype,
        help="precision of the weights; auto = 16-bit on a GPU, else float32 (default)",
    )
    precision.add_argument(
        "--no-half", dest="dtype", action="store_const", const="float32", help="the same as --dtype float32"
    )
    group.add_argument("--compile", action="store_true", help="compile the UNet: slow start, faster steps")
    group.add_argument(
        "--low-vram",
        action="store_true",
        help="only the network in use is on the GPU; the others wait in the CPU's memory",
    )
    if not batches:
        return
    group.add_argument(
        "--batch-size",
        type=int,
        default=_DEFAULT.batch_size,
        metavar="N",
        help="edits at the same time; affects only memory and speed (default %(default)s)",
    )


def edit_settings(arguments: argparse.Namespace, where: str) -> list[EditSettings]:
    """One `EditSettings` for each guidance scale, and each guidance scale of the prompt.

    Raises:
        UsageError: for a value out of range or options that exclude one another.
    """
    content = {name: getattr(arguments, name) for name in EditSettings.model_fields}
    return [
        build_config(EditSettings, content | {"guidance_scale": scale, "text_guidance_scale": text}, where)
        for scale in arguments.guidance_scale or (_DEFAULT.guidance_scale,)
        for text in arguments.text_guidance_scale or (_DEFAULT.text_guidance_scale,)
    ]


def machine_settings(arguments: argparse.Namespace, where: str) -> MachineSettings:
    """The `MachineSettings` of the arguments.

    Raises:
        UsageError, UserError: as `upsampler.options.check_upsampler_option`, and for a style tower's folder
            that is not one.
    """
    content = {name: getattr(arguments, name) for name in MachineSettings.model_fields if name in arguments}
    machine = build_config(MachineSettings, content, where)
    check_upsampler_option(machine.upsampler, arguments)
    if machine.style_tower:
        read_clip_vision(machine.style_tower)
    return machine

"""Options that the exemplar benches share, and the plan that they come to."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from evaluation.options import Score
from evaluation.references import load_references, parse_references
from intarsia.errors import UserError

if TYPE_CHECKING:
    from evaluation.exemplars import Plan

T = TypeVar("T")
OPTIONAL = ("quality", "inception", "lpips")


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """What is measured, and against which pictures."""
    group = parser.add_argument_group("numbers")
    group.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="[FEATURES=]PATH",
        help="what the Fréchet distances are to: a folder of pictures, for all features, or clip=PATH and "
        "inception=PATH with a folder or an npz of `fid --save`. The published numbers want COCO's test2017. "
        "Without it: the bench's own pictures",
    )
    group.add_argument(
        "--without",
        action="append",
        default=[],
        choices=OPTIONAL,
        help="leave out a number whose weights are not at hand: the quality score, FID and KID, LPIPS; may "
        "be repeated",
    )


def make_plan(
    arguments: argparse.Namespace, bench: str, name: str, score: Score, truth: bool = False
) -> Plan:
    """Load the networks and the references that the options name.

    Args:
        arguments: with the options of this module and of `options`.
        bench: its name; COCOEE's has the published crop, too.
        name: of what made the results.
        score: computes the references' features.
        truth: whether the cases have truths.

    Raises:
        UserError: for weights that are nowhere, naming the file, its source and the option.
    """
    from evaluation import features
    from evaluation.distributions import read_mixture
    from evaluation.exemplars import Networks, Plan
    from evaluation.weights import find_weights, parse_weights
    from intarsia.files import sha256_file
    from sampling.machine import pick_device

    references = parse_references(arguments.reference)
    given, device = parse_weights(arguments.weights), pick_device(arguments.device)
    without = arguments.without

    def wanted(what: str, load: Callable[[], T]) -> T | None:
        try:
            return None if what in without else load()
        except UserError as error:
            raise UserError(f"{error}; --without {what} leaves it out") from None

    def load_mixture() -> tuple:
        path = find_weights("mixture", given)
        return read_mixture(path), sha256_file(path)[:12]

    clip = features.clip("clip-b32", given, device)
    networks = Networks(
        clip,
        wanted("quality", load_mixture),
        wanted("inception", lambda: features.inception(given, device)),
        wanted("lpips", lambda: features.lpips("alex", "edited", given, device)) if truth else None,
    )
    looks = {"clip": features.middle512(clip.whole)}
    if networks.inception:
        looks["inception"] = features.middle512(networks.inception)
    return Plan(
        bench=bench,
        name=name,
        networks=networks,
        references=load_references(references, looks, score),
        published=bench == "COCOEE",
    )

"""Options that the exemplar benches share, and the plan that they come to."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from evaluation.scoring.references import load_references, parse_references
from evaluation.scoring.scorer import Score
from intarsia.errors import UserError

if TYPE_CHECKING:
    from evaluation.benches.exemplars import Plan

OPTIONAL = {"quality": ("mixture",), "inception": ("inception",), "lpips": ("alex", "lpips-alex")}
"""Numbers that can be left out, and the weights that each needs."""


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


def check_plan(arguments: argparse.Namespace, truth: bool) -> None:
    """Look for everything that the options name, before anything long begins; nothing is loaded.

    Args:
        arguments: as for `make_plan`.
        truth: whether the cases have truths, without which LPIPS is not wanted.

    Raises:
        UsageError: for a name or a path that does not exist.
        UserError: for weights that are nowhere, naming the file, its source and the option.
    """
    from evaluation.measures.weights import find_weights, parse_weights

    parse_references(arguments.reference)
    given = parse_weights(arguments.weights)
    find_weights("clip-b32", given)
    for what in _wanted(arguments, truth):
        try:
            for name in OPTIONAL[what]:
                find_weights(name, given)
        except UserError as error:
            raise UserError(f"{error}; --without {what} leaves it out") from None


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
        UserError: for weights that are nowhere, or are not what their name says.
    """
    from evaluation.benches.exemplars import Networks, Plan
    from evaluation.measures import features
    from evaluation.measures.weights import find_weights, parse_weights
    from evaluation.scoring.distributions import read_mixture
    from intarsia.files import sha256_file
    from sampling.denoise.machine import pick_device

    given, device = parse_weights(arguments.weights), pick_device(arguments.device)
    wanted = _wanted(arguments, truth)

    def load_mixture() -> tuple:
        path = find_weights("mixture", given)
        return read_mixture(path), sha256_file(path)[:12]

    networks = Networks(
        features.clip("clip-b32", given, device),
        load_mixture() if "quality" in wanted else None,
        features.inception(given, device) if "inception" in wanted else None,
        features.lpips("alex", "edited", given, device) if "lpips" in wanted else None,
    )
    looks = {"clip": features.middle512(networks.clip.whole)}
    if networks.inception:
        looks["inception"] = features.middle512(networks.inception)
    return Plan(
        bench=bench,
        name=name,
        networks=networks,
        references=load_references(parse_references(arguments.reference), looks, score),
        published=bench == "COCOEE",
    )


def _wanted(arguments: argparse.Namespace, truth: bool) -> list[str]:
    return [what for what in OPTIONAL if what not in arguments.without and (truth or what != "lpips")]

"""`python -m training ema`: averages of any width, made from the snapshots of a run."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intarsia.command_line import Commands
from intarsia.config import load_config
from intarsia.errors import UsageError, UserError
from intarsia.files import check_replaceable
from training.config import TrainConfig
from training.option_groups import NARROWEST, WIDEST
from training.run.result import RUN_RESULTS, result_of
from training.run.state import RunFolder

if TYPE_CHECKING:
    import numpy as np

    from intarsia.model import EditModel
    from training.checkpoint.snapshots import Snapshot

_POOR = 0.05  # misfit of the profile from which on the result has another width
_EPILOG = """examples:
  python -m training ema runs/first --sigma-rel 0.03 0.05 0.08 0.12 --validate
  python -m training ema runs/first --sigma-rel 0.08 --out models/first-0.08

For runs with optimizer.ema_kind=post_hoc. The width is a share of the training up to the step: 0.05 is narrow
and near the last weights, 0.25 is nearly the mean of all. The best width differs from run to run: --validate
shows the loss on the run's validation samples."""


def add(commands: Commands) -> None:
    """Declare `ema`."""
    parser = commands.add_parser(
        "ema",
        help="make averaged weights of any width out of a run's snapshots",
        description="Make averaged weights of any width out of a run's snapshots.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_folder", type=Path, metavar="run", help="the run folder")
    parser.add_argument(
        "--sigma-rel", type=float, nargs="+", required=True, metavar="W", help="relative width(s)"
    )
    parser.add_argument("--step", type=int, metavar="N", help="step of the snapshot (default: the newest)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="model folder to write; only with one width")
    parser.add_argument("--validate", action="store_true", help="report the validation loss of each width")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    for width in arguments.sigma_rel:
        if not NARROWEST <= width <= WIDEST:
            raise UsageError(f"--sigma-rel={width:g} must be between {NARROWEST} and {WIDEST}")
    if arguments.out and len(arguments.sigma_rel) > 1:
        raise UsageError("--out takes one --sigma-rel; leave it out to compare several")
    if not arguments.out and not arguments.validate:
        raise UsageError("nothing to do: add --out DIR, --validate or both")
    _make(arguments)


@dataclass(frozen=True)
class AverageRecipe:
    """How an average is made.

    Attributes:
        sigma_rel: relative width.
        terms: snapshot, kind of its average, and weight in the sum.
        misfit: relative error of the profile; 0 = exact.
    """

    sigma_rel: float
    terms: "list[tuple[Snapshot, str, float]]"
    misfit: float

    def line(self) -> str:
        """The recipe in one line."""
        rounding = sum(times**2 for _, _, times in self.terms) ** 0.5
        text = f"sigma_rel {self.sigma_rel:g}: profile {self.misfit:.2%} off, rounding × {rounding:.2g}"
        if self.misfit > _POOR:
            text += "; this is another width: these snapshots cannot make it (more of them can)"
        return text


def find_recipe(snapshots: "Sequence[Snapshot]", sigma_rel: float) -> AverageRecipe:
    """How to make an average at the last of the snapshots.

    Args:
        snapshots: snapshots of a run, oldest first, at least one.
        sigma_rel: relative width.

    Raises:
        UserError: for another width than the tracked ones, if there is only one snapshot.
    """
    from training.optimizer.power_ema import Profile, coefficients, misfit

    entries = [(snap, kind, profile) for snap in snapshots for kind, profile in snap.averages]
    profiles = [profile for _, _, profile in entries]
    tracked = snapshots[-1].config.optimizer.ema_widths
    if len(snapshots) == 1 and sigma_rel not in tracked:
        raise UserError(
            f"--sigma-rel={sigma_rel:g}: {snapshots[0].path} is the only snapshot up to its step and gives "
            f"the widths {', '.join(f'{width:g}' for width in tracked)} alone; other widths need two or more"
        )
    wanted = Profile(snapshots[-1].state.updates, sigma_rel)
    shares: np.ndarray = coefficients(profiles, wanted)
    terms = [(snap, kind, float(share)) for (snap, kind, _), share in zip(entries, shares, strict=True)]
    return AverageRecipe(sigma_rel, [term for term in terms if term[2]], misfit(profiles, shares, wanted))


def _chosen(run: RunFolder, step: int | None) -> "list[Snapshot]":
    """The snapshots up to a step, which must be one of them; None = the newest."""
    from training.checkpoint.snapshots import list_snapshots

    if not run.root.is_dir():
        raise UserError(f"run folder {run.root} does not exist")
    snapshots = list_snapshots(run)
    if not snapshots:
        raise UserError(
            f"{run.averages} has no snapshots; a run with optimizer.ema_kind=post_hoc makes them, the "
            "first one with its first checkpoint"
        )
    steps = [snapshot.state.step for snapshot in snapshots]
    if step is not None and step not in steps:
        raise UserError(f"--step={step}: there are snapshots of the steps {', '.join(map(str, steps))}")
    return [snap for snap in snapshots if step is None or snap.state.step <= step]


def _make(arguments: argparse.Namespace) -> None:
    run = RunFolder(arguments.run_folder)
    snapshots = _chosen(run, arguments.step)
    recipes = [find_recipe(snapshots, width) for width in arguments.sigma_rel]
    # Shards and weights may have been moved since the snapshot; the run's last call says where they are.
    config = load_config(TrainConfig, run.config) if run.config.is_file() else snapshots[-1].config
    state = snapshots[-1].state
    if arguments.out:
        if arguments.out.resolve() in ((run.root / row.folder).resolve() for row in RUN_RESULTS.values()):
            raise UsageError(f"--out={arguments.out} is a result of the run itself; choose another folder")
        check_replaceable(arguments.out, result_of(config).marker)
    print(f"{len(snapshots)} snapshot(s) up to step {state.step}, {state.updates} updates", file=sys.stderr)

    from intarsia.model import build_model
    from training.finish import model_card, write_result
    from training.model.build import choose_trained

    model = build_model(config.model, config.seed)
    choose_trained(model, config)
    judge = _judge(config, model) if arguments.validate else None
    for recipe in recipes:
        _fill(config, model, recipe)
        loss = "" if judge is None else f"; validation loss {judge()['val/loss']:.6g}"
        print(f"{recipe.line()}{loss}", flush=True)
    if arguments.out:
        average = f"averaged (power function, σ_rel {arguments.sigma_rel[0]:g}, post hoc)"
        write_result(model, config, arguments.out, model_card(config, state, average))
        print(arguments.out)


def _fill(config: Any, model: "EditModel", recipe: AverageRecipe) -> None:
    """Set every trained weight of the model."""
    import torch

    from evaluation.scoring.scorer import progress
    from training.checkpoint.snapshots import WeightedSum
    from training.objective.task import task_of

    total = WeightedSum(recipe.terms)
    trainee = task_of(config).trainee(model)
    params = [(name, param) for name, param in trainee.named_parameters() if param.requires_grad]
    lacking = [name for name, _ in params if name not in total]
    if lacking:
        raise UserError(f"{recipe.terms[-1][0].path} is of another model: it lacks {lacking[0]}")
    with torch.no_grad(), progress(f"sigma_rel {recipe.sigma_rel:g}, weights") as report:
        for number, (name, param) in enumerate(params, 1):
            param.copy_(total.of(name, param.shape))
            report(number, len(params))


def _judge(config: Any, model: "EditModel") -> Any:
    """A function that measures val/* of the model's present weights."""
    import torch

    from training.data.batches import open_dataset
    from training.objective.task import task_of
    from training.ranks.distributed import World
    from training.tracking.validation import Validation

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).eval()
    validation = Validation(config, open_dataset(config), World(0, 1, device))
    trainee = task_of(config).trainee(model)
    return lambda: validation.measure(trainee, model, "val")

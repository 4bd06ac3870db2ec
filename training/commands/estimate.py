"""`python -m training estimate`: memory, hours and GPU-hours of a run, before anything is spent."""

import argparse
import json

from intarsia.command_line import Commands, intermixed
from intarsia.errors import UsageError
from sampling.denoise.gpus import GPUS

_STEPS = 5
_EPILOG = """examples:
  python -m training estimate configs/train/pbe-sd14.yaml --world-size 64
  python -m training estimate configs/train/pbe-sd14.yaml precision=bf16 micro_batch_size=16 --gpu a100-80
  python -m training estimate configs/train/demo.yaml --calibrate

Everything is counted on tensors without content; --calibrate builds the model and trains a few steps on
synthetic pictures. Times are arithmetic / (peak x --mfu); good trainers reach the default."""


def add(commands: Commands) -> None:
    """Declare `estimate`."""
    parser = commands.add_parser(
        "estimate",
        help="estimate the memory per GPU, steps, hours and GPU-hours of a run",
        description="Estimate what a run needs: memory per GPU by part, steps, hours and GPU-hours.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        read=intermixed,
    )
    parser.add_argument("config", help="YAML file of deviations from the defaults")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="a value by its dotted key")
    parser.add_argument("--world-size", type=int, default=1, metavar="N", help="number of GPUs (1)")
    parser.add_argument("--gpu", choices=sorted(GPUS), action="append", help="only this GPU; may be repeated")
    parser.add_argument("--mfu", type=float, default=0.35, help="share of the GPU's peak (.35)")
    parser.add_argument(
        "--calibrate",
        type=int,
        nargs="?",
        const=_STEPS,
        metavar="STEPS",
        help=f"measure STEPS steps on this machine ({_STEPS})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.world_size < 1:
        raise UsageError(f"--world-size={arguments.world_size} must be 1 or more")
    if not 0 < arguments.mfu <= 1:
        raise UsageError(f"--mfu={arguments.mfu:g} must be above 0 and at most 1")
    if arguments.calibrate is not None and arguments.calibrate < 1:
        raise UsageError(f"--calibrate={arguments.calibrate} must be 1 or more")
    from intarsia.config import load_config
    from training.config import TrainConfig, batch_shape
    from training.estimate.figures import calibrate, estimate_run
    from training.estimate.text import estimate_text

    config = load_config(TrainConfig, arguments.config, arguments.overrides)
    shape = batch_shape(config, arguments.world_size)
    on_gpu = not arguments.calibrate or _cuda()
    content = estimate_run(config, shape, arguments.gpu or list(GPUS), arguments.mfu, on_gpu)
    if arguments.calibrate:
        content["measured"] = calibrate(config, shape, arguments.calibrate)
    print(json.dumps(content, indent=1) if arguments.json else estimate_text(content))


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()

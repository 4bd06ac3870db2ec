"""`python -m training CONFIG.yaml [a.b=c ...]`: train or continue a run; and the commands beside it."""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from intarsia.command_line import Parser
from intarsia.config import dump_config, load_config
from intarsia.errors import UsageError, UserError, run_command
from training.checkpoint.folder import check_config
from training.commands import cache_latents, ema, estimate, report
from training.config import TrainConfig, batch_shape, require_paths
from training.data.shards import check_recipe, check_size, find_data, find_shards
from training.ranks.distributed import StopFlag
from training.run.agreement import agree, facts_of
from training.run.claim import claimed
from training.run.faults import explain_file_errors, explain_memory_errors
from training.run.state import RunFolder

_COMMANDS = (cache_latents, ema, estimate, report)
_EXAMPLES = """examples:
  python -m training configs/train/demo.yaml data.shards=shards run=runs/first
  python -m training configs/train/demo.yaml data.shards=shards run=runs/first optimizer.lr=1e-4 --dry-run
  torchrun --nproc-per-node 8 -m training configs/train/pbe-sd14.yaml data.shards=shards run=runs/pbe \\
      model.init.stable_diffusion=sd-v1-4.ckpt model.init.image_encoder=clip-vit-large-patch14

The same command again continues the run from its newest whole checkpoint. SIGTERM, SIGUSR1 and Ctrl-C save,
stop and exit with 75. --debug shows the whole traceback of an error."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(_run, argv)


def _run(argv: Sequence[str]) -> int | None:
    beside = Parser(usage=argparse.SUPPRESS, add_help=False, epilog=None)
    commands = beside.add_subparsers(
        title="commands beside training itself, each with its own --help",
        prog="python -m training",
        metavar="COMMAND",
    )
    for module in _COMMANDS:
        module.add(commands)
    if argv and argv[0] in commands.choices:
        arguments = beside.parse_args(argv)
        return arguments.run(arguments)
    parser = Parser(
        prog="python -m training",
        description="Train an edit model, alone, under torchrun or under srun; or continue a run.",
        epilog=f"{beside.format_help()}\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="YAML file of deviations from the defaults")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="value of a dotted key")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved options and exit")
    with _reported_to_torchrun():
        return _train(parser.parse_intermixed_args(argv))


@contextmanager
def _reported_to_torchrun() -> Iterator[None]:
    """Write an error where torchrun reads it; torchrun prints that of the rank that failed first.

    Raises:
        UserError: that of the block.
    """
    try:
        yield
    except UserError as error:
        if place := os.environ.get("TORCHELASTIC_ERROR_FILE"):
            content = {"message": str(error), "timestamp": int(time.time())}
            with suppress(OSError):
                Path(place).write_text(json.dumps(content), encoding="utf-8")
        raise


def _train(arguments: argparse.Namespace) -> int:
    if "=" in arguments.config and not Path(arguments.config).exists():
        raise UsageError(
            "the first argument is the config file, such as configs/train/demo.yaml; "
            f"{arguments.config!r} is a value of it"
        )
    config = load_config(TrainConfig, arguments.config, arguments.overrides)
    if arguments.dry_run:
        print(dump_config(config), end="")
        return 0
    require_paths(config)
    run = RunFolder(Path(str(config.run)))
    check_config(config.model_dump(mode="json"), run)
    shards = find_data(config.data)
    check_size(shards, config.model.image_size)
    check_recipe(shards, config.data)
    held_out = config.validation.shards if config.validation.every_steps else ()
    validated = find_shards(held_out) if held_out else []
    if config.data.recipe is not None:
        check_recipe(validated, config.data)
    facts = facts_of(config, shards, validated)
    run.make()
    stop = StopFlag().install()

    from training.ranks import distributed

    world = distributed.connect(config.distributed_timeout_s, config.start_timeout_s, stop)
    agree(world, facts)
    shape = batch_shape(config, world.size)
    from training.loop import train

    with (
        explain_file_errors(run),
        explain_memory_errors(config, shape),
        distributed.told_when_alone(),
        claimed(run, world),
    ):
        code = train(config, world, stop)
    distributed.disconnect(world)  # not after an error: other ranks may never come, the launcher ends them
    return code


if __name__ == "__main__":
    sys.exit(main())

"""The end of a run: the model folder, and what to do with it."""

from pathlib import Path

from torch import Tensor

from intarsia.conditions.noised import noised_hash, save_noised
from intarsia.errors import UserError
from intarsia.files import read_json, write_json
from intarsia.model import EditModel, build_model
from intarsia.weights import save_model
from training.checkpoint.folder import another_base, checkpoint_name, read_state
from training.checkpoint.rank_files import Parts
from training.config import TrainConfig
from training.model.base_hash import base_hash, is_of_base
from training.model.build import bare_twin, choose_trained, twin_of
from training.model.frozen import exact_frozen
from training.model.lora import write_adapters
from training.objective.task import task_of
from training.optimizer.ema import KEY
from training.run.result import next_command, result_of
from training.run.state import RunFolder, TrainState
from training.tracking.progress import log


def consolidate(config: TrainConfig, model: EditModel, checkpoint: Path) -> EditModel:
    """The model of a checkpoint, averaged if the run averages, on the CPU; saved by any ranks and stage.

    What the checkpoint leaves out is read from the files that the run began with.

    Args:
        config: training config.
        model: model whose frozen networks it shares.
        checkpoint: complete checkpoint.

    Raises:
        UserError: where the checkpoint is of another model, or the files have other weights now.
    """
    parts = Parts(checkpoint)
    twin = task_of(config).trainee(bare_twin(config))
    shapes = {name: param.shape for name, param in twin.named_parameters()}
    digest = read_state(checkpoint).base_hash
    base = _base_weights(config, digest) if digest else {}
    weights = {name: parts.whole(KEY, name, shapes[name]) for name in shapes if name not in base}
    return twin_of(config, model, base | weights)


def _base_weights(config: TrainConfig, digest: str) -> dict[str, Tensor]:
    """By name what checkpoints leave out, from the files that the config names.

    Raises:
        UserError: where they do not give the weights of this hash.
    """
    model = build_model(config.model, config.seed)
    choose_trained(model, config)
    if base_hash(model) != digest:
        raise UserError(another_base(config.run, config.model.init.model_dump()))
    trainee = task_of(config).trainee(model)
    return {name: p.detach() for name, p in trainee.named_parameters() if is_of_base(p)}


def write_model(model: EditModel, config: TrainConfig, state: TrainState, run: RunFolder) -> None:
    """Write the run's result from the state's checkpoint, unless this step's exists.

    Says what to run next.
    """
    result = result_of(config)
    folder = run.root / result.folder
    content = {"step": state.step, "model": result.folder}
    if not (run.finished.is_file() and read_json(run.finished) == content):
        run.finished.unlink(missing_ok=True)
        card = model_card(config, state)
        whole = consolidate(config, model, run.checkpoints / checkpoint_name(state.step))
        write_result(whole, config, folder, card)
        write_json(run.finished, content)
    log.info("%s after %d steps: %s", result.name, state.step, folder)
    log.info("next: %s", next_command(config, folder))


def write_result(model: EditModel, config: TrainConfig, folder: Path, card: str) -> None:
    """Write a model folder, or only the adapters or the noised encoder; an existing one is replaced."""
    if config.lora:
        write_adapters(model, config.lora, folder, card)
    elif model.noised is not None:
        save_noised(model.noised, config.model, noised_hash(model, model.noised.parts), folder, card)
    else:
        with exact_frozen(model):
            save_model(model, folder, card)


def model_card(config: TrainConfig, state: TrainState, average: str | None = None) -> str:
    """README.md of the result; `average` says how its weights were averaged, if not as the run does."""
    result = result_of(config)
    learned = [f"learning rate {config.optimizer.lr:g}"]
    if result.drops:
        learned += [f"{part} dropout {getattr(config, f'{part}_dropout'):g}" for part in config.model.parts]
    averaged = average or ("averaged (EMA)" if config.optimizer.averages else "plain")
    size = config.model.image_size
    libraries = ", ".join(f"{name} {version}" for name, version in state.libraries.items())
    return f"""---
library_name: diffusers
pipeline_tag: image-to-image
---
# {result.title(config)}

{result.does(config)}

- trained for {state.step:,} steps on {state.position:,} samples of {", ".join(config.data.shards)}
- pictures of {size}×{size} pixels, seed {config.seed}, {averaged} weights
- {", ".join([*learned, config.precision])}
- {libraries}

    {next_command(config, "FOLDER")}

The licence of the weights it was initialised from, and of the pictures, holds for it, too.
"""

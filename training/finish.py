"""The end of a run: the model folder, and what to do with it."""

from pathlib import Path

from intarsia.files import read_json, write_json
from intarsia.model import EditModel
from intarsia.weights import save_model
from training.config import TrainConfig
from training.frozen import exact_frozen
from training.lora import write_adapters
from training.progress import log
from training.state import RunFolder, TrainState


def write_model(model: EditModel, config: TrainConfig, state: TrainState, run: RunFolder) -> None:
    """Write RUN/model (RUN/lora for adapters) from the present weights, unless this step's is there.

    Says what to run next.
    """
    result = run.adapters if config.lora else run.model
    content = {"step": state.step, "model": result.name}
    if not (run.finished.is_file() and read_json(run.finished) == content):
        run.finished.unlink(missing_ok=True)
        card = model_card(config, state)
        if config.lora:
            write_adapters(model, config.lora, result, card)
        else:
            with exact_frozen(model):
                save_model(model, result, card)
        write_json(run.finished, content)
    log.info("%s after %d steps: %s", "adapters" if config.lora else "model", state.step, result)
    log.info("next: %s", _next_command(config, result))


def _next_command(config: TrainConfig, result: Path | str) -> str:
    if config.lora:
        base = config.model.init.model_folder
        return f"python -m sampling merge-lora --model {base} --lora {result} --out MODEL"
    return f"python -m sampling edit --model {result} --image I.png --mask M.png --exemplar E.png --out O.png"


def model_card(config: TrainConfig, state: TrainState) -> str:
    """README.md of the model folder."""
    adapters = f"Adapters (LoRA, rank {config.lora.rank}) for an e" if config.lora else "E"
    averaged = "averaged (EMA)" if config.optimizer.ema_decay is not None else "plain"
    size = config.model.image_size
    libraries = ", ".join(f"{name} {version}" for name, version in state.libraries.items())
    return f"""---
library_name: diffusers
pipeline_tag: image-to-image
---
# {adapters}xemplar-based editing model

Repaints the masked part of a picture so that it shows the object of an exemplar picture.

- trained for {state.step:,} steps on {state.position:,} samples of {", ".join(config.data.shards)}
- pictures of {size}×{size} pixels, seed {config.seed}, {averaged} weights
- learning rate {config.optimizer.lr:g}, exemplar dropout {config.exemplar_dropout:g}, {config.precision}
- {libraries}

    {_next_command(config, "FOLDER")}

The licence of the weights it was initialised from, and of the pictures, holds for it, too.
"""

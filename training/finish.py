"""The end of a run: the model folder, and what to do with it."""

from intarsia.files import read_json, write_json
from intarsia.model import EditModel
from intarsia.weights import save_model
from training.config import TrainConfig
from training.frozen import exact_frozen
from training.progress import log
from training.state import RunFolder, TrainState


def write_model(model: EditModel, config: TrainConfig, state: TrainState, run: RunFolder) -> None:
    """Write RUN/model from the model's present weights, unless this step's is there; say what to run next."""
    content = {"step": state.step, "model": run.model.name}
    if not (run.finished.is_file() and read_json(run.finished) == content):
        run.finished.unlink(missing_ok=True)
        with exact_frozen(model):
            save_model(model, run.model, card=model_card(config, state))
        write_json(run.finished, content)
    log.info("model after %d steps: %s", state.step, run.model)
    log.info(
        "next: python -m sampling edit --model %s --image I.png --mask M.png --exemplar E.png --out O.png",
        run.model,
    )


def model_card(config: TrainConfig, state: TrainState) -> str:
    """README.md of the model folder."""
    averaged = "averaged (EMA)" if config.optimizer.ema_decay is not None else "plain"
    size = config.model.image_size
    libraries = ", ".join(f"{name} {version}" for name, version in state.libraries.items())
    return f"""---
library_name: diffusers
pipeline_tag: image-to-image
---
# Exemplar-based editing model

Repaints the masked part of a picture so that it shows the object of an exemplar picture.

- trained for {state.step:,} steps on {state.position:,} samples of {", ".join(config.data.shards)}
- pictures of {size}×{size} pixels, seed {config.seed}, {averaged} weights
- learning rate {config.optimizer.lr:g}, exemplar dropout {config.exemplar_dropout:g}, {config.precision}
- {libraries}

    python -m sampling edit --model FOLDER --image I.png --mask M.png --exemplar E.png --out O.png

The licence of the weights it was initialised from, and of the pictures, holds for it, too.
"""

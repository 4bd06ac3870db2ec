"""What a run leaves at its end: a model, adapters or a noised encoder."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from intarsia.model_folder import ADAPTERS, INDEX, NOISED_ENCODER, card_words
from training.config import TrainConfig


@dataclass(frozen=True)
class Result:
    """A kind of result.

    Attributes:
        name: its name in messages.
        folder: name of its folder in the run folder.
        marker: name of a file that every such folder contains.
        title: function from a config to the title of its card.
        does: function from a config to the card's sentence about its use.
        command: function (config, quoted folder) -> arguments of `python -m sampling` that use it.
        drops: whether the card names the dropout of what the model is told.
    """

    name: str
    folder: str
    marker: str
    title: Callable[[TrainConfig], str]
    does: Callable[[TrainConfig], str]
    command: Callable[[TrainConfig, str], str]
    drops: bool = True


def result_of(config: TrainConfig) -> Result:
    """The kind of result of a run."""
    return RUN_RESULTS["adapters" if config.lora else "noised encoder" if config.model.noised else "model"]


def next_command(config: TrainConfig, folder: Path | str) -> str:
    """The command that uses a run's result."""
    return f"python -m sampling {result_of(config).command(config, shlex.quote(str(folder)))}"


def _kind(config: TrainConfig) -> str:
    return card_words(config.model).kind


def _model(config: TrainConfig) -> str:
    kind = _kind(config)
    return f"{kind[0].upper()}{kind[1:]}"


def _adapters(config: TrainConfig) -> str:
    assert config.lora
    return f"Adapters (LoRA, rank {config.lora.rank}) for an {_kind(config)}"


def _repaints(config: TrainConfig) -> str:
    return f"Repaints the masked part of a picture so that it shows {card_words(config.model).shows}."


def _finds(config: TrainConfig) -> str:
    found = " and the ".join("prompt" if part == "text" else part for part in config.model.noised_parts)
    return f"Finds the {found} of a noisy picture; its gradient guides edits towards theirs."


def _edit(config: TrainConfig, model: str) -> str:
    return f"edit {model} --image I.png --mask M.png {card_words(config.model).options} --out O.png"


def _merge(config: TrainConfig, folder: str) -> str:
    base = shlex.quote(str(config.model.init.model_folder))
    return f"merge-lora --model {base} --lora {folder} --out MODEL"


_ROWS = (
    Result(
        "model",
        "model",
        INDEX,
        title=_model,
        does=_repaints,
        command=lambda config, folder: _edit(config, card_words(config.model).model(folder)),
    ),
    Result(
        "adapters",
        "lora",
        ADAPTERS,
        title=_adapters,
        does=_repaints,
        command=_merge,
    ),
    Result(
        "noised encoder",
        "noised",
        NOISED_ENCODER,
        title=lambda config: f"A noised encoder that guides an {_kind(config)}",
        does=_finds,
        command=lambda config, folder: _edit(
            config, f"--model MODEL --noised-clip {folder} --clip-guidance 1"
        ),
        drops=False,
    ),
)
RUN_RESULTS = {result.name: result for result in _ROWS}

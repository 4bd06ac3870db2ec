"""Which painter and which weights a `--model` names: a folder, a painter, or PAINTER:WEIGHTS."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from intarsia.errors import UsageError
from sampling.painters.painter import PAINTERS, painter_of

OWN_NAME = "paint_by_example"  # lama-cleaner's name of what the painter `own` does
_ELSEWHERE = ("ldm", "zits", "mat", "fcf")  # painted by a running IOPaint only


class Chosen(NamedTuple):
    """A painter's name and its `--model`, None without one."""

    painter: str
    model: Path | None


def chosen(model: str | None, painter: str = "own", model_dir: Path | None = None) -> Chosen:
    """The painter and its weights.

    Args:
        model: `--model`: a folder or file, a painter's name, or both as PAINTER:WEIGHTS; None without one.
        painter: `--painter`; "own" if it was not given. With another one, `model` names its weights.
        model_dir: folder where weights are looked for by their usual names.

    Raises:
        UsageError: for a painter that is not here.
    """
    if model is None:
        return Chosen(painter, usual_weights(painter, model_dir))
    word, colon, weights = model.partition(":")
    name = painter_names().get(word)
    if painter != "own" and name != painter:
        return Chosen(painter, _placed(painter, model, model_dir))
    if word in _ELSEWHERE and not colon:
        raise UsageError(
            f"--model {word} is painted by a running IOPaint; give --model iopaint:{word} and --iopaint-url"
        )
    if name is None:
        return Chosen(painter, _placed(painter, model, model_dir))
    return Chosen(name, _placed(name, weights, model_dir) if weights else usual_weights(name, model_dir))


def painter_names() -> dict[str, str]:
    """Word of `--model` -> painter; the own painter has lama-cleaner's name here."""
    return {OWN_NAME if name == "own" else name: name for name in PAINTERS}


def usual_weights(painter: str, model_dir: Path | None) -> Path | None:
    """A painter's weights below a folder, by their usual names; None if there are none."""
    if model_dir is None:
        return None
    places = [model_dir / name for name in painter_of(painter).weights]
    return next((place for place in places if place.exists()), None)


def _placed(painter: str, weights: str, model_dir: Path | None) -> Path:
    path = Path(weights)
    inside = model_dir / path if model_dir else path
    return inside if not painter_of(painter).named and not path.exists() and inside.exists() else path

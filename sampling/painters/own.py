"""The painter `own`: a model folder of this project, denoised by `sampling.editing`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from intarsia.errors import UsageError, UserError
from intarsia.model_folder import check_model_folder, is_upsampler, model_hash, parts_of
from sampling.painters.painter import Paint, Painter

if TYPE_CHECKING:
    import torch

    from intarsia.model import EditModel
    from sampling.canvas.edits import EditRequest, EditResult
    from sampling.denoise.sampler import OnStep
    from sampling.methods.request import InversionRequest
    from sampling.methods.run_inversion import InversionResult
    from sampling.settings import EditSettings, InversionSettings, MachineSettings


class OwnPaint:
    """A loaded model that paints (`Paint`) and edits by inversion (`Inverting`)."""

    def __init__(self, model: EditModel, device: torch.device | None = None) -> None:
        """`device` is where it computes, by default the model's device."""
        self._model, self._device = model, device

    def __call__(
        self, requests: Sequence[EditRequest], settings: EditSettings, on_step: OnStep | None = None
    ) -> list[EditResult]:
        """See `Paint`."""
        from sampling.editing import edit

        return edit(self._model, requests, settings, on_step, self._device)

    def invert(
        self,
        request: InversionRequest,
        settings: InversionSettings,
        canvas_settings: EditSettings,
        on_step: OnStep | None = None,
    ) -> InversionResult:
        """See `Inverting`."""
        from sampling.methods.run_inversion import invert_edit

        return invert_edit(self._model, request, settings, canvas_settings, self._device, on_step)


def painting_with(model: EditModel, device: torch.device | None = None) -> OwnPaint:
    """The painter of a loaded model; `device` is where it computes, by default the model's device."""
    return OwnPaint(model, device)


def _named(model: Path | None) -> Path:
    if model is None:
        raise UsageError("--model is missing; give a model folder")
    return model


def _check(model: Path | None) -> None:
    folder = _named(model)
    check_model_folder(folder)
    if is_upsampler(folder):
        raise UserError(
            f"{folder} is an upsampler, which needs a picture of another model; give it by --upsampler, and "
            "the other model by --model"
        )


def _open(model: Path | None, machine: MachineSettings) -> Paint:
    from sampling.denoise.machine import open_model

    return painting_with(*open_model(_named(model), machine))


PAINTER = Painter(
    check=_check,
    open=_open,
    fingerprint=lambda model: model_hash(_named(model)),
    parts=lambda model: parts_of(_named(model)),
    weights=("paint_by_example", "Paint-by-Example"),
)

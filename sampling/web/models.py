"""The models that visitors can choose from: found in a folder, one of them in memory at a time."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from intarsia.errors import UserError
from intarsia.model_folder import INDEX, is_upsampler
from sampling.painters.naming import Chosen, painter_names, usual_weights
from sampling.painters.painter import Inverting, Paint, open_painter, painter_of
from sampling.settings import MachineSettings
from sampling.web.choices import ModelFields, fields_of
from sampling.web.service import Service

if TYPE_CHECKING:
    from sampling.canvas.edits import EditRequest, EditResult
    from sampling.denoise.sampler import OnStep
    from sampling.methods.request import InversionRequest
    from sampling.methods.run_inversion import InversionResult
    from sampling.settings import EditSettings, InversionSettings


def offered_models(painter: str, model: Path | None, model_dir: Path | None) -> tuple[str, dict[str, Chosen]]:
    """The name of the model of the command line, and all models that visitors may choose, this one first.

    Args:
        painter: its painter.
        model: its weights.
        model_dir: folder of more weights; None for this model alone.
    """
    own = Chosen(painter, model)
    found = found_models(model_dir) if model_dir else {}
    for name, chosen in found.items():
        if chosen == own:
            return name, {name: own, **found}
    name = model.name if model and painter == "own" else painter
    while name in found:
        name = f"{name} (--model)"
    return name, {name: own, **found}


def found_models(model_dir: Path) -> dict[str, Chosen]:
    """The models below a folder by the words of `--model`, and the painters that need no weights."""
    found = {}
    for word, painter in painter_names().items():
        model = usual_weights(painter, model_dir)
        if _can_paint(painter, model):
            found[word] = Chosen(painter, model)
    used = {chosen.model for chosen in found.values()}
    for folder in sorted(model_dir.iterdir()):
        taken = folder in used or folder.name in found
        if (folder / INDEX).is_file() and not taken and not is_upsampler(folder):
            found[folder.name] = Chosen("own", folder)
    return found


def _can_paint(painter: str, model: Path | None) -> bool:
    try:
        painter_of(painter).check(model)
    except UserError:
        return False
    return True


class LoadedModel:
    """The model that is in memory; another takes its place, in the turn of the edit that needs it."""

    def __init__(self, name: str, paint: Paint) -> None:
        """`name`: name of the model; `paint`: its loaded painter."""
        self._name, self._paint = name, paint

    def get(self, name: str, open_painter: Callable[[], Paint]) -> Paint:
        """The painter called `name`, opened if another one is in memory, which is freed before."""
        if self._name != name:
            self._name, self._paint = "", _nothing
            gc.collect()
            self._paint, self._name = open_painter(), name
        return self._paint


def _nothing(
    requests: Sequence[EditRequest], settings: EditSettings, on_step: OnStep | None = None
) -> list[EditResult]:
    raise UserError("no model could be loaded; choose another")


class _Switched:
    """A `Paint` that is loaded when it is used."""

    def __init__(self, loaded: LoadedModel, name: str, open_painter: Callable[[], Paint]) -> None:
        self._get = lambda: loaded.get(name, open_painter)

    def __call__(
        self, requests: Sequence[EditRequest], settings: EditSettings, on_step: OnStep | None = None
    ) -> list[EditResult]:
        return self._get()(requests, settings, on_step)


class _SwitchedInverting(_Switched):
    """The own painter's, which also edits by inversion (`Inverting`)."""

    def invert(
        self,
        request: InversionRequest,
        settings: InversionSettings,
        canvas_settings: EditSettings,
        on_step: OnStep | None = None,
    ) -> InversionResult:
        """See `Inverting`."""
        paint = self._get()
        assert isinstance(paint, Inverting)  # the own painter
        return paint.invert(request, settings, canvas_settings, on_step)


class Models:
    """The services of all models; they share the line, the files and the limits."""

    def __init__(
        self,
        first: Service,
        fields: ModelFields | None = None,
        name: str = "",
        offered: Mapping[str, Chosen] | None = None,
        machine: MachineSettings | None = None,
    ) -> None:
        """Begin with one model.

        Args:
            first: service of the model that is loaded.
            fields: what the page shows of it; None for what follows from the service.
            name: its name.
            offered: models by name, the first among them; None = no switch.
            machine: device and precision of all.
        """
        self.first, self.name = first, name
        self.names = [name, *(other for other in offered or {} if other != name)]
        self._offered, self._machine = dict(offered or {}), machine or MachineSettings()
        self._services = {name: (first, fields or ModelFields(first.parts))}
        self._making = threading.Lock()
        self._loaded = LoadedModel(name, first.paint)
        if len(self.names) > 1:
            first.paint = self._switched(name)

    def of(self, name: str) -> tuple[Service, ModelFields]:
        """Service and fields of a model; an empty name is that of the first.

        The first call hashes the model's weights, which takes a while; they are loaded by its first edit.

        Raises:
            UserError: for a model that is not offered.
        """
        name = name or self.name
        if name not in self.names:
            raise UserError(f"model {name[:100]!r} is not offered here; choose {', '.join(self.names)}")
        if name in self._services:  # without a wait for one whose weights are hashed
            return self._services[name]
        with self._making:
            if name not in self._services:
                self._services[name] = self._made(name)
            return self._services[name]

    def _made(self, name: str) -> tuple[Service, ModelFields]:
        from sampling.provenance import pattern

        painter, model = self._offered[name]
        parts = painter_of(painter).parts(model)
        shared = pattern(model, self._machine_of(painter), painter=painter)
        return self.first.with_model(self._switched(name), shared, parts), fields_of(painter, model, parts)

    def _switched(self, name: str) -> Paint:
        painter, model = self._offered[name]
        kind = _SwitchedInverting if painter == "own" else _Switched
        return kind(self._loaded, name, lambda: open_painter(painter, model, self._machine_of(painter)))

    def _machine_of(self, painter: str) -> MachineSettings:
        """The server's options that a painter follows; the others are for other models."""
        row = painter_of(painter)
        if row.machine is None:
            return self._machine
        follows = ("iopaint_url", *row.machine, *(("device",) if row.torch else ()))
        asked = {name: getattr(self._machine, name) for name in follows}
        return MachineSettings(**asked)

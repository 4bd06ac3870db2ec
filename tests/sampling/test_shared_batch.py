"""Requests that wait in line share a batch, and each remains its visitor's own."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from intarsia.errors import UserError
from intarsia.model import EditModel
from sampling.canvas.edits import EditRequest, EditResult
from sampling.denoise.sampler import OnStep
from sampling.painters.own import painting_with
from sampling.pictures import png_bytes
from sampling.provenance import changed_files, pattern, read_provenance
from sampling.settings import EditSettings, MachineSettings
from sampling.web.service import Limits, Made, Order, Service
from tests.sampling.test_stop import until
from tests.sampling.tiny import request

STEPS = 3
SETTINGS = EditSettings(num_inference_steps=STEPS, scheduler="ddim", fit="resize")


class Held:
    """A tiny model's painter that notes its calls; none begins before it may."""

    def __init__(self, model: EditModel) -> None:
        self.paint, self.calls, self.go = painting_with(model), list[int](), threading.Event()

    def __call__(
        self, requests: Sequence[EditRequest], settings: EditSettings, on_step: OnStep | None = None
    ) -> list[EditResult]:
        self.calls.append(len(requests))
        assert self.go.wait(120)
        return self.paint(requests, settings, on_step)


class Visitor(threading.Thread):
    """One who waits for an edit; what became of it is `made` or `error`."""

    def __init__(self, service: Service, order: Order) -> None:
        super().__init__(daemon=True)
        self.service, self.order, self.stop = service, order, threading.Event()
        self.steps, self.made, self.error = list[tuple[int, int]](), list[Made](), ""
        self.stops_at = 0

    def run(self) -> None:
        try:
            self.made = self.service.edit(self.order, self._step, self.stop)
        except UserError as error:
            self.error = f"{type(error).__name__}: {error}"

    def _step(self, done: int, total: int) -> None:
        self.steps.append((done, total))
        if done == self.stops_at:
            self.stop.set()


@pytest.fixture
def painter(model: EditModel) -> Held:
    return Held(model)


def serving(painter: Held, model_folder: Path, folder: Path, share_batch: int = 4) -> Service:
    shared = pattern(model_folder, MachineSettings(device="cpu"))
    return Service(painter, shared, folder, Limits(share_batch=share_batch))


@pytest.fixture
def service(painter: Held, model_folder: Path, tmp_path: Path) -> Service:
    return serving(painter, model_folder, tmp_path)


def order_for(service: Service, seed: int, settings: EditSettings = SETTINGS, size: int = 64) -> Order:
    asked = request(seed, size, size)
    assert asked.exemplar is not None
    kept = {"image": asked.image, "mask": asked.edit_mask.astype(np.uint8) * 255, "exemplar": asked.exemplar}
    files = {name: service.keep(png_bytes(pixels), name) for name, pixels in kept.items()}
    return Order(**files, settings=settings, seed=seed)


def waiting(service: Service, painter: Held, orders: Sequence[Order]) -> list[Visitor]:
    """Visitors in line behind the first, whose edit has begun."""
    visitors = [Visitor(service, order) for order in orders]
    for number, visitor in enumerate(visitors, 1):
        visitor.start()
        assert until(lambda wanted=number: len(service.line._waiting) == wanted and painter.calls)
    return visitors


def finish(painter: Held, visitors: Sequence[Visitor]) -> None:
    painter.go.set()
    for visitor in visitors:
        visitor.join(120)
        assert not visitor.is_alive()


def assert_as_alone(visitor: Visitor) -> None:
    [made] = visitor.made
    [alone] = visitor.service.edit(visitor.order)
    difference = np.abs(alone.result.image.astype(int) - made.result.image)
    # A batched convolution may add in another order; a rounding at .5 can then move by one level.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001
    assert alone.path == made.path, "the same work"
    assert read_provenance(alone.path).painted_with == 0


def test_three_that_wait_share_a_call(service: Service, painter: Held) -> None:
    visitors = waiting(service, painter, [order_for(service, seed) for seed in range(4)])
    finish(painter, visitors)
    assert painter.calls == [1, 3]
    for visitor, others in zip(visitors, (0, 2, 2, 2), strict=True):
        assert visitor.steps == [(step, STEPS) for step in range(1, STEPS + 1)]
        [made] = visitor.made
        recorded = read_provenance(made.path)
        assert (recorded.seed, recorded.painted_with) == (visitor.order.seed, others)
        notes = [note for note in changed_files(recorded) if "one batch with 2 pictures of other" in note]
        assert len(notes) == (others > 0)
        assert (np.asarray(Image.open(made.path)) == made.result.image).all()
        assert_as_alone(visitor)


def test_one_that_is_stopped_leaves_the_others(service: Service, painter: Held) -> None:
    visitors = waiting(service, painter, [order_for(service, seed) for seed in range(4)])
    for stopped in visitors[1:3]:  # the one whose turn it is, and one that shares it
        stopped.stops_at = 1
    finish(painter, visitors)
    assert painter.calls == [1, 3]
    for stopped in visitors[1:3]:
        assert (stopped.error, stopped.steps) == ("Stopped: the edit was stopped", [(1, STEPS)])
    for other in (visitors[0], visitors[3]):
        assert len(other.made) == 1
        assert len(other.steps) == STEPS


def test_the_call_ends_when_all_are_stopped(service: Service, painter: Held) -> None:
    visitors = waiting(service, painter, [order_for(service, seed) for seed in range(3)])
    for stopped in visitors[1:]:
        stopped.stops_at = 2
    finish(painter, visitors)
    assert painter.calls == [1, 2]
    assert [one.error for one in visitors[1:]] == ["Stopped: the edit was stopped"] * 2
    assert [one.steps for one in visitors[1:]] == [[(1, STEPS), (2, STEPS)]] * 2


def test_what_one_does_wrong_is_its_own_error(service: Service, painter: Held) -> None:
    orders = [order_for(service, seed) for seed in range(4)]
    point = np.zeros((900, 900), np.uint8)
    point[500, 500] = 255  # too small for the model's square, which only the painter knows
    large = service.keep(png_bytes(np.zeros((900, 900, 3), np.uint8)), "image")
    orders[2] = Order(large, service.keep(png_bytes(point), "mask"), SETTINGS, orders[0].exemplar)
    other = order_for(service, 5, size=32)
    orders.append(Order(orders[0].image, other.mask, SETTINGS, orders[0].exemplar))
    visitors = waiting(service, painter, orders)
    finish(painter, visitors)
    assert painter.calls == [1, 3, 1, 1, 1], "one is never painted, the others of the call then by themselves"
    assert "a mask marks too small an area" in visitors[2].error
    assert "the mask is 32 x 32 pixels but the picture 64 x 64" in visitors[4].error
    for fine in (0, 1, 3):
        assert_as_alone(visitors[fine])


def test_only_equal_settings_share_and_only_so_many(service: Service, painter: Held) -> None:
    longer = SETTINGS.model_copy(update={"num_inference_steps": STEPS + 1})
    settings = [SETTINGS, SETTINGS, longer, *[SETTINGS] * 4]
    orders = [order_for(service, seed, own) for seed, own in enumerate(settings)]
    visitors = waiting(service, painter, orders)
    finish(painter, visitors)
    assert painter.calls == [1, 4, 1, 1]
    assert [visitor.steps[-1][1] for visitor in visitors] == [own.num_inference_steps for own in settings]


def test_by_default_each_is_made_by_itself(painter: Held, model_folder: Path, tmp_path: Path) -> None:
    service = serving(painter, model_folder, tmp_path, Limits().share_batch)
    visitors = waiting(service, painter, [order_for(service, seed) for seed in range(3)])
    finish(painter, visitors)
    assert painter.calls == [1, 1, 1]

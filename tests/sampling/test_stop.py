"""Edits end when they are stopped, when their client is gone, and with the server."""

import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from starlette.applications import Starlette

from intarsia.model import EditModel
from sampling.canvas.edits import EditRequest, EditResult
from sampling.cli import main
from sampling.denoise.sampler import OnStep
from sampling.painters.own import painting_with
from sampling.provenance import pattern
from sampling.settings import EditSettings, MachineSettings
from sampling.web.api import add_api
from sampling.web.gate import BodyLimits, Gate
from sampling.web.line import EditLine, Stopped, Waiting
from sampling.web.service import Limits, Service
from sampling.web.visitors import visitors_of
from tests import forks
from tests.sampling.serving import begin, post, running
from tests.sampling.test_api import BODY

STEPS = 500
LONG = BODY | {"num_inference_steps": STEPS, "scheduler": "ddim"}


def until(true: Callable[[], object], seconds: float = 120.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(true())


class Counted:
    """A tiny model's painter that counts steps, and edits that ended before their last."""

    def __init__(self, model: EditModel) -> None:
        self.paint, self.steps, self.ended = painting_with(model), 0, threading.Event()

    def __call__(
        self, requests: Sequence[EditRequest], settings: EditSettings, on_step: OnStep | None = None
    ) -> list[EditResult]:
        def counted(done: int, total: int) -> None:
            self.steps += 1
            assert on_step is not None
            on_step(done, total)

        try:
            return self.paint(requests, settings, counted)
        finally:
            self.ended.set()


@pytest.fixture
def painter(model: EditModel) -> Counted:
    return Counted(model)


@pytest.fixture
def gate(painter: Counted, model_folder: Path, tmp_path: Path) -> Gate:
    service = Service(painter, pattern(model_folder, MachineSettings(device="cpu")), tmp_path, Limits())
    app = Starlette()
    add_api(app, service, batch_size=1)
    return Gate(app, BodyLimits(1 << 20, 1 << 24), visitors_of("127.0.0.1"))


def test_the_edit_of_a_client_that_is_gone_ends(gate: Gate, painter: Counted) -> None:
    content = json.dumps(LONG).encode()
    with running(gate) as port:
        with begin(port, len(content), content):
            assert until(lambda: painter.steps > 1)
        assert painter.ended.wait(120)
        assert painter.steps < STEPS
        assert post(port, BODY)[0] == 200, "the next one has its turn"


def test_a_client_that_is_gone_leaves_the_line(gate: Gate, painter: Counted) -> None:
    content = json.dumps(LONG).encode()
    with running(gate) as port, begin(port, len(content), content) as first:
        assert until(lambda: painter.steps > 1)
        for _ in range(20):  # more than there are places
            begin(port, len(content), content).close()
        first.close()
        assert until(lambda: post(port, BODY)[0] == 200)
        assert painter.steps < 2 * STEPS


def test_turns_come_in_order_and_a_stopped_one_is_left_out() -> None:
    line, order, stops = EditLine(9), list[int](), [threading.Event() for _ in range(5)]

    def wait(number: int) -> None:
        try:
            with line.turn(Waiting(stops[number])):
                order.append(number)
        except Stopped:
            order.append(-number)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(1, 5)]
    with line.turn(Waiting(stops[0])):
        for number, thread in enumerate(threads, 2):
            thread.start()
            assert until(lambda wanted=number: len(line._waiting) == wanted)
        stops[2].set()
        assert until(lambda: order == [-2])
    for thread in threads:
        thread.join()
    assert order == [-2, 1, 3, 4]
    line.close()
    with pytest.raises(Stopped, match="the edit was stopped"), line.turn(Waiting(threading.Event())):
        pass


@pytest.mark.processes
def test_a_signal_ends_the_process_and_its_running_edit(model_folder: Path, tmp_path: Path) -> None:
    words = ["--model", str(model_folder), "--port", "0", "--device", "cpu", "--batch-size", "1"]
    server = forks.begin(main, ["serve", *words], {"TMPDIR": str(tmp_path)})
    assert until(lambda: "ready on " in server.stderr)
    port = int(re.search(r"ready on \S+:(\d+)/", server.stderr)[1])  # type: ignore[index]
    content = json.dumps(LONG | {"num_images": 8}).encode()
    with begin(port, len(content), content):
        assert until(lambda: list(tmp_path.rglob("inputs/*.png")))
        server.process.terminate()
        ended = server.wait(60)  # 8 times 500 steps take longer
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.glob("intarsia-serve-*"))

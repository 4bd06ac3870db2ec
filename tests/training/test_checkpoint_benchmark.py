"""The benchmark of saving: it times what it says, and its ratio is that of the delays."""

import time

import pytest

from benchmarks.checkpoint import Seconds, one_round, report


class SlowSaver:
    """Takes a while to start, and a while to finish."""

    def __init__(self) -> None:
        self.polls = 0

    def start(self) -> None:
        time.sleep(0.05)

    def poll(self) -> None:
        self.polls += 1

    def finish(self) -> None:
        time.sleep(0.02)


def test_a_round_counts_the_saves_start_and_tells_what_is_left() -> None:
    saver, steps = SlowSaver(), []
    seconds = one_round(lambda: steps.append(1), 3, saver.start, saver)
    assert len(steps) == saver.polls == 3
    assert seconds.steps >= 0.05
    assert seconds.left >= 0.02


def test_delays_are_differences_within_a_round() -> None:
    rounds = {
        "none": [Seconds(2.0), Seconds(4.0), Seconds(6.0)],
        "synchronous": [Seconds(3.0), Seconds(5.0), Seconds(9.0)],
        "asynchronous": [Seconds(2.2, 0.5), Seconds(4.1, 0.5), Seconds(6.3, 0.5)],
    }
    text = report(rounds, steps=4, size=3_000_000)
    assert text.startswith("checkpoint of 3 MB, 3 rounds of 4 steps of 1.000 s\n")
    line = next(line for line in text.splitlines() if line.startswith("asynchronous   "))
    assert [float(word) for word in line.split() if "." in word] == pytest.approx([0.2, 0.5])
    assert text.endswith("asynchronous / synchronous: 0.20\n")

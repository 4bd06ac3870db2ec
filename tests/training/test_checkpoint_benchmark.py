"""The benchmark of saving: it times what it says, and its ratio is that of the delays."""

import time

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
    assert seconds.steps >= seconds.still >= 0.05
    assert seconds.left >= 0.02


def test_the_table_compares_the_best_rounds_and_the_median_standstills() -> None:
    rounds = {
        "none": [Seconds(4.0), Seconds(2.0), Seconds(6.0)],
        "synchronous": [Seconds(9.0, 0.5), Seconds(5.0, 0.9), Seconds(3.0, 0.8)],
        "asynchronous": [Seconds(2.2, 0.1, 0.5), Seconds(4.1, 0.2, 0.7), Seconds(6.3, 0.3, 0.6)],
    }
    lines = report(rounds, steps=4, size=3_000_000).splitlines()
    assert lines[0] == "checkpoint of 3 MB, 3 rounds of 4 steps, 0.500 s each"
    assert lines[2].split() == ["synchronous", "0.800", "s", "1.000", "s", "0.000", "s"]
    assert lines[3].split() == ["asynchronous", "0.200", "s", "0.200", "s", "0.600", "s"]
    assert lines[4] == "standing still, asynchronous / synchronous: 0.25"

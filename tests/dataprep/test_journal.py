"""What a worker notes of its work, and what the next one makes of that: killers, and other deaths."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataprep.plan.plan_file import PLAN_FILE, read_plan_rows
from dataprep.shards.journal import (
    ATTEMPT,
    HARMLESS_DEATHS,
    STARTS,
    dies_alone,
    find_killers,
    journal_path,
    note_start,
    read_journal,
)
from intarsia.errors import UserError
from tests.dataprep.test_shards import Inputs, plan_of
from tests.dataprep.toy import toy_request
from tests.paths import ROOT

KILLER = """
import os, sys
from dataprep.shards import build_shard as shards
from dataprep.plan.plan import BuildConfig

reader = shards.load_picture
def read(path, *how):
    if path.name == sys.argv[1]:
        os._exit(139)  # as a decoder's segmentation fault would
    return reader(path, *how)
shards.load_picture = read
folder, images, fingerprint, config = sys.argv[2:]
shards.build_shard(shards.ShardJob(folder, images, 0, fingerprint, BuildConfig.model_validate_json(config)))
"""


@pytest.mark.processes
def test_a_picture_that_kills_its_worker_each_time_is_quarantined(tmp_path: Path, toy_coco: Inputs) -> None:
    request = toy_request(tmp_path, tmp_path / "out", inputs=toy_coco)
    header = plan_of(request)
    victim = read_plan_rows(request.out / PLAN_FILE, 0)[2]
    command = [
        sys.executable,
        "-c",
        KILLER,
        victim.file,
        str(request.out),
        str(request.images),
        header["fingerprint"],
        request.config.model_dump_json(),
    ]
    codes = [subprocess.run(command, cwd=ROOT, check=False).returncode for _ in range(2)]
    assert codes == [139, 0]
    sidecar = json.loads((request.out / "toy-train-000000.json").read_text())
    assert sidecar["rejected"]["pictures"]["quarantined"] == 1
    (line,) = [line for line in sidecar["rejects"] if line["reason"] == "quarantined"]
    assert line["image_id"] == victim.image_id
    assert not journal_path(request.out, request.config, 0).exists()


def test_the_journal_tells_what_each_attempt_died_of(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    assert read_journal(journal) == (set(), [])
    journal.write_text("*\na\nb\n")
    assert read_journal(journal) == (set(), ["b"])
    journal.write_text("*\na\nb\n*\na\n*\n!b\n*\n*\na\nb\nc\n")
    assert read_journal(journal) == ({"b"}, ["b", "a", "", "", "c"])


def test_a_picture_in_work_when_its_worker_was_killed_is_tried_and_not_blamed(tmp_path: Path) -> None:
    """A kill from outside, however often it hits the same picture, must not change the result."""
    journal = tmp_path / "journal"
    journal.write_text("*\na\nb\n" * 3 + "*\na\n")
    deadly = {"a": lambda: os._exit(139), "b": lambda: None}
    assert find_killers(journal, "x.tar", lambda key: deadly[key]()) == {"a"}
    assert read_journal(journal)[0] == {"a"}
    assert find_killers(journal, "x.tar", lambda key: None) == {"a"}, "proven stays proven"


def test_deaths_that_no_picture_explains_end_the_run_with_a_sentence(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.write_text("*\na\nb\n" * HARMLESS_DEATHS)
    with pytest.raises(UserError, match=r"built x\.tar were killed 10 times, the last one at picture b"):
        find_killers(journal, "x.tar", lambda key: None)


def test_dying_alone_is_a_signal_or_an_exit_or_no_end_but_no_exception() -> None:
    assert dies_alone(lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert dies_alone(lambda: os._exit(3))
    assert dies_alone(lambda: time.sleep(60), seconds=0.2)
    assert not dies_alone(lambda: 1 / 0)
    assert not dies_alone(lambda: None)


def test_workers_that_die_before_they_begin_a_shard_end_the_run_with_a_sentence(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    for _ in range(STARTS):
        note_start(journal, "toy-train-000003")
    with pytest.raises(UserError, match=r"5 workers for toy-train-000003, one after the other, died before"):
        note_start(journal, "toy-train-000003")
    assert read_journal(journal) == (set(), []), "no picture is to blame"
    with journal.open("a") as log:
        log.write(ATTEMPT + "a\n")
    note_start(journal, "toy-train-000003")
    assert read_journal(journal) == (set(), ["a"])


@pytest.mark.processes
def test_a_worker_can_note_its_start_before_it_imports_what_may_kill_it() -> None:
    code = "import sys, dataprep.shards.journal; print(sorted(m.partition('.')[0] for m in sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    loaded = set(json.loads(said.stdout.replace("'", '"')))
    assert "intarsia" in loaded
    assert not loaded & {"numpy", "cv2", "simplejpeg", "pyarrow", "pydantic", "ray"}

"""Verify holds the plan against its fingerprint, and finds the same with any number of processes."""

import random
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dataprep.check.verify import SHARDS_PER_WORKER, verify_folder
from dataprep.plan.plan_file import PLAN_FILE, read_plan_header, stored_fingerprint
from dataprep.progress import BuildProgress
from intarsia.errors import UserError
from tests.dataprep.test_shards import build_alone
from tests.dataprep.toy import toy_request

Inputs = tuple[Path, Path]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, toy_coco: Inputs) -> Path:
    out = tmp_path_factory.mktemp("verified") / "out"
    build_alone(toy_request(out, out, inputs=toy_coco, images_per_shard=2))
    return out


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built, tmp_path / "out")


def test_a_plan_with_other_boxes_is_seen(folder: Path) -> None:
    """A sound file, with the header of the true one."""
    path = folder / PLAN_FILE
    table = pq.read_table(path)
    assert stored_fingerprint(path) == read_plan_header(path)["fingerprint"]
    shifted = table.set_column(table.column_names.index("width"), "width", pc.add(table["width"], 1))
    pq.write_table(shifted.cast(table.schema), path, row_group_size=2)
    [problem] = verify_folder(folder)
    assert problem == "plan.parquet: its content is not what its fingerprint stands for"


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_of_the_plan_is_told_or_changes_nothing(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = folder / PLAN_FILE
    before = pq.read_table(path)
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    try:
        problems = verify_folder(folder)
    except UserError as error:  # its header cannot be read: there is nothing to begin with
        problems = [str(error)]
    if problems:
        assert "plan" in problems[0]
    else:
        assert pq.read_table(path).equals(before)


def test_processes_find_what_one_finds(folder: Path) -> None:
    tars = sorted(folder.glob("*.tar"))
    assert len(tars) >= 2 * SHARDS_PER_WORKER
    tars[-1].write_bytes(tars[-1].read_bytes() + b"x")
    tars[1].with_suffix(".json").unlink()
    told: list[list[BuildProgress]] = [[], []]
    alone, together = (verify_folder(folder, True, n, told[n - 1].append) for n in (1, 2))
    assert alone == together
    assert len(alone) > 1
    assert told[0] == told[1]
    assert told[0][-1].built == told[0][-1].pictures

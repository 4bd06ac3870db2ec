"""Training from other programs' tars: in exact order by their index, or approximately as streams."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dataprep.cli import main
from intarsia.config import load_config
from intarsia.errors import UsageError, UserError
from tests.foreign import BOXES, sample, write_set, write_tar
from tests.training.file_server import FileServer, serving
from tests.training.synthetic import make_shards, write_config
from training.config import BatchShape, TrainConfig
from training.data.batch import Batch
from training.data.batches import RunDataset, batches, open_dataset
from training.data.shards import find_data, find_shards
from training.data.streams import StreamDataset

COUNTS = (5, 4, 7)
TOTAL = sum(COUNTS)
NAMES = {f"{tar:06d}/{key:04d}" for tar, count in enumerate(COUNTS) for key in range(count)}
STREAM = "fields: {image: jpg, box: json:bbox}, box_format: xyxy, box_unit: pixels"


def index(pattern: str, *options: str) -> None:
    assert main(["index", pattern, "--field", "image=jpg", *BOXES, *options]) == 0


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = write_set(tmp_path_factory.mktemp("foreign") / "set", COUNTS)
    index(made)
    return made


def config_of(folder: Path, *overrides: str) -> TrainConfig:
    return load_config(TrainConfig, write_config(folder), overrides)


def streams_of(
    folder: Path, shards: str, fields: str = STREAM, samples: int = TOTAL, shuffle: int = 4
) -> TrainConfig:
    stream = f"data.stream={{{fields}, samples: {samples}, shuffle: {shuffle}}}"
    return config_of(folder, f"data.shards={shards}", stream)


def read(
    config: TrainConfig,
    dataset: RunDataset,
    shape: BatchShape,
    rank: int,
    steps: int,
    start: int = 0,
    workers: int = 0,
) -> list[Batch]:
    span = range(start, start + steps * shape.global_batch, shape.global_batch)
    data = config.data.model_copy(update={"num_workers": workers})
    return list(batches(data, dataset, shape, rank, span))


def sequence(found: list[Batch]) -> dict[int, tuple[str, bytes]]:
    """Position -> key and pixels."""
    return {
        position: (key, image.numpy().tobytes() + mask.numpy().tobytes() + exemplar.numpy().tobytes())
        for batch in found
        for position, key, image, mask, exemplar in zip(
            batch.positions.tolist(), batch.keys, batch.image, batch.edit_mask, batch.exemplar, strict=True
        )
    }


def test_an_index_gives_one_exact_order_for_all_ranks_workers_and_starts(
    tmp_path: Path, pattern: str
) -> None:
    config = config_of(tmp_path, f"data.shards={pattern}")
    alone = sequence(read(config, open_dataset(config), BatchShape(8, 1, 1), 0, 4))
    for epoch in range(2):
        keys = [
            alone[position][0].rpartition("_")[0] for position in range(epoch * TOTAL, (epoch + 1) * TOTAL)
        ]
        assert set(keys) == NAMES
        assert len(keys) == TOTAL
    parts: dict[int, tuple[str, bytes]] = {}
    for start, shape, steps, workers in ((0, BatchShape(2, 1, 4), 1, 0), (8, BatchShape(2, 2, 2), 3, 1)):
        for rank in range(shape.world):
            parts |= sequence(read(config, open_dataset(config), shape, rank, steps, start, workers))
    assert parts == alone
    again = (
        [alone[position][1] for position in range(TOTAL)],
        [alone[TOTAL + place][1] for place in range(TOTAL)],
    )
    assert not set(again[0]) & set(again[1])  # each epoch draws afresh


def test_an_index_moves_with_its_tars_and_its_folder_names_it(tmp_path: Path, pattern: str) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(Path(pattern).parent, moved)
    [folder] = moved.glob("index-*")
    config = config_of(tmp_path, f"data.shards={folder}")
    old = config_of(tmp_path, f"data.shards={pattern}")
    found = [sequence(read(one, open_dataset(one), BatchShape(8, 1, 1), 0, 2)) for one in (config, old)]
    assert found[0] == found[1]
    assert Path(find_shards(config.data.shards)[0].place).parent == moved


def test_own_shards_and_indexed_tars_can_be_mixed(tmp_path: Path, pattern: str) -> None:
    own = make_shards(tmp_path / "own")
    mix = f"[{{path: {own}, weight: 1}}, {{path: '{pattern}', weight: 3}}]"
    config = config_of(tmp_path, f"data.shards={mix}")
    keys = [
        key for batch in read(config, open_dataset(config), BatchShape(40, 1, 1), 0, 5) for key in batch.keys
    ]
    foreign = sum("/" in key for key in keys)
    assert 120 < foreign < 180
    both = config_of(tmp_path, f"data.shards=[{own}, '{pattern}']")
    assert len(find_data(both.data)) == 6


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    write_set(tmp_path / "files", COUNTS)
    with serving(tmp_path / "files") as running:
        yield running


@pytest.mark.parametrize("ranges", [True, False])
def test_tars_of_a_web_server_train_as_those_of_a_folder(
    server: FileServer, tmp_path: Path, pattern: str, ranges: bool
) -> None:
    server.ranges = ranges
    index(f"{server.address}/{{000000..000002}}.tar", "--out", str(tmp_path / "index"))
    server.requests.clear()
    far = config_of(tmp_path, f"data.shards={tmp_path / 'index'}", f"data.cache_dir={tmp_path / 'cache'}")
    near = config_of(tmp_path, f"data.shards={pattern}")
    found = [sequence(read(one, open_dataset(one), BatchShape(8, 1, 1), 0, 3)) for one in (far, near)]
    assert found[0] == found[1]
    assert set(server.requests.values()) == {1}  # each tar once


def test_an_index_beside_tars_is_found_on_a_web_server(
    server: FileServer, tmp_path: Path, pattern: str
) -> None:
    address = f"{server.address}/{{000000..000002}}.tar"
    config = config_of(tmp_path, f"data.shards={address}", f"data.cache_dir={tmp_path / 'cache'}")
    with pytest.raises(UserError, match=r"these tars have no index .*dataprep index"):
        open_dataset(config)
    [folder] = Path(pattern).parent.glob("index-*")
    shutil.copytree(folder, server.folder / folder.name)
    near = config_of(tmp_path, f"data.shards={pattern}")
    found = [sequence(read(one, open_dataset(one), BatchShape(8, 1, 1), 0, 1)) for one in (config, near)]
    assert found[0] == found[1]


def test_tars_without_an_index_or_others_than_it_says_are_named(tmp_path: Path, pattern: str) -> None:
    def opened(place: str) -> None:
        open_dataset(config_of(tmp_path, f"data.shards={place}"))

    made = write_set(tmp_path / "set", COUNTS)
    with pytest.raises(
        UserError, match=r"no index .*dataprep index '.*' --field image=jpg .*or set data\.stream"
    ):
        opened(made)
    shutil.copytree(next(Path(pattern).parent.glob("index-*")), tmp_path / "set" / "index-x")
    tar = tmp_path / "set" / "000001.tar"
    tar.write_bytes(tar.read_bytes() + b"\0" * 512)
    with pytest.raises(
        UserError, match=r"000001\.tar has [\d,]+ bytes, its index says [\d,]+; put it back, or"
    ):
        opened(str(tmp_path / "set" / "index-x"))
    tar.unlink()
    with pytest.raises(UserError, match=r"000001\.tar is missing; put it back, or delete its index"):
        opened(str(tmp_path / "set" / "index-x"))
    with pytest.raises(UserError, match=r"a pipe cannot be read from its middle.*or set data\.stream"):
        opened("pipe:cat x.tar")
    with pytest.raises(UsageError, match=r"latents are stored for shards of .*; set data\.latents=false"):
        open_dataset(config_of(tmp_path, f"data.shards={pattern}", "data.latents=true", "data.redraw=false"))
    with pytest.raises(UsageError, match=r"anydoor draws from object masks.*--field object_mask=SUFFIX"):
        open_dataset(config_of(tmp_path, f"data.shards={pattern}", "data.recipe=anydoor"))


def test_a_sample_that_was_damaged_after_the_index_is_named(tmp_path: Path) -> None:
    made = write_set(tmp_path / "set", (3,))
    index(made)
    tar = tmp_path / "set" / "000000.tar"
    content = tar.read_bytes()
    start = content.index(b"\xff\xd8")
    tar.write_bytes(content[:start] + b"\0" * 64 + content[start + 64 :])
    dataset = open_dataset(config_of(tmp_path, f"data.shards={made}"))
    with pytest.raises(
        UserError, match=r"000000\.tar: sample 0000: not_an_image .*its index says that it can be used"
    ):
        dataset.sample(0, 0, 0)  # type: ignore[union-attr]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_the_streams_of_an_epoch(tmp_path: Path, pattern: str, world: int) -> None:
    dataset = open_dataset(streams_of(tmp_path, pattern))
    assert isinstance(dataset, StreamDataset)
    for epoch in range(2):
        parts = [
            [item.meta.key.rpartition("_")[0] for item in dataset.reader.samples(epoch, rank, world)]
            for rank in range(world)
        ]
        assert Counter(key for part in parts for key in part) == dict.fromkeys(NAMES, 1)
        assert all(part != sorted(part) for part in parts if len(part) > 4)


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["pipe:cat ", ""])
def test_positions_go_to_samples_as_they_come(tmp_path: Path, pattern: str, kind: str) -> None:
    config = streams_of(tmp_path, f"{kind}{pattern}")
    dataset = open_dataset(config)
    for rank in range(2):
        found = read(config, dataset, BatchShape(2, 2, 2), rank, 3)
        positions = [
            8 * step + 4 * accum + 2 * rank + place
            for step in range(3)
            for accum in range(2)
            for place in (0, 1)
        ]
        assert [position for batch in found for position in batch.positions.tolist()] == positions
    alone = read(config, dataset, BatchShape(4, 1, 1), 0, TOTAL // 4)
    assert {key.rpartition("_")[0] for batch in alone for key in batch.keys} == NAMES


@pytest.mark.processes
def test_workers_of_a_rank_share_its_streams(tmp_path: Path, pattern: str) -> None:
    config = streams_of(tmp_path, pattern)
    found = read(config, open_dataset(config), BatchShape(1, 1, 1), 0, 40, workers=2)
    assert {key.rpartition("_")[0] for batch in found for key in batch.keys} == NAMES


def test_a_stream_begins_its_epoch_again_and_each_epoch_has_its_own_order(
    tmp_path: Path, pattern: str
) -> None:
    config = streams_of(tmp_path, pattern)
    first, again, second = (
        [
            key
            for batch in read(config, open_dataset(config), BatchShape(4, 1, 1), 0, 2, start)
            for key in batch.keys
        ]
        for start in (0, 8, TOTAL)
    )
    assert first == again
    assert first != second


def test_previews_and_validation_see_the_same_samples_of_streams(tmp_path: Path, pattern: str) -> None:
    samples = [open_dataset(streams_of(tmp_path, pattern)).spread(6) for _ in range(2)]
    assert [one.meta.key for one in samples[0]] == [one.meta.key for one in samples[1]]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(*samples, strict=True))
    with pytest.raises(UserError, match=r"data\.stream\.samples=99, and the streams hold 16 samples"):
        open_dataset(streams_of(tmp_path, pattern, samples=99)).spread(50)


def test_what_streams_leave_out_is_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = sample(2) | {"json": b"{}"}
    tar = write_tar(
        tmp_path / "a.tar", [("a", sample(1)), ("b", bad), ("c", sample(3)), ("d", {"jpg": b"x"})]
    )
    config = streams_of(tmp_path, str(tar), samples=4)
    caplog.set_level(logging.INFO, "training")
    logging.getLogger("training").propagate = True
    found = read(config, open_dataset(config), BatchShape(2, 1, 1), 0, 3)
    assert {key.rpartition("_")[0] for batch in found for key in batch.keys} == {"a/a", "a/c"}
    text = caplog.text
    assert (
        "samples are shuffled approximately, over 4 at a time, and a run that continues reads its epoch"
        in text
    )
    assert "left out: sample b of" in text
    assert "record_unreadable (box: json has no bbox" in text
    assert "1 left out so far (" in text


@pytest.mark.processes
@pytest.mark.parametrize(
    ("shards", "fields", "words"),
    [
        (
            "{set}",
            "fields: {image: jpeg, edit_mask: png}",
            r"none of 16 samples can be used \(member_missing 16\)",
        ),
        ("pipe:exit 3", STREAM, r"the stream pipe:exit 3 cannot be read \(its command ended with exit 3\)"),
        ("pipe:sleep 0.2; cat {set}x", STREAM, r"its command ended with exit 1\)"),
        ("pipe:cat {set}; sleep 0.2; exit 4", STREAM, r"its command ended with exit 4\)"),
        ("pipe:yes", STREAM, r"the stream pipe:yes cannot be read \(ReadError: "),
        ("/nowhere/a.tar", STREAM, "/nowhere/a.tar does not exist"),
        ("/nowhere", STREAM, r"data\.stream reads tars, patterns and pipes"),
    ],
)
def test_a_stream_that_cannot_be_used_is_named(
    tmp_path: Path, pattern: str, shards: str, fields: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        config = streams_of(tmp_path, shards.replace("{set}", pattern), fields)
        read(config, open_dataset(config), BatchShape(2, 1, 1), 0, 2)


def test_more_ranks_than_streams_and_weights_of_streams_are_refused(tmp_path: Path, pattern: str) -> None:
    config = streams_of(tmp_path, pattern)
    with pytest.raises(UserError, match="names 3 streams for 4 ranks"):
        read(config, open_dataset(config), BatchShape(1, 1, 4), 0, 1)
    stream = f"stream: {{{STREAM}, samples: 9}}"
    for option in ("latents: true", "weights: [1]"):
        with pytest.raises(UsageError, match=r"needs the exact order of shards, which data\.stream does not"):
            config_of(tmp_path, f"data={{shards: [a.tar], {stream}, {option}}}")
    with pytest.raises(UsageError, match="needs box_format"):
        config_of(tmp_path, "data.stream={fields: {image: jpg, box: json:bbox}, samples: 9}")

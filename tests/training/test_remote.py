"""Shards from a web server and fsspec through the local cache: faults, many processes, kills, a bound."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from dataprep import remote as fetcher
from dataprep.remote import Patience
from intarsia.errors import UsageError, UserError
from intarsia.files import sha256_bytes
from tests.training.file_server import FileServer, serving
from tests.training.synthetic import make_shards
from training.config import BatchShape
from training.data import cache as shard_cache
from training.data import remote
from training.data.batches import SampleDataset, batches
from training.data.cache import ShardCache
from training.data.order import DataOrder
from training.data.reader import ShardReader, open_cache
from training.data.remote import read_shard_file
from training.data.shards import find_shards
from training.option_groups import DataConfig

COUNTS = (5, 4, 7)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SHARD_PATIENCE", Patience(remote.SHARD_PATIENCE.tries, 0.001))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    make_shards(tmp_path / "files" / "shards", COUNTS)
    with serving(tmp_path / "files") as running:
        yield running


def tar(server: FileServer, number: int) -> Path:
    return server.folder / "shards" / f"toy-train-{number:06d}.tar"


def config_of(server: FileServer, tmp_path: Path, **more: float) -> DataConfig:
    return DataConfig(shards=f"{server.address}/shards", cache_dir=tmp_path / "cache", **more)  # type: ignore[arg-type]


def dataset_of(config: DataConfig) -> SampleDataset:
    shards = find_shards(config.shards)
    order = DataOrder([shard.count for shard in shards], seed=1, window_shards=2)
    return SampleDataset(ShardReader(shards, 1, open_cache(config, shards)), order, 32, seed=1)


def keys_of(config: DataConfig, workers: int = 0) -> list[str]:
    """Those of one epoch in its order."""
    found = batches(
        DataConfig(num_workers=workers), dataset_of(config), BatchShape(4, 1, 1), 0, range(0, 16, 4)
    )
    return [key for batch in found for key in batch.keys]


def local_keys(server: FileServer) -> list[str]:
    return keys_of(DataConfig(shards=str(server.folder / "shards")))


def copies(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache").iterdir() if path.is_file())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_web_server_gives_the_samples_of_the_folder_and_each_shard_once(
    server: FileServer, tmp_path: Path, workers: int
) -> None:
    config = config_of(server, tmp_path)
    assert keys_of(config, workers) == local_keys(server)
    assert keys_of(config, workers) == local_keys(server)
    assert {name: n for name, n in server.requests.items() if name.endswith(".tar")} == {
        tar(server, number).name: 1 for number in range(3)
    }
    assert sorted(path.read_bytes() for path in copies(tmp_path)) == sorted(
        tar(server, number).read_bytes() for number in range(3)
    )


def test_fsspec_addresses_give_the_same(server: FileServer, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in (server.folder / "shards").iterdir():
        memory.pipe_file(f"/bucket/shards/{path.name}", path.read_bytes())
    for place in ("memory://bucket/shards", f"file://{server.folder}/shards"):
        assert keys_of(DataConfig(shards=place, cache_dir=tmp_path / "cache")) == local_keys(server)  # type: ignore[arg-type]
    memory.rm("/bucket", recursive=True)
    with pytest.raises(UserError, match=r"memory://bucket/shards/manifest\.json is not there"):
        find_shards(["memory://bucket/shards"])


def test_a_protocol_that_is_not_installed_is_named() -> None:
    with pytest.raises(UserError, match=r"nosuch://x/manifest\.json cannot be opened: .*nosuch"):
        find_shards(["nosuch://x"])


@pytest.mark.parametrize("ranges", [True, False])
def test_a_busy_server_and_broken_answers_are_waited_for(
    server: FileServer, tmp_path: Path, ranges: bool
) -> None:
    server.ranges, server.busy, server.cut = ranges, 3, 4
    assert keys_of(config_of(server, tmp_path)) == local_keys(server)


def test_a_server_that_stays_busy_or_breaks_off_is_named_with_the_address(
    server: FileServer, tmp_path: Path
) -> None:
    config = config_of(server, tmp_path)
    dataset = dataset_of(config)
    server.busy = 100
    with pytest.raises(UserError, match=r"http://127.*-000000\.tar cannot be read \(.*503.*6 tries"):
        dataset.sample(0, 0, 0)
    with pytest.raises(UserError, match=r"shards/manifest\.json cannot be read \(.*503"):
        find_shards(config.shards)
    server.busy = 0
    tar(server, 0).write_bytes(tar(server, 0).read_bytes()[:3000])
    with pytest.raises(
        UserError, match=r"toy-train-000000\.tar cannot be read \(.*6 tries\); see to it, then run the same"
    ):
        dataset.sample(0, 0, 0)
    assert copies(tmp_path) == []


def test_a_shard_that_is_gone_or_another_is_named_and_with_it_back_all_goes_on(
    server: FileServer, tmp_path: Path
) -> None:
    dataset, path = dataset_of(config_of(server, tmp_path)), tar(server, 1)
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(UserError, match=r"toy-train-000001\.tar is not there \(404"):
        dataset.sample(1, 0, 0)
    path.write_bytes(content + b"more")
    with pytest.raises(UserError, match=rf"000001\.tar is longer than its {len(content)} bytes"):
        dataset.sample(1, 0, 0)
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(UserError, match=r"000001\.tar is not what its manifest says: its sha256 is"):
        dataset.sample(1, 0, 0)
    assert copies(tmp_path) == []
    path.write_bytes(content)
    assert dataset.sample(1, 0, 0).meta.key == "s00005"


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9/shards/manifest\.json cannot be read"):
        find_shards(["http://127.0.0.1:9/shards"])


def test_a_copy_that_went_bad_is_fetched_anew(server: FileServer, tmp_path: Path) -> None:
    config = config_of(server, tmp_path)
    expected = keys_of(config)
    for path in copies(tmp_path):
        content = path.read_bytes()
        path.write_bytes(content[:2000] + b"\0" * 2000 + content[4000:])
    assert keys_of(config) == expected
    copies(tmp_path)[0].write_bytes(b"short")
    assert keys_of(config) == expected
    assert server.requests[tar(server, 0).name] >= 2


def test_copies_never_take_more_than_their_bound_and_the_oldest_goes(
    server: FileServer, tmp_path: Path
) -> None:
    sizes = [tar(server, number).stat().st_size for number in range(3)]
    cache = ShardCache(tmp_path / "cache", sum(sizes) - 1)
    shards = find_shards([f"{server.address}/shards"])

    def fetch(number: int) -> None:
        shard = shards[number]
        os.close(cache.open(shard.place, shard.bytes, shard.sha256))
        time.sleep(0.01)  # times of use differ on the coarsest clock

    for number in (0, 1, 0, 2):
        fetch(number)
    left = {path.name.partition("-")[2] for path in copies(tmp_path)}
    assert left == {tar(server, 0).name, tar(server, 2).name}
    fetch(0)
    assert server.requests[tar(server, 0).name] == 1


def test_a_reader_goes_on_with_a_copy_that_was_deleted_under_it(server: FileServer, tmp_path: Path) -> None:
    dataset = dataset_of(config_of(server, tmp_path))
    assert dataset.sample(0, 0, 0).meta.key == "s00000"
    for path in copies(tmp_path):
        path.unlink()
    assert dataset.sample(0, 1, 0).meta.key == "s00001"


def test_a_cache_that_is_too_small_is_refused_with_the_number(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.cache_gb=1e-06 is too small: .* have .* GB; raise it"):
        dataset_of(config_of(server, tmp_path, cache_gb=1e-6))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.cache_dir=.*file cannot be made"):
        dataset_of(DataConfig(shards=f"{server.address}/shards", cache_dir=tmp_path / "file"))  # type: ignore[arg-type]


def _read_all(config: DataConfig, answers: "multiprocessing.Queue[list[str]]") -> None:
    answers.put(keys_of(config))


def test_many_processes_share_the_copies(server: FileServer, tmp_path: Path) -> None:
    """Six at once, in room for two shards of three: nobody waits for ever, nobody reads a part."""
    largest = max(tar(server, number).stat().st_size for number in range(3))
    config = config_of(server, tmp_path, cache_gb=2 * largest / 1e9, window_shards=1)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [context.Process(target=_read_all, args=(config, answers)) for _ in range(6)]
    for process in processes:
        process.start()
    expected = local_keys(server)
    assert [answers.get(timeout=60) for _ in processes] == [expected] * 6
    for process in processes:
        process.join()
    assert sum(path.stat().st_size for path in copies(tmp_path)) <= 2 * largest


_SMALL = {f"http://nowhere/{number}.tar": bytes([number]) * 4096 for number in range(6)}
_ROOM = 2 * 4096


def _fetch_small(folder: Path, seed: int) -> None:
    """In a process of its own, where listing a folder takes long: the time in which races are lost."""

    class SlowFolder(type(folder)):  # type: ignore[misc]
        def iterdir(self) -> Iterator[Path]:
            names = list(super().iterdir())
            time.sleep(0.003)
            return iter(names)

    shard_cache.read_shard_file = lambda url, size: iter([_SMALL[url][:2048], _SMALL[url][2048:]])
    folder = SlowFolder(folder)
    cache, rng = ShardCache(folder, _ROOM), random.Random(seed)
    for url in rng.choices(list(_SMALL), k=60):
        os.close(cache.open(url, 4096, sha256_bytes(_SMALL[url])))


def test_the_bound_holds_at_every_moment_of_many_races(tmp_path: Path) -> None:
    """360 fetches by six processes into room for two of six files."""
    cache, context = ShardCache(tmp_path / "cache", _ROOM), multiprocessing.get_context("fork")
    processes = [context.Process(target=_fetch_small, args=(cache.folder, seed)) for seed in range(6)]
    for process in processes:
        process.start()
    seen = set()
    while any(process.is_alive() for process in processes):
        with cache._locked("all"):  # whatever is added is added under this lock
            seen.add(sum(path.stat().st_size for path in copies(tmp_path)))
        time.sleep(0.001)
    assert [process.exitcode for process in processes] == [0] * 6
    assert max(seen) == _ROOM


def test_a_file_that_is_longer_than_its_manifest_says_is_not_copied_to_its_end(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "PIECE_BYTES", 1000)
    pieces = read_shard_file(f"{server.address}/shards/{tar(server, 0).name}", 2500)
    assert [len(next(pieces)) for _ in range(2)] == [1000, 1000]
    with pytest.raises(UserError, match="is longer than its 2500 bytes; put the right file there"):
        next(pieces)


def _fetch_slowly(cache: ShardCache, url: str, size: int, sha256: str) -> None:
    pieces = remote.read_shard_file

    def slow(*arguments: object) -> Iterator[bytes]:
        for piece in pieces(*arguments):  # type: ignore[arg-type]
            yield piece
            time.sleep(60)

    shard_cache.read_shard_file = slow  # in this process alone
    cache.open(url, size, sha256)


def test_a_fetch_that_was_killed_leaves_no_lock_and_its_part_is_swept(
    server: FileServer, tmp_path: Path
) -> None:
    shards = find_shards([f"{server.address}/shards"])
    cache = ShardCache(tmp_path / "cache", 10**9)
    first = shards[0].place, shards[0].bytes, shards[0].sha256
    process = multiprocessing.get_context("fork").Process(target=_fetch_slowly, args=(cache, *first))
    process.start()
    while not list((tmp_path / "cache").glob(".*.part")):
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    os.close(cache.open(shards[1].place, shards[1].bytes, shards[1].sha256))
    assert not list((tmp_path / "cache").glob(".*.part"))
    os.close(cache.open(*first))
    assert len(copies(tmp_path)) == 2


def test_what_a_server_sends_is_read_in_pieces(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "PIECE_BYTES", 1000)
    pieces = list(read_shard_file(f"{server.address}/shards/{tar(server, 0).name}"))
    assert max(map(len, pieces)) == 1000
    assert b"".join(pieces) == tar(server, 0).read_bytes()

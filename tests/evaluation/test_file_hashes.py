"""Hashes of files that are kept: unchanged files are not read, and every change is noticed."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from evaluation.scoring import file_hashes
from evaluation.scoring.file_hashes import FileHashes
from intarsia.files import sha256_bytes


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The names of the files that were read."""
    names: list[str] = []
    digest = hashlib.file_digest

    def spied(file, kind):
        names.append(Path(file.name).name)
        return digest(file, kind)

    monkeypatch.setattr(file_hashes.hashlib, "file_digest", spied)
    return names


@pytest.fixture
def settled(monkeypatch) -> None:
    """Files are trusted at once, so that no test waits; a change must then be a tick of the clock later."""
    monkeypatch.setattr(file_hashes, "SETTLED", -1e6)


def hash_once(store: Path, *paths: Path, again: bool = False) -> list[str]:
    hashes = FileHashes(store, again)
    found = [hashes.of(path) for path in paths]
    hashes.keep()
    return found


def test_unchanged_files_are_read_once(tmp_path, read, settled) -> None:
    store, paths = tmp_path / "store", [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text(path.name)
    first = hash_once(store, *paths[:2])
    assert first == [sha256_bytes(name.encode()) for name in "ab"]
    assert hash_once(store, *paths) == [sha256_bytes(name.encode()) for name in "abc"]
    assert read == ["a", "b", "c"]
    assert hash_once(store, *paths, again=True)[:2] == first
    assert read == ["a", "b", "c", "a", "b", "c"]
    assert len(list(store.iterdir())) == 1  # merged


def rewrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def replace(path: Path, content: bytes) -> None:
    other = path.with_name("other")
    other.write_bytes(content)
    other.replace(path)


def link(path: Path, content: bytes) -> None:
    target = path.with_name("target")
    target.write_bytes(content)
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("change", [rewrite, replace, link])
@pytest.mark.parametrize("times", ["kept", "older"])
def test_another_file_of_the_same_size_and_time_is_noticed(tmp_path, settled, change, times) -> None:
    """As `cp -p` and `rsync -t` leave it: the time of change is the old one, or one before it."""
    path, store = tmp_path / "x", tmp_path / "store"
    path.write_bytes(b"before")
    state = path.stat()
    assert hash_once(store, path) == [sha256_bytes(b"before")]
    time.sleep(0.1)  # some ticks of the file system's clock
    change(path, b"behind")
    back = 0 if times == "kept" else 10**12
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns - back))
    assert path.stat().st_size == state.st_size
    assert hash_once(store, path) == [sha256_bytes(b"behind")]


def test_a_file_that_just_changed_is_not_trusted(tmp_path, read) -> None:
    """It could change once more within the same tick of the file system's clock."""
    path, store = tmp_path / "x", tmp_path / "store"
    path.write_bytes(b"one")
    hash_once(store, path)
    hash_once(store, path)
    assert read == ["x", "x"]
    assert not list(store.glob("*"))


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path, settled, monkeypatch) -> None:
    path, store = tmp_path / "x", tmp_path / "store"
    path.write_bytes(b"one")
    digest = hashlib.file_digest

    def changing(file, kind):
        found = digest(file, kind)
        time.sleep(0.1)
        path.write_bytes(b"two")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(file_hashes.hashlib, "file_digest", changing)
        hash_once(store, path)
    assert hash_once(store, path) == [sha256_bytes(b"two")]


def test_processes_do_not_lose_each_others_hashes(tmp_path, read, settled) -> None:
    store, paths = tmp_path / "store", [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text(path.name)
    hash_once(store, paths[0])
    first, second = FileHashes(store), FileHashes(store)
    first.of(paths[1])
    second.of(paths[2])
    first.keep()
    second.keep()
    read.clear()
    hash_once(store, *paths)
    assert not read


@pytest.mark.parametrize("content", ["", "[1]", '{"a": [1]}', '{"a": ["x", 1, 1, 1, "0"]}'])
def test_a_damaged_file_of_hashes_is_ignored(tmp_path, content, caplog) -> None:
    (tmp_path / "hashes-1.json").write_text(content)
    (tmp_path / "x").write_bytes(b"x")
    assert hash_once(tmp_path, tmp_path / "x") == [sha256_bytes(b"x")]
    assert f"{tmp_path / 'hashes-1.json'} is damaged and ignored" in caplog.text


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path, settled) -> None:
    (tmp_path / "store").write_text("")  # a file
    (tmp_path / "x").write_bytes(b"x")
    assert hash_once(tmp_path / "store", tmp_path / "x") == [sha256_bytes(b"x")]


def test_a_file_that_cannot_be_opened_is_an_error_though_its_hash_is_known(tmp_path, settled) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x")
    hash_once(tmp_path / "store", path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        hash_once(tmp_path / "store", path)

"""Files are whole or absent."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from intarsia.errors import UsageError, UserError
from intarsia.files import (
    atomic_folder,
    atomic_path,
    atomic_write,
    fingerprint,
    is_same_file,
    locked,
    read_json,
    sha256_bytes,
    sha256_file,
    sweep_temporaries,
    write_json,
)


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    atomic_write(target, "old")
    with atomic_path(target) as temporary:
        temporary.write_text("ne")
        assert target.read_text() == "old"
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    atomic_write(target, b"old")
    with pytest.raises(RuntimeError, match="stop"), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_the_sweep_takes_temporaries_only(tmp_path: Path) -> None:
    writer = atomic_path(tmp_path / "shard.tar")
    writer.__enter__().write_text("what a killed process leaves")
    (tmp_path / ".hidden").write_text("mine")
    (tmp_path / "notes.tmp-1").write_text("mine too")
    assert sweep_temporaries(tmp_path) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", "notes.tmp-1"]


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    content = {"b": [1, 2.5, None], "a": "Grüße"}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content
    assert list(read_json(tmp_path / "x.json")) == ["b", "a"]


def test_json_errors_name_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{\n "a": 1,\n oops\n}')
    with pytest.raises(UserError, match=r"bad\.json, line 3: not valid JSON"):
        read_json(tmp_path / "bad.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"binary\.json: not valid JSON"):
        read_json(tmp_path / "binary.json")
    with pytest.raises(UserError, match=r"none\.json does not exist"):
        read_json(tmp_path / "none.json")


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    with (
        locked(tmp_path / ".lock", "busy"),
        pytest.raises(UserError, match=r"^busy$"),
        locked(tmp_path / ".lock", "busy"),
    ):
        pass
    monkeypatch.setattr("fcntl.flock", refuse)
    with (
        pytest.raises(
            UserError, match=r"\.lock cannot be locked \(Function not implemented\); use a folder on"
        ),
        locked(tmp_path / ".lock", "busy"),
    ):
        pass


def test_hashes_agree_with_hashlib(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000
    (tmp_path / "f").write_bytes(content)
    assert sha256_bytes(content) == sha256_file(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_fingerprints_ignore_key_order_and_see_every_value() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    others = [{"a": 1, "b": [2, 1]}, {"a": "1", "b": [1, 2]}, {"a": 1}]
    assert len({fingerprint(x) for x in [{"a": 1, "b": [1, 2]}, *others]}) == 4
    assert fingerprint(json.loads("[1.5]")) == fingerprint([1.5])


def test_a_folder_takes_the_place_of_its_like_only(tmp_path: Path) -> None:
    def make(name: str, content: str) -> None:
        with atomic_folder(tmp_path / name, "index") as folder:
            (folder / "index").write_text(content)

    make("new", "1")
    make("new", "2")
    (tmp_path / "empty").mkdir()
    make("empty", "3")
    assert [(tmp_path / name / "index").read_text() for name in ("new", "empty")] == ["2", "3"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"mine contains thesis\.tex but no index and is not replaced"):
        make("mine", "4")
    with pytest.raises(UsageError, match=r"thesis\.tex is a file; choose another folder"):
        make("mine/thesis.tex", "5")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_file_is_itself_by_any_name(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    (tmp_path / "link").symlink_to("a")
    assert is_same_file(tmp_path / "a", tmp_path / "link")
    assert not is_same_file(tmp_path / "a", tmp_path / "b")
    assert not is_same_file(tmp_path / "c", tmp_path / "c"), "what is not there cannot be lost"

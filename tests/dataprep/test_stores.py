"""The same pictures from a folder, tars, packed tars, a web server and fsspec give the same shards."""

import functools
import http.server
import io
import shutil
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from dataprep.build import build, plan_build
from dataprep.check.verify import verify_folder
from dataprep.cli import main
from dataprep.pictures import stores
from dataprep.pictures.decode import load_picture
from dataprep.pictures.stores import INDEX_FILE, describe_store, locate, open_store
from dataprep.pictures.tar_store import TarStore, unpack_tars
from dataprep.plan.inputs import BuildRequest, new_plan, pictures_place
from dataprep.records import Rejected, RejectReason
from dataprep.remote import Patience
from dataprep.shards.build_shard import ShardJob, build_shard
from dataprep.shards.manifest import write_manifest
from intarsia.errors import UserError
from tests.dataprep.test_build import hashes
from tests.dataprep.test_shards import plan_of
from tests.dataprep.toy import make_coco, toy_request
from tests.training.file_server import serving

Inputs = tuple[Path, Path]


def built_from(folder: Path, annotations: Path, images: str | Path) -> dict[str, str]:
    """Hashes of all that a build makes from these pictures."""
    request = request_from(folder, annotations, images)
    header = plan_of(request)
    place = pictures_place(request)
    for shard in range(header["shards"]):
        build_shard(ShardJob(str(request.out), place, shard, header["fingerprint"], request.config))
    write_manifest(request.out, header, request.command)
    return hashes(request.out)


def request_from(folder: Path, annotations: Path, images: str | Path) -> BuildRequest:
    request = toy_request(folder, folder / "out", inputs=(annotations, Path("unused")))
    return replace(request, images=images)


def pack(images: Path, tar: Path, mode: str = "w", names: slice = slice(None), folder: str = "") -> Path:
    with tarfile.open(tar, mode) as file:
        for path in sorted(images.iterdir())[names]:
            file.add(path, folder + path.name)
    return tar


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A toy data set whose files are all there, so that a store without a list knows as much as a folder."""
    annotations, images = make_coco(tmp_path_factory.mktemp("whole"))
    (images / "000000000101.jpg").write_bytes((images / "000000000001.jpg").read_bytes())
    return annotations, images


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, whole: Inputs) -> dict[str, str]:
    return built_from(tmp_path_factory.mktemp("reference"), *whole)


class Handler(http.server.SimpleHTTPRequestHandler):
    failures = 0  # answers of 503 that are still to be given

    def do_GET(self) -> None:
        if self.path.startswith("/private"):
            self.send_error(401)
        elif Handler.failures:
            Handler.failures -= 1
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(whole: Inputs, monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.ThreadingHTTPServer]:
    monkeypatch.setattr(stores, "PICTURE_PATIENCE", Patience(stores.PICTURE_PATIENCE.tries, 0.001))
    handler = functools.partial(Handler, directory=str(whole[1]))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()
        Handler.failures = 0


def address(server: http.server.ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_one_tar(tmp_path: Path, whole: Inputs, reference: dict[str, str]) -> None:
    tar = pack(whole[1], tmp_path / "all.tar")
    assert built_from(tmp_path, whole[0], tar) == reference
    assert (tmp_path / "out" / INDEX_FILE).is_file()
    assert verify_folder(tmp_path / "out") == []


def test_several_tars_by_a_pattern(tmp_path: Path, whole: Inputs, reference: dict[str, str]) -> None:
    pack(whole[1], tmp_path / "part-0.tar", names=slice(0, 5))
    pack(whole[1], tmp_path / "part-1.tar", names=slice(3, None))  # two pictures are in both
    assert built_from(tmp_path, whole[0], tmp_path / "part-*.tar") == reference


def test_names_of_another_encoding_in_a_tar_are_no_pictures(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as tar:
        for name in ("café.jpg", "b.JFIF"):
            tar.addfile(tarfile.TarInfo(name))
    assert open_store(str(tmp_path / "a.tar"), str(tmp_path)).index().paths.to_pylist() == ["b.JFIF"]


def test_a_folder_may_be_called_as_a_tar(tmp_path: Path, whole: Inputs) -> None:
    shutil.copytree(whole[1], tmp_path / "all.tar")
    store = open_store(locate(tmp_path / "all.tar"), "")
    assert store.index().paths == open_store(locate(whole[1]), "").index().paths


def test_a_packed_tar_is_unpacked_once(tmp_path: Path, whole: Inputs, reference: dict[str, str]) -> None:
    tar = pack(whole[1], tmp_path / "all.tar.gz", "w:gz")
    assert built_from(tmp_path, whole[0], tar) == reference
    unpacked = tmp_path / "out.pictures"
    assert not (unpacked / "000000000105.jpg").exists()  # it has no box
    kept = {path.name: path.stat().st_ino for path in unpacked.iterdir()}
    new_plan(request_from(tmp_path, whole[0], tar))
    assert {path.name: path.stat().st_ino for path in unpacked.iterdir()} == kept


def test_pictures_that_are_wanted_later_are_unpacked_later(tmp_path: Path, whole: Inputs) -> None:
    tar = pack(whole[1], tmp_path / "all.tar.gz", "w:gz")
    for wanted in ({"000000000001"}, {"000000000001", "000000000002"}):
        unpack_tars([tar], wanted, tmp_path / "there")
        assert {path.stem for path in (tmp_path / "there").glob("*.jpg")} == wanted


@pytest.mark.usefixtures("ray_with_two_workers")
def test_unpacked_pictures_that_were_deleted_too_early_are_unpacked_again(
    tmp_path: Path, whole: Inputs, reference: dict[str, str]
) -> None:
    request = request_from(tmp_path, whole[0], pack(whole[1], tmp_path / "all.tar.gz", "w:gz"))
    plan_build(request)
    shutil.rmtree(tmp_path / "out.pictures")
    build(request)
    assert hashes(request.out) == reference
    shutil.rmtree(tmp_path / "out.pictures")
    build(request)  # of a finished build nobody needs them
    assert not (tmp_path / "out.pictures").exists()


def test_unpacking_goes_on_after_a_kill(tmp_path: Path, whole: Inputs, reference: dict[str, str]) -> None:
    tar = pack(whole[1], tmp_path / "all.tar.gz", "w:gz")
    unpacked = tmp_path / "out.pictures"
    unpacked.mkdir()
    (unpacked / ".000000000003.jpg.part").write_bytes(b"half")
    (unpacked / "000000000004.jpg").write_bytes((whole[1] / "000000000004.jpg").read_bytes())
    assert built_from(tmp_path, whole[0], tar) == reference


def test_a_web_server(
    tmp_path: Path, whole: Inputs, reference: dict[str, str], server: http.server.ThreadingHTTPServer
) -> None:
    Handler.failures = 2  # two answers of "not now" are no harm
    assert built_from(tmp_path, whole[0], address(server)) == reference


def test_an_fsspec_address(tmp_path: Path, whole: Inputs, reference: dict[str, str]) -> None:
    memory = fsspec.filesystem("memory")
    for path in whole[1].iterdir():
        memory.pipe_file(f"/pictures/{path.name}", path.read_bytes())
    assert built_from(tmp_path, whole[0], "memory://pictures") == reference


def test_a_file_that_cannot_be_fetched_is_rejected(server: http.server.ThreadingHTTPServer) -> None:
    store = open_store(address(server), "")
    missing = load_picture(store.place("none.jpg"))
    assert isinstance(missing, Rejected)
    assert missing.reason == RejectReason.FILE_MISSING
    store.check("none.jpg")
    Handler.failures = stores.PICTURE_PATIENCE.tries
    refused = load_picture(store.place("000000000001.jpg"))
    assert isinstance(refused, Rejected)
    assert refused.reason == RejectReason.FILE_UNREADABLE
    assert "503" in refused.detail
    store.check("000000000001.jpg")
    with pytest.raises(
        UserError, match=r"private/a\.jpg: the server asks for a password; fetch the pictures"
    ):
        load_picture(open_store(f"{address(server)}/private", "").place("a.jpg"))


def test_an_answer_that_breaks_off_is_taken_up_where_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PICTURE_PATIENCE", Patience(2, 0.001))
    (tmp_path / "a.jpg").write_bytes(bytes(range(256)) * 100)
    with serving(tmp_path) as server:
        server.cut = 3
        assert open_store(server.address, "").place("a.jpg").read_bytes() == bytes(range(256)) * 100
        assert server.requests["a.jpg"] == 4


def test_a_store_that_goes_away_stops_the_build(
    tmp_path: Path, whole: Inputs, server: http.server.ThreadingHTTPServer
) -> None:
    request = request_from(tmp_path, whole[0], address(server))
    header = plan_of(request)
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"the pictures at http://127\.0\.0\.1:\d+ are out of reach"):
        build_shard(ShardJob(str(request.out), str(request.images), 0, header["fingerprint"], request.config))


def test_a_tar_that_goes_away_stops_the_build(tmp_path: Path, whole: Inputs) -> None:
    tar = pack(whole[1], tmp_path / "all.tar")
    request = request_from(tmp_path, whole[0], tar)
    header = plan_of(request)
    store = open_store(str(tar), str(request.out))
    store.index()
    with tar.open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(UserError, match=r"all\.tar is not a whole tar"):
        open_store(str(tar), str(request.out)).index()
    tar.unlink()
    with pytest.raises(UserError, match=r"all\.tar does not exist"):
        build_shard(ShardJob(str(request.out), str(tar), 0, header["fingerprint"], request.config))


def test_an_fsspec_folder_that_goes_away_is_told() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/passing/a.jpg", b"x")
    store = open_store("memory://passing", "")
    store.check("a.jpg")
    memory.rm("/passing", recursive=True)
    with pytest.raises(UserError, match="memory://passing cannot be listed"):
        store.check("a.jpg")


def test_pictures_that_are_listed_and_forbidden_stop_the_build(
    tmp_path: Path, whole: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.filesystem("memory")
    for path in whole[1].iterdir():
        memory.pipe_file(f"/forbidden/{path.name}", path.read_bytes())

    def refuse(path: str) -> bytes:
        raise PermissionError(f"403 for {path}")

    monkeypatch.setattr(memory, "cat_file", refuse)  # fsspec keeps one system for a process
    with pytest.raises(UserError, match=r"forbidden: .*jpg may not be read \(403.*give other credentials"):
        built_from(tmp_path, whole[0], "memory://forbidden")


def test_names_in_a_tar_that_lead_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("../a.jpg")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(UserError, match="leads out of its folder"):
        unpack_tars([tmp_path / "a.tar.gz"], {"a"}, tmp_path / "folder")
    assert not (tmp_path / "a.jpg").exists()


def test_a_cut_packed_tar_is_told_and_not_taken_as_whole(tmp_path: Path, whole: Inputs) -> None:
    tar = pack(whole[1], tmp_path / "all.tar.gz", "w:gz")
    tar.write_bytes(tar.read_bytes()[:-3000])
    with pytest.raises(UserError, match=r"all\.tar\.gz is not a whole tar .*fetch it again"):
        unpack_tars([tar], {"000000000001"}, tmp_path / "folder")
    assert not list(tmp_path.glob("folder/*.unpacked"))


def test_members_are_found_by_their_whole_names(tmp_path: Path, whole: Inputs) -> None:
    tar = pack(whole[1], tmp_path / "all.tar", folder="./train_0/")
    store = TarStore((tar,), tmp_path / "index")
    assert store.index().find([""], ["000000000001"]).to_pylist() == ["train_0/000000000001.jpg"]
    content = store.place("train_0/000000000001.jpg").read_bytes()
    assert content == (whole[1] / "000000000001.jpg").read_bytes()
    with pytest.raises(FileNotFoundError):
        store.place("000000000001.jpg").read_bytes()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("nothing-*.tar", r"--images nothing-\*\.tar: no file has such a name"),
        ("a.tar\nb.txt", r"b\.txt: give one folder, or \.tar and \.tar\.gz files"),
    ],
)
def test_mistakes_in_where_pictures_are(images: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        locate(images)


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.tar does not exist"):
        describe_store(str(tmp_path / "none.tar"))
    with pytest.raises(UserError, match="no-such-protocol"):
        open_store("no-such-protocol://x", "")


def test_a_dry_run_unpacks_nothing(tmp_path: Path, whole: Inputs, capsys: pytest.CaptureFixture[str]) -> None:
    tar = pack(whole[1], tmp_path / "all.tar.gz", "w:gz")
    files = ["--annotations", str(whole[0]), "--images", str(tar), "--out", str(tmp_path / "out")]
    assert main(["build", "coco", *files, "--image-size", "64", "--dry-run"]) == 0
    assert "samples at most" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.tar.gz"]

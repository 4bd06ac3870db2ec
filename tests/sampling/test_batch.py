"""`batch` and `show`: resume, bad rows, shards, and results that can be made again byte for byte."""

import csv
import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from intarsia.errors import UsageError
from intarsia.weights import save_model
from sampling.cli import main
from sampling.jobs import read_jobs
from sampling.painters import own
from sampling.provenance import read_provenance
from tests.sampling.tiny import request, tiny_model

STEPS = ("--num-inference-steps", "2", "--device", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch") / "model"
    save_model(tiny_model(6), folder)
    return folder


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """Four rows in a folder, one of them with an empty mask and one with an unknown picture."""
    rows = []
    for number in range(4):
        own = request(number, 72, 64)
        mask = own.edit_mask.astype(np.uint8) * 255 * (number != 1)
        for kind, pixels in (("image", own.image), ("mask", mask), ("exemplar", own.exemplar)):
            (tmp_path / kind).mkdir(exist_ok=True)
            if (kind, number) != ("image", 2):
                Image.fromarray(pixels).save(tmp_path / kind / f"p{number}.png")
        files = {kind: f"{kind}/p{number}.png" for kind in ("image", "mask", "exemplar")}
        rows.append({"name": f"r{number}", **files, "seed": number, "guidance_scale": 1 + number})
    with (tmp_path / "jobs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "jobs.csv"


def run(jobs: Path, model: Path, out: Path, *more: str) -> int:
    return main(["batch", str(jobs), "--model", str(model), "--out", str(out), *STEPS, *more])


def records(out: Path) -> dict[str, dict]:
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return {line["name"]: line for line in lines}


def test_bad_rows_stop_nothing_and_are_told_and_the_same_command_does_what_is_missing(
    jobs: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(jobs, model, out) == 1
    said = capsys.readouterr()
    assert "failed: r1: " in said.err
    assert "marks nothing to repaint" in said.err
    assert "p2.png does not exist" in said.err
    assert "2 made, 0 already there, 2 failed" in said.out
    assert "4/4 edits  2 failed" in said.err
    made = {name: record for name, record in records(out).items() if record["status"] == "ok"}
    assert list(made) == ["r0", "r3"]
    assert made["r3"]["settings"]["guidance_scale"] == 4
    assert made["r3"]["seed"] == 3
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}

    Image.fromarray(request(2, 72, 64).image).save(tmp_path / "image" / "p2.png")
    Image.fromarray(request(1, 72, 64).edit_mask.astype(np.uint8) * 255).save(tmp_path / "mask" / "p1.png")
    assert run(jobs, model, out) == 0
    assert "2 made, 2 already there, 0 failed" in capsys.readouterr().out
    assert all((out / name).stat().st_mtime_ns == time for name, time in before.items())
    assert {record["status"] for record in records(out).values()} == {"ok"}

    assert run(jobs, model, out) == 0
    assert "0 made, 4 already there" in capsys.readouterr().out
    Image.fromarray(request(9, 72, 64).image).save(tmp_path / "image" / "p0.png")
    assert run(jobs, model, out) == 0
    assert "1 made, 3 already there" in capsys.readouterr().out, "a changed input is done again"


def test_shards_make_what_one_process_makes(jobs: Path, model: Path, tmp_path: Path) -> None:
    run(jobs, model, tmp_path / "one")
    for part in ("0/2", "1/2"):
        run(jobs, model, tmp_path / "two", "--shard", part)
    one, two = (sorted((tmp_path / name).glob("*.png")) for name in ("one", "two"))
    assert [path.name for path in one] == [path.name for path in two]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))
    assert list(records(tmp_path / "two")) == ["r0", "r1", "r2", "r3"]


def test_a_result_says_how_it_was_made_and_the_command_makes_the_same_bytes(
    jobs: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(
        jobs, model, tmp_path / "out", "--scheduler", "ddim", "--eta", "0.5", "--guidance-interval", "0.1,0.9"
    )
    result = tmp_path / "out" / "r3.png"
    assert read_provenance(result).settings["eta"] == 0.5
    capsys.readouterr()
    assert main(["show", str(result)]) == 0
    said = capsys.readouterr()
    words = shlex.split(said.out)
    assert words[:4] == ["python", "-m", "sampling", "edit"]
    assert "--guidance-interval 0.1,0.9 " in said.out
    assert not said.err
    assert main(words[3:]) == 0
    assert (tmp_path / "out" / "r3-again.png").read_bytes() == result.read_bytes()

    Image.fromarray(request(9, 72, 64).image).save(tmp_path / "image" / "p3.png")
    (tmp_path / "mask" / "p3.png").unlink()
    newer = replace(own.PAINTER, libraries=lambda: {"torch": "9.9", "diffusers": "9.8"})
    monkeypatch.setattr(own, "PAINTER", newer)
    assert main(["show", str(result)]) == 0
    notes = capsys.readouterr().err
    assert "p3.png has changed: the command will make another picture" in notes
    assert "p3.png does not exist, seen from this folder: the command cannot run" in notes
    assert f"it was made with torch {torch.__version__.partition('+')[0]}" in notes
    assert "but 9.9 is installed: rounding may differ" in notes


def test_a_picture_of_another_origin_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(request(0).image).save(tmp_path / "a.png")
    assert main(["show", str(tmp_path / "a.png")]) == 1
    assert "does not record how it was made" in capsys.readouterr().err


def test_a_folder_is_a_list_and_what_has_no_partner_is_an_error(jobs: Path) -> None:
    found = {job.name: job.error for job in read_jobs(jobs.parent)}
    assert found == {"p0": "", "p1": "", "p2": found["p2"], "p3": ""}
    assert found["p2"].startswith("no picture called p2 in image/ (.png, .jpg")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("image,mask\na,b\n", "no column exemplar"),
        ("image,mask,exemplar,gudance\n", "unknown column 'gudance'; valid: image, mask"),
        ("image,mask,exemplar\n", "contains no edits"),
        ("image,mask,exemplar,image\n", "two columns are called image"),
        ("image,mask,exemplar,name\na,b,c,x\na,b,c,x\n", "has 1 name more than once, first 'x'"),
    ],
)
def test_a_wrong_list_is_refused_at_once(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "jobs.csv").write_text(text)
    with pytest.raises(UsageError) as error:
        read_jobs(tmp_path / "jobs.csv")
    assert sentence in str(error.value)


def test_lists_as_spreadsheets_and_people_write_them(tmp_path: Path) -> None:
    text = 'image, mask, exemplar, guidance_interval\r\na, b, c, "0.2,0.8"\r\n'
    (tmp_path / "jobs.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "jobs.jsonl").write_bytes(b'\xef\xbb\xbf{"image": "a", "mask": "b", "exemplar": "c"}\r\n')
    for name in ("jobs.csv", "jobs.jsonl"):
        [job] = read_jobs(tmp_path / name)
        assert not job.error
        assert job.files == {"image": tmp_path / "a", "mask": tmp_path / "b", "exemplar": tmp_path / "c"}
    (tmp_path / "jobs.jsonl").write_bytes(b'{"image": "\xe9"}')
    with pytest.raises(UsageError, match="is not JSON in UTF-8"):
        read_jobs(tmp_path / "jobs.jsonl")


def test_no_result_takes_the_place_of_an_input(
    jobs: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in jobs.parent.rglob("*.png")}
    assert run(jobs.parent, model, jobs.parent / "image") == 2
    assert "p0.png, the image of p0; give --out another folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in jobs.parent.rglob("*.png")} == before


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ("seed\na,b,c,-1", "seed='-1' must be a whole number"),
        ("guidance_scale\na,b,c,many", "guidance_scale='many'"),
        ("name\na,b,c,../x", "is not a plain file name"),
        (f"name\na,b,c,{'é' * 101}", "is not a plain file name of at most 200 bytes"),
        ("seed\na,,c,1", "the row has no mask"),
        ("seed\na,b,c,1,2", "the row has more fields than the header"),
    ],
)
def test_a_wrong_row_is_that_rows_error(tmp_path: Path, fields: str, sentence: str) -> None:
    (tmp_path / "jobs.csv").write_text(f"image,mask,exemplar,{fields}\n")
    [job] = read_jobs(tmp_path / "jobs.csv")
    assert sentence in job.error

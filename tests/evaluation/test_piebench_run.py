"""`piebench run`: the same results killed or in parts, costs as planned, protocols, and what is refused."""

import csv
import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.cli import main
from evaluation.pie.pie_cost import count_arithmetic, way_cost
from evaluation.pie.pie_ways import NEGATIVE_PROMPT, Way, all_ways, cross, words_for
from evaluation.pie.piebench import read_bench
from evaluation.reports.published import published_rows
from intarsia.errors import UsageError
from sampling.ledger import read_records
from sampling.methods.request import InversionRequest
from sampling.methods.run_inversion import invert_edit
from sampling.pictures import read_picture
from tests import forks
from tests.evaluation.pie_bench import write_exemplar_model, write_pie_bench, write_text_model
from tests.processes import starts_processes
from tests.sampling.tiny import request, tiny_model, write_tower
from tests.text import text_model

FEW = ("--num-inference-steps", "2")
P2P = ("--method", "direct", "--coupling", "p2p")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pie_bench(tmp_path_factory.mktemp("pie"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def takes_exemplar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_exemplar_model(tmp_path_factory.mktemp("pbe"))


def words(bench: Path, model: Path, results: Path, *more: str) -> list[str]:
    """The command, without numbers that need weights."""
    without = [word for name in ("structure", "lpips", "clip") for word in ("--without", name)]
    files = ["--bench", str(bench), "--model", str(model), "--results", str(results)]
    store = ["--store", str(results.parent / "store"), "--device", "cpu"]
    return ["piebench", "run", *files, *FEW, *store, *without, *more]


def run(*given: str | Path) -> int:
    return main(words(*given))  # type: ignore[arg-type]


def pictures(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in (".png", ".jpg")
    }


@pytest.fixture(scope="module")
def whole(bench: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of direct inversion with Prompt-to-Prompt, made by one process."""
    folder = tmp_path_factory.mktemp("whole") / "results"
    assert run(bench, text, folder, *P2P) == 0
    return folder


def test_the_results_have_the_sources_paths_and_a_report(bench, whole) -> None:
    assert set(pictures(whole)) == {f"1_change/{number:012}.png" for number in range(4)}
    report = json.loads((whole / "report/report.json").read_text())
    assert report["rows"].keys() == {case.key for case in read_bench(bench)}
    assert report["settings"]["settings"]["coupling"] == ["p2p"]
    records = read_records(whole)
    assert {record["latent_error"] for record in records.values()} == {0.0}  # direct
    assert records["000000000002"]["remarks"] == [
        "the blend word 'barn' is not in 'a red house': the local blend is off"
    ]


@pytest.fixture
@starts_processes
def killed(bench: Path, text: Path, tmp_path: Path) -> Path:
    """A folder whose process was killed after its first result."""
    folder = tmp_path / "results"
    command = forks.begin(main, words(bench, text, folder, *P2P))
    records = folder / "results.jsonl"
    while command.process.is_alive() and not (records.is_file() and records.stat().st_size):
        time.sleep(0.01)
    command.process.kill()
    assert command.wait().returncode == -signal.SIGKILL
    return folder


def test_a_killed_run_continues_with_what_is_missing(bench, text, whole, killed, capsys) -> None:
    before = read_records(killed)
    assert 1 <= len(before) < 4
    assert run(bench, text, killed, *P2P) == 0
    shown = capsys.readouterr().out
    assert f"{4 - len(before)} made, {len(before)} already there, 0 failed" in shown
    assert pictures(killed) == pictures(whole)
    assert read_records(killed)[next(iter(before))] == before[next(iter(before))]


def test_parts_give_the_files_of_one_process(bench, text, whole, tmp_path, capsys) -> None:
    folder = tmp_path / "results"
    assert run(bench, text, folder, *P2P, "--shard", "0/3") == 0
    assert "2 of 4 edits are still to be made; the last part scores" in capsys.readouterr().out
    assert run(bench, text, folder, *P2P, "--shard", "2/3") == 0
    assert run(bench, text, folder, *P2P, "--shard", "1/3") == 0
    shown = capsys.readouterr().out
    assert "beside published numbers" in shown
    assert "masks" not in shown, "a model of four channels has none"
    assert pictures(folder) == pictures(whole)
    lines = (folder / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == [case.key for case in read_bench(bench)]


def test_a_changed_setting_is_refused_and_a_lost_picture_made_again(
    bench, text, whole, capsys, tmp_path
) -> None:
    assert run(bench, text, whole, *P2P, "--guidance-scale", "3") == 1
    assert "has results made with guidance_scale=7.5, and this command has guidance_scale=3.0; give" in (
        capsys.readouterr().err
    )
    lost = whole / "1_change/000000000001.png"
    content = lost.read_bytes()
    lost.unlink()
    assert run(bench, text, whole, *P2P) == 0
    assert "1 made, 3 already there" in capsys.readouterr().out
    assert lost.read_bytes() == content


def test_published_results_are_strips_as_jpeg(bench, text, whole, tmp_path, capsys) -> None:
    folder = tmp_path / "results"
    key = "000000000001"
    assert run(bench, text, folder, *P2P, "--protocol", "published", "--key", key) == 0
    with Image.open(folder / f"1_change/{key}.jpg") as strip:
        assert (strip.format, strip.size) == ("JPEG", (2048, 512))
        assert strip.layer[0][1:3] == (2, 2)  # 4:2:0
        squares = np.split(np.asarray(strip).astype(int), 4, axis=1)
    source = read_picture(bench / f"annotation_images/1_change/{key}.jpg").astype(int)
    assert np.abs(squares[1] - source).mean() < 10  # JPEG's loss
    assert read_records(folder)[key]["settings"]["steps_offset"] == 0
    assert "3 of 4 results are missing: not comparable" in capsys.readouterr().out


def test_each_editor_reads_what_its_published_code_reads(bench) -> None:
    first, second = read_bench(bench)[:2]

    def of(method: str, coupling: str, protocol: str, case=first) -> dict:
        [way] = cross([method], [coupling], protocol, {}, "here")  # type: ignore[arg-type]
        return words_for(case, way, ("text",))[0]

    prompts = {"source_prompt": "a round cake on a plate", "target_prompt": "a square cake on a plate"}
    blend = {"words": (("cake", "cake"),), "reweight": (("cake", 2.0),)}
    for protocol in ("published", "right"):
        assert of("direct", "p2p", protocol) == prompts | blend
        assert of("direct", "p2p", protocol, second).keys() == prompts.keys()
    assert of("ddpm", "p2p", "published") == prompts
    assert of("ddpm", "p2p", "right") == prompts | blend
    assert of("direct", "masactrl", "published") == prompts | {"source_prompt": ""}
    assert of("ddim", "pnp", "published") == prompts | {"negative_prompt": NEGATIVE_PROMPT}
    caption = {"caption": "a round cake on a plate"}
    assert of("ddim", "pix2pix-zero", "right") == prompts | caption
    assert of("ddim", "pix2pix-zero", "published") == prompts | caption | {
        "negative_prompt": caption["caption"]
    }
    assert of("ddim", "pnp", "right") == of("direct", "masactrl", "right") == prompts


def test_published_timesteps_depend_on_the_editor() -> None:
    ways = {way.name: way for way in all_ways(("text",), "published", {}, "here")}
    late = [way for name, way in ways.items() if any(word in name for word in ("pnp", "ddpm", "zero"))]
    assert {way.settings.steps_offset for way in late} == {1}
    assert {way.settings.steps_offset for name, way in ways.items() if "masactrl" in name} == {0}
    assert ways["direct+p2p"].settings.steps_offset == 0
    assert ways["direct+pix2pix-zero"].settings.offset_to == "both"
    right = all_ways(("text",), "right", {}, "here")
    assert {way.settings.offset_to for way in right if "zero" in way.name} == {"source"}
    assert {way.settings.steps_offset for way in right} == {1}
    assert len({way.name for way in right}) == len({way.title for way in right}) == len(right)


def small_request(parts: tuple[str, ...]) -> InversionRequest:
    own = request(0)
    if "text" in parts:
        return InversionRequest(own.image, source_prompt="a cat", target_prompt="a dog")
    return InversionRequest(own.image, own.edit_mask, own.exemplar)


ALIKE = ("scale-0.", "every-5", "every-10")  # cost what scale 0 and every 2 steps cost


@pytest.mark.parametrize(("parts", "scale"), [(("text",), 7.5), (("text",), 1.0), (("exemplar",), 7.5)])
def test_the_planned_rows_are_those_that_are_made(parts, scale) -> None:
    model = text_model(0, "text", "model.unet.in_channels=4") if "text" in parts else tiny_model()
    model.requires_grad_(False)
    options = {"num_inference_steps": 2, "inner_steps": 1, "guidance_scale": scale}
    ways = [way for way in all_ways(parts, "right", options, "here") if not any(a in way.name for a in ALIKE)]
    if "exemplar" in parts:
        ways = [way for way in ways if "pnp" not in way.name]  # as text models
        ways += cross(["ddim", "direct", "negative-condition"], [None], "right", options, "here")
        ways += cross(["style"], [None, "context,background"], "right", options, "here")
    for way in ways:
        announced: set[int] = set()
        asked = small_request(parts), way.settings
        result = invert_edit(model, *asked, on_step=lambda _, most, announced=announced: announced.add(most))
        planned = way_cost(way.settings, masked="exemplar" in parts)
        assert (way.name, planned.calls, planned.rows) == (way.name, result.calls, result.rows)
        assert announced == {planned.calls}, way.name


def test_the_row_of_style_diffusion_needs_a_style_tower(bench) -> None:
    plain, with_tower = (
        {way.title: way for way in all_ways(("text",), "published", {}, "here", tower)}
        for tower in (False, True)
    )
    assert [title for title in with_tower if title not in plain] == ["StyleDiffusion + P2P"]
    assert {row.method for row in published_rows("PIE-Bench")} <= with_tower.keys()
    assert [title for title in with_tower if title in plain] == list(plain)
    way = with_tower["StyleDiffusion + P2P"]
    assert (way.name, way.settings.steps_offset) == ("style+p2p", 0)
    assert "words" not in words_for(read_bench(bench)[0], way, ("text",))[0], "as its published code"


def test_a_style_tower_makes_that_row_and_another_one_is_refused(bench, text, tmp_path, capsys) -> None:
    folder, key = tmp_path / "results", "000000000000"
    chosen = "--method", "style", "--coupling", "p2p", "--inner-steps", "1", "--key", key
    assert run(bench, text, folder, *chosen) == 2
    assert "give a folder of CLIP's vision tower, --style-tower" in capsys.readouterr().err
    assert not folder.exists()
    assert run(bench, text, folder, *chosen, "--style-tower", str(write_tower(tmp_path / "clip"))) == 0
    assert "StyleDiffusion + P2P" in capsys.readouterr().out
    named = read_records(folder)[key]["settings"]["style_tower"]
    other = str(write_tower(tmp_path / "other", seed=1))
    assert run(bench, text, folder, *chosen, "--style-tower", other) == 1
    assert f"has results made with style_tower={named}, and this command has" in capsys.readouterr().err
    assert run(bench, text, folder, *P2P, "--style-tower", other) == 2
    assert "--style-tower is for the method style; leave it out" in capsys.readouterr().err


def test_direct_with_p2p_needs_200_rows_a_picture() -> None:
    ways: dict[str, Way] = {way.name: way for way in all_ways(("text",), "right", {}, "here")}
    assert way_cost(ways["direct+p2p"].settings, masked=False).rows == 200
    assert way_cost(ways["ddim+p2p"].settings, masked=False).rows == 250


def test_the_counted_arithmetic_is_that_of_the_real_layers() -> None:
    model = text_model(0, "text", "model.unet.in_channels=4")
    side, config = model.config.latent_size, model.config
    tokens, dense = torch.zeros(1, config.num_tokens, config.unet.cross_attention_dim), 0

    def add(layer: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal dense
        dense += 2 * output.numel() * layer.weight[0].numel()  # type: ignore[index]

    for layer in model.unet.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            layer.register_forward_hook(add)
    with torch.no_grad():
        model.unet(torch.zeros(1, 4, side, side), 1, tokens)
    assert dense < count_arithmetic(config).row * 1e12 < 1.5 * dense  # the rest is attention


def test_the_dry_run_makes_nothing(bench, text, tmp_path, capsys) -> None:
    folder = tmp_path / "results"
    assert run(bench, text, folder, "--all", "--dry-run", "--gpu", "h100") == 0
    captured = capsys.readouterr()
    shown = captured.out
    assert "hours, h100" in shown
    assert "Direct Inversion + MasaCtrl" in shown
    assert "the row StyleDiffusion + P2P is left out: it needs --style-tower" in captured.err
    assert "StyleDiffusion + P2P" not in shown
    assert not folder.exists()
    gpu = "--dry-run", "--gpu", "h100"
    assert run(bench, text, folder, *P2P, *gpu, "--mfu", "0") == 2
    assert "--mfu=0 must be above 0" in capsys.readouterr().err


def test_several_ways_make_one_table_and_a_sheet(bench, text, tmp_path, capsys) -> None:
    folder, key = tmp_path / "results", "000000000000"
    chosen = "--method", "ddim,direct", "--coupling", "p2p", "--coupling", "masactrl", "--key", key
    assert run(bench, text, folder, *chosen, "--sheet", key) == 0
    shown = capsys.readouterr().out
    for name in ("DDIM + P2P", "Direct Inversion + MasaCtrl"):
        assert shown.count(name) >= 3  # published, ours, and its cost
    page = (folder / f"sheet-{key}.html").read_text()
    assert page.count("<img") == 2 + 4
    record = read_records(folder / "ddim+masactrl")[key]
    assert f"{record['latent_error']:.2e}" in page
    assert "settings: steps each way 2; guidance scale 7.5<" in page
    assert "of this picture alone" in page
    assert "95 %" not in page, "one picture has no interval"
    assert (folder / "report/table.md").is_file()
    assert run(bench, text, folder, *chosen) == 0
    assert "0 made, 4 already there" in capsys.readouterr().out


def write_list(folder: Path, *rows: tuple[str, str, str], header: str = "target_exemplar") -> Path:
    folder.mkdir(exist_ok=True)
    Image.fromarray(request(1).exemplar).save(folder / "a.png")
    with (folder / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "source_exemplar", header])
        writer.writerows(rows)
    return folder / "list.csv"


def test_exemplar_models_edit_with_a_list_of_exemplars(bench, takes_exemplar, tmp_path, capsys) -> None:
    rows = [("000000000000", "", "a.png"), ("000000000001", "a.png", "a.png")]
    listed = "--exemplars", str(write_list(tmp_path / "list", *rows))
    folder = tmp_path / "results"
    assert run(bench, takes_exemplar, folder, *listed) == 1
    captured = capsys.readouterr()
    assert "2 made, 0 already there, 2 failed" in captured.out
    assert "000000000002 has no line in --exemplars" in captured.err
    assert "2 of 4 edits could not be made" in captured.err
    assert run(bench, takes_exemplar, folder, *listed, "--only-present") == 1
    shown = capsys.readouterr().out
    assert "2 of 4 results are missing: not comparable" in shown
    assert "without the bench's masks; Direct Inversion: the model was given them" in shown
    assert read_records(folder)["000000000001"]["source_exemplar"].endswith("a.png")
    source = read_picture(bench / "annotation_images/1_change/000000000000.jpg")
    edited = read_picture(folder / "1_change/000000000000.png")
    kept = ~read_bench(bench)[0].edit_mask
    assert (source[kept] == edited[kept]).all()
    assert (source != edited).any()


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([("7", "", "a.png")], "exemplar", "has no column target_exemplar; required: key, source_exemplar"),
        ([("7", "", "")], "target_exemplar", "line 2: target_exemplar is empty; fill it in"),
        ([("7", "", "a.png")] * 2, "target_exemplar", "line 3: the key 7 appears twice; remove one line"),
    ],
)
def test_a_bad_list_of_exemplars_is_refused(
    bench, takes_exemplar, tmp_path, capsys, rows, header, message
) -> None:
    path = write_list(tmp_path / "list", *rows, header=header)
    assert run(bench, takes_exemplar, tmp_path / "results", "--exemplars", str(path)) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--all", "--coupling", "p2p"), "--all has its own methods and couplings; remove"),
        (("--method", "best"), "method 'best' is not one of ddim, direct"),
        (("--all", "--offset-scale", "0.5"), "--all has its own scales of the offset; remove"),
        (("--coupling", "glue"), "coupling='glue': 'glue' is not one of"),
        (("--method", "ddim,ddim"), "ddim appears twice among --method and --coupling; name it once"),
        (("--coupling", "background"), "background keeps what is outside the mask; give a mask, or leave"),
        (("--key", "7"), "has no record 7; see mapping_file.json"),
        (("--key", "000000000001", "--sheet", "000000000000"), "is not among the records of --key"),
        (("--exemplars", "x.csv"), "takes prompts only; remove --exemplars"),
        (("--method", "null-condition,style"), "give a folder of CLIP's vision tower, --style-tower"),
        (
            ("--method", "direct,ddim", "--coupling", "p2p", "--compile"),
            "cannot be coupled, and Direct Inversion + P2P couples it by p2p; leave --compile out",
        ),
        (
            ("--coupling", "masactrl-masks"),
            "and 2 of 4 records have no blend words in their prompts, such as 000000000001; use masactrl",
        ),
    ],
)
def test_wrong_usage_is_one_sentence(bench, text, tmp_path, capsys, more, message) -> None:
    assert run(bench, text, tmp_path / "results", *more) == 2
    assert message in capsys.readouterr().err


def test_a_model_of_exemplars_needs_the_list(bench, takes_exemplar, tmp_path, capsys) -> None:
    assert run(bench, takes_exemplar, tmp_path / "results") == 2
    assert "takes an exemplar; give --exemplars FILE.csv with key" in capsys.readouterr().err
    assert run(bench, takes_exemplar, tmp_path / "results", "--coupling", "p2p", "--dry-run") == 2
    assert "p2p needs 2 tokens or more to choose between, and this model attends to 1" in (
        capsys.readouterr().err
    )


def test_a_picture_of_another_size_fails_alone(text, tmp_path, capsys) -> None:
    bench = write_pie_bench(tmp_path / "bench", 2)
    Image.new("RGB", (300, 200)).save(bench / "annotation_images/1_change/000000000001.jpg")
    assert run(bench, text, tmp_path / "results", *P2P) == 1
    captured = capsys.readouterr()
    assert "1 made, 0 already there, 1 failed" in captured.out
    assert "has 300 × 200 pixels; PIE-Bench's pictures have 512 × 512" in captured.err


def test_weights_are_looked_for_before_the_first_edit(bench, text, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    given = words(bench, text, tmp_path / "results", *P2P, "--weights", str(tmp_path))
    place = given.index("clip")
    del given[place - 1 : place + 1]
    assert main(given) == 1
    error = capsys.readouterr().err
    assert "(clip-vit-large-patch14) is not on this machine" in error
    assert "--without clip leaves it out" in error
    assert not (tmp_path / "results").exists()


def test_a_compiled_network_is_refused_once_and_nothing_is_made(bench, text, tmp_path, capsys) -> None:
    folder = tmp_path / "results"
    assert run(bench, text, folder, *P2P, "--compile") == 2
    assert capsys.readouterr().err.count("compiled") == 1
    assert not folder.exists()


def test_records_with_words_are_edited_with_masks(bench, text, tmp_path, capsys) -> None:
    chosen = "--coupling", "masactrl-masks", "--key", "000000000000"
    assert run(bench, text, tmp_path / "results", *chosen) == 0
    assert "1 made, 0 already there, 0 failed" in capsys.readouterr().out
    [way] = cross(["direct"], ["masactrl-masks"], "right", {}, "here")
    assert words_for(read_bench(bench)[0], way, ("text",))[0].keys() == {
        "source_prompt",
        "target_prompt",
        "words",
    }


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(UsageError, match="here: method 'none' is not one of"):
        cross(["none"], ["p2p"], "right", {}, "here")

"""`import` and `export` as commands: round trips through files, other programs' doors, refusals."""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from intarsia.pretrained import State
from intarsia.weights import read_model, save_model
from sampling.cli import main
from tests.intarsia.test_original import random_original
from tests.paths import ROOT
from tests.sampling.tiny import tiny_config, tiny_model

TINY = ("--config", str(ROOT / "configs/model/tiny.yaml"))


@pytest.fixture(scope="module")
def original() -> State:
    return random_original(tiny_config(), 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("porting") / "model"
    save_model(tiny_model(7), path, card="# Mine\n")
    return path


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_original_to_ours_to_original_is_the_same_file_content(
    original: State, tmp_path: Path, suffix: str, dtype: torch.dtype
) -> None:
    levels = {name for name in original if "." not in name and name != "learnable_vector"}
    state = {
        name: value.to(dtype) if value.is_floating_point() and name not in levels else value
        for name, value in original.items()
    }
    source, back = tmp_path / f"model{suffix}", tmp_path / f"back{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": state, "epoch": 39}, source)
    else:
        save_file(state, source)
    assert main(["import", str(source), "--out", str(tmp_path / "ours"), *TINY]) == 0
    form = "original" if suffix == ".ckpt" else "safetensors-single"
    name = str(dtype).removeprefix("torch.")
    arguments = ["--model", str(tmp_path / "ours"), "--out", str(back), "--format", form, "--dtype", name]
    assert main(["export", *arguments]) == 0
    if suffix == ".ckpt":
        again = torch.load(back, weights_only=True)["state_dict"]
    else:
        again = load_file(back)
    assert same(again, state)
    assert {value.dtype for value in again.values()} == {value.dtype for value in state.values()}


def test_the_imported_folder_says_where_it_is_from(original: State, tmp_path: Path) -> None:
    torch.save({"state_dict": original}, tmp_path / "paint.ckpt")
    assert main(["import", str(tmp_path / "paint.ckpt"), "--out", str(tmp_path / "ours"), *TINY]) == 0
    card = (tmp_path / "ours" / "README.md").read_text()
    assert "imported from paint.ckpt (sha256 " in card
    assert "OpenRAIL-M" in card
    assert str(tmp_path) not in card


def test_a_file_with_many_tokens_is_imported_and_exported(
    original: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ObjectStitch's: Paint by Example's names, one null vector for all tokens."""
    torch.save({"state_dict": original}, tmp_path / "stitch.pth")
    many, ours = ("--exemplar-tokens", "class+patches"), str(tmp_path / "ours")
    assert main(["import", str(tmp_path / "stitch.pth"), "--out", ours, *TINY, *many]) == 0
    assert read_model(ours).config.num_tokens == 65
    back = tmp_path / "back.ckpt"
    assert main(["export", "--model", ours, "--out", str(back), "--format", "original"]) == 0
    assert same(torch.load(back, weights_only=True)["state_dict"], original)
    capsys.readouterr()
    out = tmp_path / "diffusers"
    assert main(["export", "--model", ours, "--out", str(out), "--format", "diffusers"]) == 0
    assert "diffusers' own pipeline refuses it" in capsys.readouterr().out
    assert read_model(out).config.num_tokens == 65


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_diffusers_loads_the_exported_folder_as_it_is(
    folder: Path, tmp_path: Path, variant: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    out = tmp_path / "out"
    more = ["--variant", variant, "--dtype", "float16"] if variant else []
    assert main(["export", "--model", str(folder), "--out", str(out), "--format", "diffusers", *more]) == 0
    pipeline = DiffusionPipeline.from_pretrained(out, trust_remote_code=True, variant=variant)
    expected = tiny_model(7)
    for part in ("unet", "vae"):
        own = getattr(expected, part).half().float() if variant else getattr(expected, part)
        assert same(getattr(pipeline, part).float().state_dict(), own.state_dict())
    vision = expected.image_encoder.half().float() if variant else expected.image_encoder
    theirs = dict(pipeline.image_encoder.float().named_parameters())
    assert any(torch.equal(value, theirs[name]) for name in theirs for value in vision.state_dict().values())
    assert (out / "README.md").read_text() == "# Mine\n"
    assert read_model(out).config == expected.config


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["export", "--format", "original", "--out", "a.bin"], 2, "must end in .ckpt"),
        (["export", "--format", "safetensors-single", "--out", "a.ckpt"], 2, "must end in .safetensors"),
        (["export", "--format", "original", "--out", "a.ckpt", "--variant", "x"], 2, "--variant belongs to"),
        (
            ["import", "none.ckpt", "--out", "ours"],
            1,
            "none.ckpt does not exist; give a checkpoint file",
        ),
        (["import", "..", "--out", "ours"], 1, ".. is a folder; give a checkpoint file"),
    ],
)
def test_wrong_calls_end_in_a_sentence(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["--model", str(folder)] if arguments[0] == "export" else []
    assert main([*arguments, *more]) == code
    assert sentence in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_an_exported_model_of_another_geometry_names_the_config(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, ours = str(tmp_path / "m.ckpt"), str(tmp_path / "ours")
    assert main(["export", "--model", str(folder), "--out", out, "--format", "original"]) == 0
    capsys.readouterr()
    assert main(["import", out, "--out", ours]) == 1
    error = capsys.readouterr().err
    assert "without --config the published geometry is assumed: give --config YAML" in error
    assert error.count("\n") == 1
    assert main(["import", out, "--out", ours, "--config", str(ROOT / "configs/model/sd21.yaml")]) == 1
    assert "--config YAML" not in capsys.readouterr().err
    assert main(["import", out, "--out", ours, *TINY]) == 0
    assert read_model(Path(ours)).config == tiny_config()


def test_a_model_folder_is_not_exported_over_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", str(folder), "--out", str(folder), "--format", "diffusers"]
    assert main(["export", *arguments]) == 1
    assert "is the model folder itself" in capsys.readouterr().err
    assert read_model(folder).config == tiny_config()

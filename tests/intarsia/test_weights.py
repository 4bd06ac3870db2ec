"""Model folders: round trips, refusals, and the folder as diffusers sees it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.deprecated.paint_by_example import PaintByExampleImageEncoder
from safetensors.torch import load_file, save_file

from intarsia.errors import UserError
from intarsia.model import EditModel, build_model
from intarsia.model_folder import ADAPTERS, NOISED_ENCODER, check_model_folder
from intarsia.weights import read_model, save_model
from tests.closeness import longest_sum, relative_error, rounding
from tests.sampling.tiny import files_of, tiny_config, tiny_model


@pytest.fixture(scope="module")
def model() -> EditModel:
    return tiny_model(11)


@pytest.fixture(scope="module")
def saved(model: EditModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "model"
    save_model(model, folder, card="# My model\n")
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(saved, tmp_path / "model")


def equal_weights(one: EditModel, other: EditModel) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_saved_model_comes_back_bit_for_bit(model: EditModel, saved: Path) -> None:
    loaded = read_model(saved)
    assert loaded.config == model.config
    assert equal_weights(loaded, model)
    assert not loaded.training
    latents, token = torch.randn(1, 9, 32, 32), torch.randn(1, 1, 32)
    with torch.no_grad():
        ours, theirs = (m.unet(latents, 500, encoder_hidden_states=token).sample for m in (model, loaded))
    assert torch.equal(ours, theirs)


def test_other_geometries_and_noise_come_back_too(tmp_path: Path) -> None:
    config = tiny_config(
        "model.image_size=48",
        "model.noise.beta_end=0.02",
        "model.image_encoder.num_hidden_layers=9",
        "model.image_encoder.hidden_act=gelu",
        "model.vae.scaling_factor=0.5",
        "model.unet.layers_per_block=1",
    )
    model = build_model(config, 0)
    save_model(model, tmp_path / "m")
    assert read_model(tmp_path / "m").config == config
    assert equal_weights(read_model(tmp_path / "m"), model)


def test_the_dtype_is_the_callers_choice(saved: Path) -> None:
    assert {p.dtype for p in read_model(saved, dtype=torch.float16).parameters()} == {torch.float16}


def test_the_card_is_the_readme_and_there_is_one_by_default(
    model: EditModel, saved: Path, tmp_path: Path
) -> None:
    assert (saved / "README.md").read_text() == "# My model\n"
    save_model(model, tmp_path / "m")
    assert "64 x 64 pixels" in (tmp_path / "m" / "README.md").read_text()


def test_saving_again_replaces_the_folder_and_leaves_nothing_beside_it(
    model: EditModel, folder: Path
) -> None:
    (folder / "stray").write_text("old")
    save_model(model, folder)
    assert not (folder / "stray").exists()
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_a_failed_save_leaves_the_old_folder_whole(
    model: EditModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(folder)
    monkeypatch.setattr("intarsia.weights._index_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_model(tiny_model(99), folder)
    assert files_of(folder) == before
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_clip_is_saved_under_the_names_that_every_version_reads(saved: Path) -> None:
    state = load_file(saved / "image_encoder" / "model.safetensors")
    tops = {name.split(".")[0] for name in state}
    assert tops == {"model", "mapper", "final_layer_norm", "proj_out", "uncond_vector"}
    assert all(name.startswith("model.vision_model.") for name in state if name.startswith("model."))
    fields = json.loads((saved / "image_encoder" / "config.json").read_text())
    for name, value in tiny_config().image_encoder.fields().items():
        assert fields[name] == value
    assert fields["projection_dim"] == 32


@pytest.mark.portable
def test_diffusers_encoder_reads_the_folder_without_losing_a_weight(model: EditModel, saved: Path) -> None:
    peer = PaintByExampleImageEncoder.from_pretrained(saved / "image_encoder").eval()
    exemplar = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected, null = peer(exemplar, return_uncond_vector=True)
        ours = model.exemplar_encoder(model.encode_exemplar(exemplar))
    assert relative_error(ours, expected) < rounding(longest_sum(peer))
    assert torch.equal(null, model.exemplar_encoder.null_exemplar)


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_state(path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change({k: v.clone() for k, v in load_file(path).items()}), path)


def flat_clip_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace("model.vision_model.", "model."): value for name, value in state.items()}


SPOILED: list[tuple[str, Callable[[Path], object], str]] = [
    ("no folder", lambda f: shutil.rmtree(f), "does not exist"),
    (
        "no index",
        lambda f: (f / "model_index.json").unlink(),
        "is not a model folder: it has no model_index",
    ),
    (
        "another pipeline",
        lambda f: edit_json(f / "model_index.json", _class_name="FluxPipeline"),
        "contains a FluxPipeline, not an editing model (PaintByExamplePipeline",
    ),
    (
        "flat CLIP names",  # other readers take this without a word and leave CLIP random
        lambda f: edit_state(f / "image_encoder" / "model.safetensors", flat_clip_names),
        "missing (first embeddings.class_embedding)",
    ),
    (
        "a weight too few",
        lambda f: edit_state(
            f / "unet" / "diffusion_pytorch_model.safetensors",
            lambda s: {k: v for k, v in s.items() if k != "conv_in.bias"},
        ),
        "1 missing (first conv_in.bias)",
    ),
    (
        "a weight too many",
        lambda f: edit_state(
            f / "image_encoder" / "model.safetensors", lambda s: {**s, "surprise": torch.zeros(1)}
        ),
        "1 unexpected (first surprise)",
    ),
    (
        "another shape",
        lambda f: edit_state(
            f / "vae" / "diffusion_pytorch_model.safetensors",
            lambda s: {**s, "quant_conv.bias": torch.zeros(3)},
        ),
        "1 of another shape (first quant_conv.bias: [3] instead of [8])",
    ),
    (
        "a truncated file",
        lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"12345678 no"),
        "cannot be read as weights",
    ),
    (
        "no weights",
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").unlink(),
        "vae contains no weights; looked for diffusion_pytorch_model.safetensors",
    ),
    (
        "a switch we do not build",
        lambda f: edit_json(f / "unet" / "config.json", dual_cross_attention=True),
        "dual_cross_attention=True is not supported, only False is",
    ),
    (
        "heads by level",
        lambda f: edit_json(f / "unet" / "config.json", attention_head_dim=[4, 8, 8]),
        "attention_head_dim has 3 entries and block_out_channels 2",
    ),
    (
        "another prediction",
        lambda f: edit_json(f / "scheduler" / "scheduler_config.json", prediction_type="sample"),
        "noise.prediction_type='sample'",
    ),
    ("no scheduler", lambda f: shutil.rmtree(f / "scheduler"), "scheduler_config.json does not exist"),
]


@pytest.mark.parametrize(("spoil", "sentence"), [case[1:] for case in SPOILED], ids=[c[0] for c in SPOILED])
def test_a_spoiled_folder_is_refused_in_one_sentence(
    folder: Path, spoil: Callable[[Path], object], sentence: str
) -> None:
    spoil(folder)
    with pytest.raises(UserError) as refused:
        read_model(folder)
    assert sentence in str(refused.value)
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_model_folder_is_a_start_for_training(model: EditModel, saved: Path) -> None:
    start = build_model(tiny_config(f"model.init.model_folder={saved}"), seed=77)
    assert equal_weights(start, model)


def test_an_old_folder_with_buffers_and_pickled_weights_is_read(model: EditModel, folder: Path) -> None:
    """transformers used to save the position numbers, diffusers had other names for attention; both .bin."""
    clip = folder / "image_encoder" / "model.safetensors"
    positions = {"model.vision_model.embeddings.position_ids": torch.arange(65)[None]}
    torch.save(load_file(clip) | positions, folder / "image_encoder" / "pytorch_model.bin")
    clip.unlink()
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"

    def older(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        renamed = {}
        for name, value in state.items():
            for new, old in old_names.items():
                name = name.replace(f".{new}.", f".{old}.")
            renamed[name] = value
        return renamed

    edit_state(vae, older)
    assert any(".query." in name for name in load_file(vae))
    assert equal_weights(read_model(folder), model)


def test_a_folder_of_training_is_told_from_a_model_folder(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000010"
    checkpoint.mkdir(parents=True)
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / ADAPTERS).touch()
    (tmp_path / "noised").mkdir()
    (tmp_path / "noised" / NOISED_ENCODER).touch()
    for folder, way_out in (
        (checkpoint, "but a training checkpoint; the run writes RUN/model when it finishes"),
        (tmp_path / "run", r"run its command again"),
        (tmp_path / "lora", "but adapters; run python -m sampling merge-lora --lora .*lora --model BASE"),
        (tmp_path / "noised", "but a noised encoder; give it as --noised-clip .*noised beside the model"),
    ):
        with pytest.raises(UserError, match=f"{folder} is not a model folder.*{way_out}"):
            check_model_folder(folder)
    (tmp_path / "run" / "model").mkdir()
    (tmp_path / "run" / "model" / "model_index.json").touch()
    with pytest.raises(UserError, match=r"; use .*run/model$"):
        check_model_folder(tmp_path / "run")

"""The text tower and its tokenizer: ids, folders, single files, and what is refused."""

import json
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from intarsia.errors import UsageError, UserError
from intarsia.files import read_json
from intarsia.model import build_model
from intarsia.towers.tokenizer import TextTokenizer, bytes_tokenizer, read_tokenizer
from intarsia.weights import read_model, save_model
from tests.closeness import longest_sum, relative_error, rounding
from tests.sampling.tiny import tiny_config
from tests.text import LENGTH, SD2, TEXT, make_stable_diffusion, text_model
from tests.vocabulary import openai_tokenizer

TEXTS = [
    "a photo of a cat",
    "",
    "  Two   DOGS,   don't you see?!  ",
    "Straße 2024: 日本語 🐕 naïve",
    "!! a1b22",
]


@pytest.fixture(scope="module")
def clips_tokenizer() -> TextTokenizer:
    return openai_tokenizer()


def words_of(text: str) -> Iterator[str]:
    """CLIP's pieces: contractions, runs of letters, single digits, runs of anything else but spaces."""

    def kind(letter: str) -> str:
        return {"L": "letter", "N": "number"}.get(unicodedata.category(letter)[0], "other")

    for run in text.lower().split():
        place = 0
        while place < len(run):
            endings = [
                end for end in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if run.startswith(end, place)
            ]
            end = place + len(endings[0]) if endings else place + 1
            while not endings and end < len(run) and kind(run[end]) == kind(run[place]) != "number":
                end += 1
            yield run[place:end]
            place = end


def ids_of(text: str, tokenizer: TextTokenizer) -> list[int]:
    """The ids of a text by definition: always the pair with the lowest rank is joined, wherever it is."""
    ranks = {tuple(merge.split()): rank for rank, merge in enumerate(tokenizer.merges)}
    symbols, found = list(bytes_tokenizer().vocab)[:256], []
    of_byte = dict(zip([*range(33, 127), *range(161, 173), *range(174, 256)], symbols, strict=False))
    of_byte |= dict(zip([n for n in range(256) if n not in of_byte], symbols[len(of_byte) :], strict=True))
    for word in words_of(text):
        pieces = [of_byte[byte] for byte in word.encode()]
        pieces[-1] += "</w>"
        while pairs := [(ranks[pair], pair) for pair in pairwise(pieces) if pair in ranks]:
            joined, (first, second) = [], min(pairs)[1]
            while pieces:
                together = pieces[:2] == [first, second]
                joined.append(first + second if together else pieces[0])
                pieces = pieces[2 if together else 1 :]
            pieces = joined
        found += [tokenizer.vocab[piece] for piece in pieces]
    return found


def test_ids_are_clips(clips_tokenizer: TextTokenizer) -> None:
    ids = clips_tokenizer(TEXTS, 77)
    assert ids[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert ids[1].tolist() == [49406] + [49407] * 76
    for text, row in zip(TEXTS, ids.tolist(), strict=True):
        own = ids_of(text, clips_tokenizer)
        assert row == [49406, *own, *[49407] * (76 - len(own))]
        assert clips_tokenizer.count(text) == len(own)
    long = clips_tokenizer(["dog " * 100], 77)[0]
    assert long.tolist() == [49406, *[1929] * 75, 49407]


def test_the_tokenizer_of_bytes_takes_any_text_and_its_files_are_read_alike(tmp_path: Path) -> None:
    tokenizer = bytes_tokenizer()
    assert len(tokenizer.vocab) == 514
    text = "".join(map(chr, [*range(33, 0x250), 0x3042, 0x1F415]))
    read = {number: token.removesuffix("</w>") for token, number in tokenizer.vocab.items()}
    assert tokenizer.count(text) == len("".join(text.lower().split()).encode())
    assert len({tuple(row) for row in tokenizer(["ab", "a b", "b a"], LENGTH).tolist()}) == 3
    assert read[int(tokenizer(["a"], LENGTH)[0, 1])] == "a"
    tokenizer.save(tmp_path, LENGTH)
    theirs = CLIPTokenizer.from_pretrained(tmp_path)
    ids = theirs(TEXTS, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(ids, tokenizer(TEXTS, LENGTH))
    again = read_tokenizer(tmp_path)
    assert again.digest == tokenizer.digest


@pytest.mark.portable
@pytest.mark.parametrize(("pad", "more"), [("", {}), ("!", SD2)], ids=["as SD 1", "as SD 2"])
def test_a_folder_of_diffusers_gives_the_tokens_that_diffusers_gives(
    tmp_path: Path, pad: str, more: dict[str, object]
) -> None:
    folder = make_stable_diffusion(tmp_path, pad=pad, **more)
    theirs = CLIPTextModel.from_pretrained(folder / "text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    words = ["a dog", "x" * 50, ""]
    ids = tokenizer(words, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(ids.input_ids, attention_mask=None)[0]
    model = read_model(folder)
    assert (model.config.parts, model.tokenizer.pad_token) == (("text",), pad or "<|endoftext|>")
    assert relative_error(model.encode_text(words), expected) < rounding(longest_sum(theirs))
    assert set(model.frozen_networks) == {"vae", "text_encoder"}


def test_a_saved_folder_has_the_files_and_names_that_transformers_4_reads(tmp_path: Path) -> None:
    model = text_model(1, "text", "model.unet.input_layout=sd")
    save_model(model, tmp_path / "model")
    names = {path.name for path in (tmp_path / "model" / "tokenizer").iterdir()}
    assert names == {"vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"}
    with safe_open(tmp_path / "model/text_encoder/model.safetensors", framework="pt") as file:
        assert all(name.startswith("text_model.") for name in file.keys())  # noqa: SIM118 - not a dict
        assert "text_model.embeddings.position_ids" not in file.keys()  # noqa: SIM118 - not a dict
    index = read_json(tmp_path / "model/model_index.json")
    assert index["_class_name"] == "StableDiffusionInpaintPipeline"
    assert index["text_encoder"] == ["transformers", "CLIPTextModel"]
    assert read_json(tmp_path / "model/intarsia.json") == {
        "condition": "text",
        "unet": {"input_layout": "sd"},
    }
    again = read_model(tmp_path / "model")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    assert again.tokenizer.digest == model.tokenizer.digest


@pytest.mark.parametrize("options", [["text"], ["both"], ["both", "model.unet.input_layout=sd"]])
def test_what_diffusers_would_misunderstand_it_refuses(options: list[str], tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    model = text_model(1, *options)
    save_model(model, tmp_path / "model")
    with pytest.raises(Exception, match=r"intarsia|PaintByExample"):
        DiffusionPipeline.from_pretrained(tmp_path / "model")
    again = read_model(tmp_path / "model")
    assert again.config.parts == model.config.parts
    assert again.config.unet == model.config.unet
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


def test_only_the_towers_that_a_condition_names_are_built() -> None:
    built = {
        condition: {name.partition(".")[0] for name, _ in text_model(0, condition).named_parameters()}
        for condition in ("text", "both")
    }
    assert built["text"] == {"unet", "vae", "text_encoder"}
    assert built["both"] == built["text"] | {"image_encoder", "exemplar_encoder"}
    plain, both = (build_model(tiny_config(*more), 4) for more in ((), ("model.condition=both", TEXT)))
    assert all(torch.equal(value, both.state_dict()[name]) for name, value in plain.state_dict().items())


def test_a_single_file_gives_the_tower_and_needs_a_vocabulary(tmp_path: Path) -> None:
    folder = make_stable_diffusion(tmp_path)
    tower = CLIPTextModel.from_pretrained(folder / "text_encoder").state_dict()
    prefix = "cond_stage_model.transformer.text_model."
    text = {prefix + name.removeprefix("text_model."): value for name, value in tower.items()}
    first = started(f"model.init.stable_diffusion={folder}")
    state = original_of(folder) | text
    save_file(state, tmp_path / "sd.safetensors")
    file = f"model.init.stable_diffusion={tmp_path / 'sd.safetensors'}"
    second = started(file, f"model.init.tokenizer={folder / 'tokenizer'}")
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert torch.equal(first.encode_text(["a dog"]), second.encode_text(["a dog"]))
    with pytest.raises(
        UserError, match=r"sd.safetensors has no vocabulary for prompts; add model.init.token"
    ):
        started(file)
    save_file(original_of(folder), tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="contains no CLIP text tower"):
        started(f"model.init.stable_diffusion={tmp_path / 'none.safetensors'}")
    two = {"cond_stage_model.model.token_embedding.weight": torch.zeros(2, 2)}
    save_file(original_of(folder) | two, tmp_path / "two.safetensors")
    with pytest.raises(
        UserError, match=r"single file of Stable Diffusion 2, .* give its folder in diffusers"
    ):
        started(f"model.init.stable_diffusion={tmp_path / 'two.safetensors'}")


def started(*overrides: str) -> object:
    return build_model(tiny_config("model.condition=text", TEXT, *overrides), 0)


def original_of(folder: Path) -> dict[str, torch.Tensor]:
    """UNet and autoencoder of a folder under the original authors' names."""
    from intarsia.original import to_original

    whole = build_model(tiny_config(f"model.init.stable_diffusion={folder}"), 0)
    state = to_original(whole)
    name = "model.diffusion_model.input_blocks.0.0.weight"
    state[name] = state[name][:, :4]
    return {k: v.contiguous() for k, v in state.items() if k.startswith(("model.", "first_stage_model."))}


def test_what_cannot_be_is_refused_in_a_sentence(tmp_path: Path) -> None:
    def refused(*overrides: str) -> str:
        with pytest.raises(UsageError) as error:
            tiny_config(*overrides)
        return str(error.value)

    assert "text_encoder.hidden_size=768 must equal unet.cross_attention_dim=32" in refused(
        "model.condition=text"
    )
    assert "text_encoder has no effect with condition=exemplar; remove it" in refused(TEXT)
    assert "exemplar has no effect with condition=text" in refused(
        "model.condition=text", TEXT, "model.exemplar.tokens=patches"
    )
    assert "init.tokenizer has no effect with condition=exemplar" in refused("model.init.tokenizer=x")
    assert "init.image_encoder has no effect with condition=text" in refused(
        "model.condition=text", TEXT, "model.init.image_encoder=x"
    )
    assert "input_layout=sd orders input channels that a UNet" in refused(
        "model.unet.in_channels=4", "model.unet.input_layout=sd"
    )
    large = {**json.loads(TEXT.partition("=")[2]), "vocab_size": 600}
    with pytest.raises(UserError, match="the model config has no vocabulary for prompts"):
        build_model(tiny_config("model.condition=text", f"model.text_encoder={json.dumps(large)}"), 0)
    bytes_tokenizer().save(tmp_path, LENGTH)
    small = f"model.text_encoder={json.dumps(large | {'vocab_size': 500})}"
    with pytest.raises(UserError, match=r"has 514 tokens, model.text_encoder.vocab_size is 500; they must"):
        build_model(tiny_config("model.condition=text", small, f"model.init.tokenizer={tmp_path}"), 0)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(UserError, match=r"is not CLIP's: it has no <\|startoftext\|>"):
        read_tokenizer(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer: no vocab.json with merges.txt"):
        read_tokenizer(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(UserError, match="contains a FluxPipeline, not an editing model"):
        read_model(tmp_path)

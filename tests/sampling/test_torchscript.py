"""The painters of TorchScript files, by tiny networks of the same signature whose answers are known."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from intarsia.files import sha256_file
from sampling.canvas.edits import EditRequest
from sampling.cli import main as sample
from sampling.painters.manga import grey_of
from sampling.painters.painter import painter_of
from sampling.provenance import read_provenance
from sampling.settings import EditSettings, MachineSettings
from tests.sampling.painter_weights import MangaDraws, make_lama, make_manga, scripted
from tests.sampling.tiny import request

CPU = MachineSettings(device="cpu")


@pytest.fixture
def lama(tmp_path: Path) -> Path:
    return make_lama(tmp_path)


@pytest.fixture
def manga(tmp_path: Path) -> Path:
    return make_manga(tmp_path)


def painted(name: str, model: Path, asked: EditRequest, **settings: object) -> np.ndarray:
    paint = painter_of(name).open(model, CPU)
    [result] = paint([asked], EditSettings(composite=False, **settings))
    return result.image


def test_lama_gets_the_padded_picture_and_gives_truncated_levels(lama: Path) -> None:
    asked = request(1, 91, 70)
    made = painted("lama", lama, asked)
    pixels = torch.from_numpy(asked.image).float() / 255
    red = ((pixels[..., 0] + 0.001) * 255).clamp(0, 255).to(torch.uint8).numpy()
    assert (made[..., 0] == red).all()
    assert (made[..., 1] == np.where(asked.edit_mask, 255, 0)).all()
    assert (made[..., 2] == int((72 * 0.001 + 96 * 0.000001) * 255)).all()


def test_lama_sees_what_continues_the_picture_by_reflection(tmp_path: Path) -> None:
    class Last(nn.Module):
        """The last row and column of what it gets, everywhere."""

        def forward(self, image: Tensor, mask: Tensor) -> Tensor:
            return image[:, :, -1:, -1:].expand_as(image) + 0.001

    asked = request(1, 91, 70)
    made = painted("lama", scripted(Last(), tmp_path / "last.pt"), asked)
    # 70 rows become 72 and 91 columns 96: two and five pixels beyond the edge are the last but one and four.
    assert (made == asked.image[70 - 2, 91 - 5]).all()


def test_a_large_picture_is_seen_around_its_mask(lama: Path) -> None:
    asked = request(1, 1800, 900)
    mask = np.zeros((900, 1800), bool)
    mask[500:530, 900:960] = True
    near = EditRequest(asked.image, mask)
    for fit, height, width in (("auto", 400, 400), ("resize", 904, 1800)):
        paint = painter_of("lama").open(lama, CPU)
        [result] = paint([near], EditSettings(fit=fit))
        value = int((height * 0.001 + width * 0.000001) * 255)
        assert (result.image[mask][:, 2] == value).all()
        assert (result.image[~mask] == asked.image[~mask]).all()
        assert result.window.width == min(width, 1800)


def test_a_huge_picture_is_painted_smaller_with_a_note(lama: Path) -> None:
    image = np.full((8, 4100, 3), 90, np.uint8)
    mask = np.zeros((8, 4100), bool)
    mask[2:6, 5:4090] = True
    [result] = painter_of("lama").open(lama, CPU)([EditRequest(image, mask)], EditSettings())
    assert (result.image[mask][:, 1] > 200).all()  # all but the rings of enlarging is 255
    assert (result.image[~mask] == 90).all()
    assert "lama saw 4100 x 8 pixels at 2048 x 4" in result.remarks[0]


def test_manga_gets_grey_lines_mask_noise_and_ones(manga: Path) -> None:
    asked = request(1, 91, 70)
    made = painted("manga", manga, asked)
    grey = np.pad(cv2.cvtColor(asked.image, cv2.COLOR_RGB2GRAY), ((0, 10), (0, 5)), mode="symmetric")
    levels = torch.from_numpy(grey).float()[None, None]
    mask = torch.from_numpy(np.pad(asked.edit_mask, ((0, 10), (0, 5)), mode="symmetric")).float()[None, None]
    noise = torch.randn(mask.shape, generator=torch.Generator().manual_seed(42 + asked.seed))
    lines = (levels * 4 - 300).clamp(0, 255)
    drawn = MangaDraws()(levels / 255 * 2 - 1, lines / 255 * 2 - 1, mask, noise, torch.ones_like(mask))
    expected = (drawn * 127.5 + 127.5).to(torch.uint8)[0, 0, :70, :91].numpy()
    assert (made == expected[..., None]).all()
    assert (made != painted("manga", manga, EditRequest(asked.image, asked.edit_mask, seed=9))).any()


def test_grey_is_opencvs() -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    assert (grey_of(image) == cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)).all()


def test_the_hash_of_the_file_is_in_the_result(lama: Path, tmp_path: Path) -> None:
    asked = request(3, 90, 70)
    Image.fromarray(asked.image).save(tmp_path / "image.png")
    Image.fromarray(np.asarray(asked.edit_mask)).save(tmp_path / "mask.png")
    files = ["--image", str(tmp_path / "image.png"), "--mask", str(tmp_path / "mask.png")]
    outs = [tmp_path / "named.png", tmp_path / "found.png"]
    for model, out in ((["--model", f"lama:{lama}"], outs[0]), (["--model", "lama"], outs[1])):
        command = ["edit", *model, *files, "--out", str(out), "--device", "cpu"]
        assert sample([*command, "--model-dir", str(tmp_path)]) == 0
        noted = read_provenance(out)
        assert (noted.painter, noted.model.path, noted.model.sha256) == ("lama", str(lama), sha256_file(lama))
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_wrong_files(lama: Path, manga: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": torch.ones(3)}, tmp_path / "weights.pt")
    whole = lama.read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (64, 64)).save(tmp_path / "image.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "mask.png")
    said = {
        "lama": "lama needs its weights: give --model lama:FILE, or --model-dir DIR with big-lama.pt in it",
        f"lama:{tmp_path}/none.pt": f"{tmp_path}/none.pt does not exist; give the TorchScript file",
        f"lama:{tmp_path}/weights.pt": "is not a TorchScript file, which holds a network with its code",
        f"lama:{tmp_path}/cut.pt": "is not a TorchScript file",
        f"lama:{manga}/manga_inpaintor.jit": "does not take this painter's 2 inputs",
        f"manga:{lama}": "is not a folder; manga needs one with erika.jit and manga_inpaintor.jit",
    }
    files = ["--image", str(tmp_path / "image.png"), "--mask", str(tmp_path / "mask.png")]
    for model, sentence in said.items():
        assert sample(["edit", "--model", model, *files, "--out", str(tmp_path / "out.png")]) in (1, 2)
        shown = capsys.readouterr().err
        assert sentence in shown and shown.count("\n") == 1

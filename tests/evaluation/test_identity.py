"""Identity: vectors are transformers', crops are what the options say, the board's numbers are its own."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from benchmarks.nets import fill, tiny_clip, waves
from evaluation.cli import main
from evaluation.measures import resizing, vision
from evaluation.measures.metrics import cosine
from evaluation.metrics.board import foregrounds, small_crop
from evaluation.reports.published import published_rows
from evaluation.scoring import scoring
from evaluation.scoring.report import read_report
from intarsia.errors import UserError
from tests.closeness import relative_error, rounding
from tests.evaluation.exemplar_bench import write_bench, write_results, write_weights

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "layer_norm_eps": 1e-6}
RECORDED = json.loads(Path(__file__).with_name("peers.json").read_text())


def write_vision(folder: Path, pooler: bool = False) -> Path:
    """Random DINO and DINOv2 of the Hub's layout, the latter with positions for 518 pixels."""
    for name, patch in (("dinov2-base", 14), ("dinov2-large", 14)):
        model = Dinov2Model(Dinov2Config(**TINY, image_size=518, patch_size=patch, mlp_ratio=2))
        fill(model, seed=len(name))
        model.save_pretrained(folder / name)
    vit = ViTModel(ViTConfig(**TINY, intermediate_size=64, patch_size=16), add_pooling_layer=pooler)
    fill(vit)
    vit.save_pretrained(folder / "dino-vits16")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_weights(tmp_path_factory.mktemp("weights"))
    tiny_clip(folder / "clip-vit-large-patch14", seed=1)
    return write_vision(folder)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bench, results, and masks of the objects: ellipses in the results, the left half of exemplars."""
    folder = tmp_path_factory.mktemp("identity")
    write_bench(folder / "bench", count=4)
    write_results(folder / "bench", folder / "results", 5)
    for result in sorted((folder / "results").glob("*.png")):
        edited = np.asarray(Image.open(folder / f"bench/Mask_bbox_3500/{result.stem}_mask.png"))
        rows, columns = np.indices(edited.shape)
        write_mask(folder / f"sam/{result.stem}.png", edited & ((rows + columns) % 7 > 1))
        exemplar = Image.open(folder / f"bench/Ref_3500/{result.stem}_ref.png")
        half = np.indices(exemplar.size[::-1])[1] < exemplar.width // 2
        write_mask(folder / f"ref/{result.stem}_ref.png", half)
    return folder


def write_mask(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray((mask * 255).astype(np.uint8)).save(path)


def run(bench: Path, weights: Path, *more: str, out: Path) -> int:
    given = ["--results", str(bench / "results"), "--weights", str(weights), "--device", "cpu"]
    store = ["--store", str(out / "store"), "--out", str(out), "--without", "inception"]
    names = ["--without", "quality"]
    return main(["cocoee", "--bench", str(bench / "bench"), *given, *store, *names, *more])


def with_(*names: str) -> list[str]:
    return [word for name in names for word in ("--with", name)]


@pytest.mark.parametrize(
    ("name", "folder", "kind"),
    [
        ("dino-s16", "dino-vits16", ViTModel),
        ("dinov2-b14", "dinov2-base", Dinov2Model),
        ("dinov2-l14", "dinov2-large", Dinov2Model),
    ],
)
def test_vectors_are_transformers(weights, name, folder, kind) -> None:
    encoder = vision.identity_encoder(name, {"folder": weights})
    picture = waves(2, 90, 130)
    ours = encoder.network.run(encoder.square(picture)[None])[0]
    peer = kind.from_pretrained(weights / folder).eval()
    pixels = ViTImageProcessor(resample=3, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])(
        Image.fromarray(picture), return_tensors="pt"
    )["pixel_values"]
    with torch.no_grad():
        theirs = peer(pixel_values=pixels).last_hidden_state[0, 0].numpy()
    assert relative_error(ours, theirs) < 40 * rounding(1024)


def test_dino_of_a_folder_without_weights_is_refused(weights, tmp_path) -> None:
    vit = ViTModel(ViTConfig(**TINY, intermediate_size=64, patch_size=16), add_pooling_layer=False)
    state = {name: value for name, value in vit.state_dict().items() if "layers.1." not in name}
    vit.save_pretrained(tmp_path / "dino", state_dict=state)
    with pytest.raises(UserError, match=r"lacks \d+ weights \(first .*; give a whole folder"):
        vision.identity_encoder("dino-s16", {"dino-s16": tmp_path / "dino"})


def test_columns_of_a_bench_are_cosines_of_the_box_and_the_exemplar(bench, weights, tmp_path) -> None:
    names = ["clip-i-b32", "clip-i-l14", "dino-s16", "dinov2-b14", "dinov2-l14"]
    assert run(bench, weights, *with_(*names), out=tmp_path) == 0
    report = read_report(tmp_path)
    columns = {column.name: column for column in report.columns}
    encoder = vision.identity_encoder("dinov2-b14", {"folder": weights})
    for key, row in report.rows.items():
        result = np.asarray(Image.open(bench / f"results/{key}.png"))
        mask = np.asarray(Image.open(bench / f"bench/Mask_bbox_3500/{key}_mask.png")) > 0
        rows, places = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        crop = result[rows[0] : rows[-1] + 1, places[0] : places[-1] + 1]
        exemplar = np.asarray(Image.open(bench / f"bench/Ref_3500/{key}_ref.png"))
        pair = encoder.network.run(
            np.stack([encoder.square(np.ascontiguousarray(p)) for p in (crop, exemplar)])
        )
        assert row["dinov2_b14"] == pytest.approx(100 * float(cosine(*pair)), abs=1e-3)
        # CLIP-I of ViT-B/32 over the box is what the bench calls its CLIP score of the box.
        assert row["clip_i_b32"] == pytest.approx(row["clip_score_box"], abs=1e-3)
    assert columns["dinov2_b14"].method == (
        "identity/dinov2-b14/mask-box-square224/v1 and dinov2-b14/square224/v1"
    )
    assert "dino_s16" in columns
    assert "clip_i_l14" in columns


def test_all_networks_share_one_decode(bench, weights, tmp_path, monkeypatch) -> None:
    decoded: Counter = Counter()
    read_file = scoring.read_picture
    monkeypatch.setattr(scoring, "read_picture", lambda path: decoded.update([path]) or read_file(path))
    assert run(bench, weights, *with_("clip-i-l14", "dino-s16", "dinov2-b14"), out=tmp_path) == 0
    assert set(decoded.values()) == {1}
    assert len(decoded) == 12


def test_what_is_blanked_does_not_count_and_is_in_the_recipe(bench, weights, tmp_path) -> None:
    """Pixels outside of the object masks are changed: the blanked number stays, the kept one does not."""
    changed = tmp_path / "changed"
    rng = np.random.default_rng(0)
    for place, masks, ending in (("results", "sam", ""), ("bench/Ref_3500", "ref", "_ref")):
        for path in sorted((bench / place).glob("*.png")):
            mask = np.asarray(Image.open(bench / masks / f"{path.stem.removesuffix('_ref')}{ending}.png")) > 0
            pixels = np.array(Image.open(path).convert("RGB"))
            pixels[~mask] = rng.integers(0, 256, (int((~mask).sum()), 3))
            (changed / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(changed / place / path.name)
    for name in ("GT_3500", "Mask_bbox_3500", "id_list.npy"):
        (changed / "bench" / name).symlink_to(bench / "bench" / name)
    masks = ["--result-masks", str(bench / "sam"), "--exemplar-masks", str(bench / "ref")]
    blank = [
        "--identity-region",
        "object",
        "--identity-exemplar",
        "cut-out",
        "--identity-background",
        "blank",
    ]
    kept = ["--identity-region", "object", "--identity-exemplar", "cut-out"]
    values, recipes = {}, set()
    for name, options in (("blank", blank), ("kept", kept)):
        for where in (bench, changed):
            out = tmp_path / f"{name}-{where.name}"
            assert run(where, weights, *with_("dinov2-b14"), *masks, *options, out=out) == 0
            report = read_report(out)
            values[name, where.name] = list(report.values("dinov2_b14").values())
            recipes.add(next(c.recipe for c in report.columns if c.name == "dinov2_b14"))
    assert values["blank", bench.name] == pytest.approx(values["blank", "changed"], abs=1e-6)
    assert values["kept", bench.name] != pytest.approx(values["kept", "changed"], abs=1e-2)
    assert len(recipes) == 2
    assert any(
        "object-on-black-square224/v1" in recipe and "cut-out-square224/v1" in recipe for recipe in recipes
    )


def test_masks_that_are_missing_are_named(bench, weights, tmp_path, capsys) -> None:
    asked = [*with_("dino-s16"), "--identity-exemplar", "cut-out"]
    assert run(bench, weights, *asked, out=tmp_path) == 1
    assert "case 000000000007 has no exemplar mask; give --exemplar-masks DIR" in capsys.readouterr().err
    assert run(bench, weights, *asked, "--exemplar-masks", str(bench / "results"), out=tmp_path / "b") == 1
    assert "the mask is 64 x 64 pixels and a picture 50 x 40, not alike" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert run(bench, weights, *asked, "--exemplar-masks", str(tmp_path / "none"), out=tmp_path) == 1
    assert (
        "has no mask of case 000000000007; --exemplar-masks needs 000000000007.png" in capsys.readouterr().err
    )


class Distance(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).abs().mean((1, 2, 3))


def test_dreamsim_is_a_file_of_the_user(bench, weights, tmp_path, capsys) -> None:
    asked = with_("dreamsim")
    assert run(bench, weights, *asked, out=tmp_path / "a") == 1
    assert "DreamSim as TorchScript" in capsys.readouterr().err
    file = tmp_path / "dreamsim.pt"
    torch.jit.script(Distance()).save(str(file))
    assert run(bench, weights, *asked, "--weights", f"dreamsim={file}", out=tmp_path / "a") == 0
    report = read_report(tmp_path / "a")
    key, row = next(iter(report.rows.items()))
    result = np.asarray(Image.open(bench / f"results/{key}.png"))
    mask = np.asarray(Image.open(bench / f"bench/Mask_bbox_3500/{key}_mask.png")) > 0
    pair = resizing.crop(result, mask), np.asarray(Image.open(bench / f"bench/Ref_3500/{key}_ref.png"))
    squares = [
        np.asarray(Image.fromarray(p).resize((224, 224), Image.Resampling.BICUBIC)) / 255 for p in pair
    ]
    assert row["dreamsim"] == pytest.approx(100 * np.abs(squares[0] - squares[1]).mean(), rel=1e-4)
    file.write_bytes(b"no network")
    assert run(bench, weights, *asked, "--weights", f"dreamsim={file}", out=tmp_path / "b") == 1
    assert "is not a TorchScript of two batches of pictures" in capsys.readouterr().err


def test_the_command_of_two_folders(bench, weights, tmp_path, capsys) -> None:
    exemplars = tmp_path / "exemplars"
    exemplars.mkdir()
    for path in sorted((bench / "results").glob("*.png"))[:3]:
        (exemplars / path.name).write_bytes(path.read_bytes())
    words = ["identity", "--exemplars", str(exemplars), "--results", str(bench / "results")]
    words += ["--weights", str(weights), "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    assert main([*words, "--device", "cpu"]) == 0
    report = read_report(tmp_path / "out")
    assert [column.name for column in report.columns] == [
        "clip_i_b32",
        "clip_i_l14",
        "dino_s16",
        "dinov2_b14",
        "dinov2_l14",
    ]
    assert all(value == pytest.approx(100) for row in report.rows.values() for value in row.values())
    assert "identity to exemplars" in capsys.readouterr().out


def test_a_command_without_any_number_is_refused(bench, tmp_path, capsys) -> None:
    words = ["identity", "--exemplars", str(bench / "results"), "--results", str(bench / "results")]
    for name in ("clip-i-b32", "clip-i-l14", "dino-s16", "dinov2-b14", "dinov2-l14"):
        words += ["--without", name]
    assert main([*words, "--out", str(tmp_path / "out"), "--store", str(tmp_path / "store")]) == 2
    assert "no number is left to compute; omit one --without" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# -- the board ------------------------------------------------------------------------------------------


def by_hand(bench: Path, key: str) -> list[Image.Image]:
    """The two pictures as facts of the board's code have them, by Pillow and numpy alone."""
    result = np.asarray(Image.open(bench / f"results/{key}.png").convert("RGB"))
    box = np.argwhere(np.asarray(Image.open(bench / f"bench/Mask_bbox_3500/{key}_mask.png")) > 0)
    (y1, x1), (y2, x2) = box.min(0), box.max(0)
    sam = np.asarray(Image.open(bench / f"sam/{key}.png").convert("L"))
    own = np.where((sam > 127)[..., None], result, 0)[y1 : y2 + 1, x1 : x2 + 1]
    size = (int(x2 + 1 - x1), int(y2 + 1 - y1))
    exemplar = np.asarray(Image.open(bench / f"bench/Ref_3500/{key}_ref.png").convert("RGB").resize(size))
    mask = np.asarray(Image.open(bench / f"ref/{key}_ref.png").convert("L").resize(size)) > 127
    return [Image.fromarray(own.astype(np.uint8)), Image.fromarray(np.where(mask[..., None], exemplar, 0))]


def test_the_boards_numbers_are_those_of_its_code(bench, weights, tmp_path, capsys) -> None:
    masks = ["--result-masks", str(bench / "sam"), "--exemplar-masks", str(bench / "ref")]
    pooled = write_vision(tmp_path / "pooled", pooler=True) / "dino-vits16"
    asked = [*with_("board-clip", "board-dino", "board-fid"), *masks]
    assert run(bench, weights, *asked, "--weights", f"dino-s16={pooled}", out=tmp_path / "a") == 0
    report = read_report(tmp_path / "a")
    clip = CLIPModel.from_pretrained(weights / "clip-vit-base-patch32").eval()
    dino = ViTModel.from_pretrained(pooled).eval()
    process = ViTImageProcessor(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
    for key, row in report.rows.items():
        pair = by_hand(bench, key)
        small = [picture.resize((224, 224)) for picture in pair]
        pixels = CLIPImageProcessor(do_resize=False, do_center_crop=False)(small, return_tensors="pt")
        with torch.no_grad():
            found = clip.visual_projection(clip.vision_model(**pixels).pooler_output)
            tokens = dino(**process(pair, return_tensors="pt")).pooler_output
        for name, vectors in (("clip_fg", found), ("dino_fg", tokens)):
            wanted = 100 * torch.nn.functional.cosine_similarity(*vectors, dim=0)
            assert row[name] == pytest.approx(float(wanted), abs=2e-3)
    methods = published_rows("COCOEE")[1].methods
    columns = {c.name: c for c in (*report.columns, *(figure.column for figure in report.figures))}
    for name in ("clip_fg", "dino_fg", "fid_fg"):
        assert columns[name].method.replace("4 pictures", "3,500 pictures") == methods[name]
    capsys.readouterr()
    assert run(bench, weights, *asked, out=tmp_path / "b") == 0
    told = capsys.readouterr().out
    assert "DINO_fg is of the class token: these weights have no pooler" in told
    column = next(c for c in read_report(tmp_path / "b").columns if c.name == "dino_fg")
    assert column.method != methods["dino_fg"]  # so it is marked ≠ beside the published rows
    assert "Paint by Example (board)" in told


def test_foregrounds_and_small_crops_in_closed_form() -> None:
    result = np.full((64, 64, 3), 200, np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[8:24, 16:48] = True
    sam = np.zeros((64, 64, 3), np.uint8)
    sam[8:24, 16:32] = 255
    exemplar, whole = np.full((30, 20, 3), 90, np.uint8), np.full((30, 20, 3), 255, np.uint8)
    own, theirs = foregrounds(result, sam, exemplar, whole, mask)
    assert own.shape == theirs.shape == (16, 32, 3)
    assert (own[:, :16] == 200).all()
    assert (own[:, 16:] == 0).all()
    assert (theirs == 90).all()
    assert (small_crop(result, mask) == 200).all()
    assert small_crop(result, mask).shape == (224, 224, 3)
    with pytest.raises(ValueError, match="not alike"):
        foregrounds(result, sam[:32], exemplar, whole, mask)


@pytest.mark.portable
@pytest.mark.parametrize("size", [(120, 160), (400, 310)])
def test_clean_resizing_gives_what_the_package_gave(size) -> None:
    ours = resizing.inception_clean(waves(5, *size)).ravel()[::9973]
    assert relative_error(ours, np.array(RECORDED[f"clean-{size[0]}"])) < 40 * rounding(1)
    assert relative_error(resizing.inception_bilinear(waves(5, *size)).ravel()[::9973], ours) > 1e-3

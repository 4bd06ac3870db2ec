"""A tiny shard folder of synthetic samples, and the overrides of a run that is over in seconds."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataprep.plan.inputs import BuildRequest
from dataprep.plan.plan import BuildConfig
from intarsia.boxes import Box
from intarsia.files import sha256_file
from intarsia.sample import LabelledBox, Sample, SampleMeta, encode_sample
from tests.closeness import rounding
from tests.dataprep.sequences import make_davis
from tests.dataprep.test_shards import build_alone

SIZE = 32


def make_sample(number: int, size: int = SIZE) -> Sample:
    rng = np.random.default_rng(number)
    x0, y0 = (int(v) for v in rng.integers(0, size // 2, 2))
    x1, y1 = x0 + size // 3, y0 + size // 3
    image = np.full((size, size, 3), rng.integers(0, 255, 3), dtype=np.uint8)
    colour = rng.integers(0, 255, 3, dtype=np.uint8)
    image[y0:y1, x0:x1] = colour
    edit_mask = np.zeros((size, size), dtype=np.uint8)
    edit_mask[y0:y1, x0:x1] = 255
    whole, box = Box(0, 0, size, size), Box(x0, y0, x1, y1)
    meta = SampleMeta(
        key=f"s{number:05d}",
        source="coco",
        image_id=str(number),
        file=f"{number}.jpg",
        image_size=(size, size),
        source_bytes=0,
        source_sha256="",
        boxes=(LabelledBox(box, "square"),),
        box=box,
        label="square",
        extended=box,
        window=whole,
        squashed=False,
        mask_kind="box",
        polygon=(),
        augmentation={},
        seed=0,
        draw=0,
    )
    return Sample(image, edit_mask, np.full((224, 224, 3), colour, dtype=np.uint8), meta)


def make_shards(folder: Path, counts: tuple[int, ...] = (5, 4, 7), size: int = SIZE) -> Path:
    """Shards with `counts` samples, keys s00000, s00001, … in order, and the manifest the loader reads."""
    numbers = iter(range(sum(counts)))
    return write_shards(folder, [[make_sample(next(numbers), size) for _ in range(n)] for n in counts])


def make_video_shards(folder: Path) -> Path:
    """A shard folder of whole pictures in pairs: each sample holds five frames of one object."""
    videos = make_davis(folder / "videos")
    options = {"min_gap": 2, "min_area": 0.0, "min_side": 4, "draws_per_image": 3}
    config = BuildConfig(source="video", name="video", profile="source", **options)
    build_alone(BuildRequest(config, {"videos": videos}, videos, folder / "shards"))
    return folder / "shards"


def write_shards(folder: Path, shards: Sequence[Sequence[Sample]], profile: str = "tuple") -> Path:
    """A finished shard folder with these samples, so far as the loader looks at it."""
    folder.mkdir(parents=True)
    shardlist = []
    for index, samples in enumerate(shards):
        path = folder / f"toy-train-{index:06d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in samples:
                for suffix, content in encode_sample(sample).items():
                    member = tarfile.TarInfo(f"{sample.meta.key}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        size, sha256 = path.stat().st_size, sha256_file(path)
        shardlist.append({"url": path.name, "nsamples": len(samples), "filesize": size, "sha256": sha256})
    (folder / "manifest.json").write_text(
        json.dumps({"format_version": 1, "shardlist": shardlist, "config": {"profile": profile}})
    )
    return folder


# A model of some 60,000 trained parameters: every kind of layer once. eps lies above the rounding of
# gradients; with Adam's usual 1e-8, an element whose gradient is 4e-9, mere rounding, moves by a tenth of
# the learning rate.
TINY = """\
seed: 3
model:
  image_size: 32
  unet:
    block_out_channels: [8, 16]
    down_block_types: [DownBlock2D, CrossAttnDownBlock2D]
    layers_per_block: 1
    cross_attention_dim: 8
    attention_head_dim: 2
    norm_num_groups: 4
  vae:
    block_out_channels: [8, 8]
    layers_per_block: 1
    norm_num_groups: 4
  image_encoder:
    hidden_size: 16
    intermediate_size: 16
    num_hidden_layers: 5
    num_attention_heads: 2
    image_size: 32
    patch_size: 8
data: {num_workers: 0, window_shards: 2}
optimizer: {lr: 1.0e-3, eps: 1.0e-4, warmup_steps: 0, ema_decay: 0.9}
micro_batch_size: 4
max_steps: 4
log_every: 1
checkpoint: {every_steps: 2}
preview: {every_steps: 0}
tracker: {wandb: "off"}
"""


LR = 1e-3  # the most that one update moves a weight by
SAME_LOSS = rounding(32 * 9)  # terms of the longest sum in the UNet: channels × pixels of a kernel


def write_config(folder: Path, text: str = TINY) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path

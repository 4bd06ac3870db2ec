"""Feature networks: CLIP, FID's Inception, DINO, LPIPS; each gives measures with a recipe.

Weights are found by `weights.find_weights` and never fetched. With `kept`, a store of values, a network is
loaded when it is first needed, if its fingerprint is known. Networks run in float32 without TF32, which
would make a number depend on the GPU's generation; a batch's size moves features by about 1e-7.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.measures import resizing
from evaluation.measures.dino import load_dino
from evaluation.measures.hub_folders import (
    fingerprint_network,
    hash_files,
    is_published_clip,
    load_clip,
    read_tokens,
    tokenizer_files,
)
from evaluation.measures.inception import load_inception
from evaluation.measures.lpips import Lpips, Net, load_lpips
from evaluation.measures.measures import Feed, Measure, Network, Prepare, Region, in_region, region_of
from evaluation.measures.metrics import Mask, Picture, check_sizes, structure_distance
from evaluation.measures.weights import (
    UNLISTED,
    Kept,
    fact_of,
    find_weights,
    fingerprint_weights,
    is_published,
)
from intarsia.pretrained import State, read_weights, weights_file

Given: TypeAlias = Mapping[str, Path]  # weights by name, as `weights.parse_weights` makes it
Device: TypeAlias = torch.device | str


@dataclass(frozen=True)
class Clip:
    """A CLIP model's two halves.

    Attributes:
        images: normalised pictures [B, 3, S, S] -> features [B, D].
        texts: descriptions -> features float32 [N, D].
        size: S, pixels.
        width: D.
    """

    images: Network
    texts: Callable[[Sequence[str]], NDArray[np.float32]]
    size: int
    width: int

    @property
    def whole(self) -> Measure:
        """Features [D] of the whole picture with CLIP's own preprocessing: `bicubic224`."""
        how = f"bicubic{self.size}"
        return self._measure(how, lambda picture: resizing.clip_bicubic(picture, self.size), self.images)

    @property
    def of_squares(self) -> Network:
        """The network of the pictures that are squashed to 224 × 224.

        Raises:
            UserError: if it takes pictures of another size.
        """
        resizing.check_side(self.images.name, self.size)
        return self.images

    @property
    def exemplar(self) -> Measure:
        """Features [D] of an exemplar, squashed to a square: `square224`."""
        return self._measure("square224", resizing.clip_square, self.of_squares)

    def region(self, kind: Literal["pbe", "bbox"]) -> Measure:
        """Features [D] of the masked part: `pbe` as published, `bbox` right for any mask."""
        if kind == "pbe":
            return self._measure("pbe-region224", resizing.clip_pbe_region, self.of_squares)
        return self._measure("box224", resizing.clip_box, self.of_squares)

    def _measure(self, how: str, prepare: Prepare, network: Network) -> Measure:
        return Measure(f"{network.name}/{how}/v1", prepare, network)


def clip(
    name: str = "clip-b32", given: Given | None = None, device: Device = "cpu", kept: Kept | None = None
) -> Clip:
    """A CLIP model of transformers' layout (`config.json`, weights, tokenizer).

    Raises:
        UserError: if it is not found, or lacks weights.
    """
    folder = find_weights(name, given)
    file = weights_file(folder, "model", "pytorch_model")
    loaded = cache(lambda: load_clip(folder, file))
    model = cache(lambda: loaded().model.to(device))
    words = tokenizer_files(folder)

    def described() -> str:
        weights, fields = loaded().weights, loaded().fields
        own = fingerprint_network(weights, fields, hash_files(words))
        kind = "published" if is_published_clip(name, fields, folder) else "own"
        return f"{weights} {own} {fields['vision']['image_size']} {fields['projection_dim']} {kind}"

    what = "+".join([f"{name}/v2", *(path.name for path in words)])
    found = fact_of(what, [file, folder / "config.json", *words], described, kept)
    weights, own, size, width, kind = found.split(" ")
    listed = kind == "published" and is_published(name, file, kept)
    fingerprint = weights if listed else UNLISTED + own

    def images(pixels: Tensor) -> Tensor:
        return model().visual_projection(model().vision_model(pixel_values=pixels).pooler_output)

    def texts(descriptions: Sequence[str]) -> NDArray[np.float32]:
        longest = model().config.text_config.max_position_embeddings
        tokens = read_tokens(folder, descriptions, longest).to(device)
        with torch.inference_mode():
            return model().text_projection(model().text_model(**tokens).pooler_output).cpu().numpy()

    return Clip(Network(name, fingerprint, runner(images, device)), texts, int(size), int(width))


def inception(given: Given | None = None, device: Device = "cpu", kept: Kept | None = None) -> Measure:
    """FID's features [2048] of a picture: `bilinear299`, as pytorch-fid has them.

    Raises:
        UserError: if the weights are not found, or are of another network.
    """
    path = find_weights("inception", given)
    module = cache(lambda: load_inception(read_weights(path), str(path)).to(device))
    fingerprint = fingerprint_files(lambda: module().state_dict(), {"inception": path}, kept)
    network = Network("inception", fingerprint, runner(lambda x: module()(x), device))
    return Measure("inception/bilinear299/v1", resizing.inception_bilinear, network)


def clean(measure: Measure) -> Measure:
    """Inception's features after clean-fid's resizing: `clean299`."""
    return replace(measure, recipe="inception/clean299/v1", prepare=resizing.inception_clean)


def of_crop(measure: Measure) -> Measure:
    """The same of the mask's bounding box; takes a mask after the picture."""
    what, how, version = measure.recipe.split("/")
    return replace(
        measure,
        recipe=f"{what}/box-{how}/{version}",
        prepare=lambda picture, mask: measure.prepare(resizing.crop(picture, mask)),
    )


def middle512(measure: Measure) -> Measure:
    """The same after short side 512 and the middle square: how Paint by Example looks at test2017."""
    what, how, version = measure.recipe.split("/")
    return replace(
        measure,
        recipe=f"{what}/middle512-{how}/{version}",
        prepare=lambda picture: measure.prepare(resizing.middle_square(picture, 512)),
    )


def structure(
    kind: Feed, given: Given | None = None, device: Device = "cpu", kept: Kept | None = None
) -> Measure:
    """The structure distance of two pictures: keys of DINO ViT-B/8's last block.

    Args:
        kind: `published` feeds the network as PIE-Bench's table was made (values of 0 to 255 into a
            normalisation for 0 to 1); `right` as the network was trained. See `resizing`.
        given: weights by name.
        device: device that computes.
        kept: store of values.

    Raises:
        UserError: if the weights are not found, or are of another network.
    """
    path = find_weights("dino-b8", given)
    file = path if path.is_file() else weights_file(path, "model", "pytorch_model")
    module = cache(lambda: load_dino(read_weights(file), str(file)).to(device))
    resize = resizing.dino_published if kind == "published" else resizing.dino_right
    how = "bilinear224-0to255" if kind == "published" else "antialias224"

    def keys(pairs: Tensor) -> Tensor:
        return module()(pairs.flatten(0, 1)).unflatten(0, (-1, 2))

    fingerprint = fingerprint_files(lambda: module().state_dict(), {"dino-b8": file}, kept)

    return Measure(
        f"structure-dino-b8-key11/{how}/v1",
        lambda a, b: np.stack([resize(a), resize(b)]),
        Network("dino-b8", fingerprint, runner(keys, device)),
        lambda pair: np.asarray(structure_distance(pair[0], pair[1])),
    )


def lpips(
    net: Net,
    region: Region = "whole",
    given: Given | None = None,
    device: Device = "cpu",
    how: Literal["only", "blank"] = "blank",
    kept: Kept | None = None,
) -> Measure:
    """LPIPS of two pictures, version 0.1.

    Args:
        net: backbone.
        region: `whole`, `background` or `edited`.
        given: weights by name.
        device: device that computes.
        how: `blank` = the rest painted black and the mean over everything, as published, so that the
            value grows with its area; `only` = each layer's differences averaged over the region.
        kept: store of values.

    Raises:
        UserError: if the weights are not found, or are of another network.
    """
    backbone, linear = find_weights(net, given), find_weights(f"lpips-{net}", given)

    @cache
    def module() -> Lpips:
        files = read_weights(backbone), read_weights(linear)
        return load_lpips(net, *files, (str(backbone), str(linear))).to(device)

    files = {net: backbone, f"lpips-{net}": linear}
    network = Network(
        f"lpips-{net}",
        fingerprint_files(lambda: module().state_dict(), files, kept),
        runner(
            lambda parts: module()(parts[:, 0], parts[:, 1], *(p[:, :1] for p in parts[:, 2:].unbind(1))),
            device,
        ),
    )
    if region != "whole" and how == "only":
        return Measure(f"lpips-{net}-0.1/{region}-only/v1", _with_region(region), network)
    how_named = region if region == "whole" else f"{region}-blank"
    return Measure(f"lpips-{net}-0.1/{how_named}/v1", in_region(_signed_pair, region), network)


def fingerprint_files(state: Callable[[], State], files: Mapping[str, Path], kept: Kept | None = None) -> str:
    """The fingerprint of weights, marked unless all their files, by name, are published ones.

    Args:
        state: function that loads them.
        files: all their files by name.
        kept: store of values.
    """
    listed = all(is_published(name, file, kept) for name, file in files.items())
    what = f"{'+'.join(files)}/v1"
    found = fact_of(what, list(files.values()), lambda: fingerprint_weights(state()), kept)
    return ("" if listed else UNLISTED) + found


def runner(
    function: Callable[[Tensor], Tensor], device: Device
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The function of arrays that a function of tensors is, in float32 without TF32."""

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        # Flags that are not given here get values of their own; that of `enabled` is False.
        exact = torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False)
        with torch.inference_mode(), exact:
            return function(torch.from_numpy(batch).to(device)).float().cpu().numpy()

    return run


def _with_region(region: Region) -> Prepare:
    def prepare(a: Picture, b: Picture, mask: Mask) -> NDArray[np.float32]:
        check_sizes(mask, a)
        where = np.broadcast_to(region_of(mask, region).astype(np.float32), (1, 3, *mask.shape))
        return np.concatenate([_signed_pair(a, b), where])

    return prepare


def _signed_pair(a: Picture, b: Picture) -> NDArray[np.float32]:
    if a.shape != b.shape:
        raise ValueError(f"the pictures differ in size: {a.shape[1::-1]} and {b.shape[1::-1]}")
    return np.stack([resizing.signed(a), resizing.signed(b)])

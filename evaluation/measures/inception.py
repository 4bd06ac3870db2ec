"""The InceptionV3 of the Fréchet Inception distance (Szegedy et al. 2015; Heusel et al. 2017), up to pool3.

It is TensorFlow's network of 2015-12-05: its average pooling does not count the padding, and its last block
pools by maximum. Parameters have torchvision's names, so that the file `pt_inception-2015-12-05` fits.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from intarsia.errors import UserError
from intarsia.pretrained import State, load_strictly

WIDTH = 2048

# A chain of convolutions: (name, channels, kernel height, kernel width) each; a list of them forks.
Layer = tuple[str, int, int, int]
Chain = list[Layer | list[Layer]]
Pool = Literal["average", "maximum", "stride"]


class Convolution(nn.Module):
    """A convolution without bias, batch normalisation with TensorFlow's epsilon, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int, same: bool) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if same else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H', W']."""
        return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """Parallel chains of convolutions and a pool, with a convolution after it or without.

    With the pool `stride` the block halves the picture: the last convolution of each chain does it too.
    """

    def __init__(self, inputs: int, chains: list[Chain], pool: Pool, pool_width: int = 0) -> None:
        super().__init__()
        self.pool, self.pool_width = pool, pool_width
        self.chains = [[self._add(chain, step, inputs) for step in range(len(chain))] for chain in chains]
        if pool_width:
            self.branch_pool = Convolution(inputs, pool_width, (1, 1), 1, same=True)

    def _add(self, chain: Chain, step: int, inputs: int) -> list[str]:
        if step:
            before = chain[step - 1]
            inputs = before[1] if isinstance(before, tuple) else before[0][1]
        reduces = self.pool == "stride" and step == len(chain) - 1
        here = chain[step]
        layers = [here] if isinstance(here, tuple) else here
        for name, width, *kernel in layers:
            self.add_module(
                name, Convolution(inputs, width, (kernel[0], kernel[1]), 1 + reduces, same=not reduces)
            )
        return [layer[0] for layer in layers]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the chains' channels one after the other, the pool's last."""
        outputs = []
        for chain in self.chains:
            y = x
            for names in chain:
                y = torch.cat([self.get_submodule(name)(y) for name in names], 1)
            outputs.append(y)
        pooled = _pool(x, self.pool)
        return torch.cat([*outputs, self.branch_pool(pooled) if self.pool_width else pooled], 1)


class Inception(nn.Module):
    """Pictures to pool3 features."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, (3, 3), 2, same=False)
        self.Conv2d_2a_3x3 = Convolution(32, 32, (3, 3), 1, same=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, (3, 3), 1, same=True)
        self.Conv2d_3b_1x1 = Convolution(64, 80, (1, 1), 1, same=False)
        self.Conv2d_4a_3x3 = Convolution(80, 192, (3, 3), 1, same=False)
        self.Mixed_5b = Block(192, _squares(), "average", 32)
        self.Mixed_5c = Block(256, _squares(), "average", 64)
        self.Mixed_5d = Block(288, _squares(), "average", 64)
        self.Mixed_6a = Block(288, [[("branch3x3", 384, 3, 3)], _double(64, 96)], "stride")
        self.Mixed_6b = Block(768, _crosses(128), "average", 192)
        self.Mixed_6c = Block(768, _crosses(160), "average", 192)
        self.Mixed_6d = Block(768, _crosses(160), "average", 192)
        self.Mixed_6e = Block(768, _crosses(192), "average", 192)
        self.Mixed_7a = Block(768, _reduction(), "stride")
        self.Mixed_7b = Block(1280, _forks(), "average", 192)
        self.Mixed_7c = Block(2048, _forks(), "maximum", 192)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 299, 299] in [-1, 1] -> [B, 2048]."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean((2, 3))


def load_inception(state: State, where: str) -> Inception:
    """The network with the weights of the standard file; its classifier (`fc`) is not needed.

    Raises:
        UserError: for other weights; including torchvision's ImageNet classifier, which has the same
            names but another network.
    """
    classes = state["fc.weight"].shape[0] if "fc.weight" in state else 1008
    if classes != 1008 or any(name.startswith("AuxLogits.") for name in state):
        raise UserError(
            f"{where} holds torchvision's ImageNet classifier, whose features are not FID's; "
            "give pt_inception-2015-12-05-6726825d.pth"
        )
    network = Inception()
    # Counters of training steps, which old files lack and inference never reads.
    counters = {
        name: value for name, value in network.state_dict().items() if name.endswith("batches_tracked")
    }
    load_strictly(network, counters | {k: v for k, v in state.items() if not k.startswith("fc.")}, where)
    return network.eval()


def _pool(x: Tensor, pool: Pool) -> Tensor:
    if pool == "average":
        return F.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False)
    return F.max_pool2d(x, 3, 1, padding=1) if pool == "maximum" else F.max_pool2d(x, 3, 2)


def _double(first: int, rest: int) -> Chain:
    return [
        ("branch3x3dbl_1", first, 1, 1),
        ("branch3x3dbl_2", rest, 3, 3),
        ("branch3x3dbl_3", rest, 3, 3),
    ]


def _squares() -> list[Chain]:
    return [
        [("branch1x1", 64, 1, 1)],
        [("branch5x5_1", 48, 1, 1), ("branch5x5_2", 64, 5, 5)],
        _double(64, 96),
    ]


def _crosses(width: int) -> list[Chain]:
    return [
        [("branch1x1", 192, 1, 1)],
        [("branch7x7_1", width, 1, 1), ("branch7x7_2", width, 1, 7), ("branch7x7_3", 192, 7, 1)],
        [
            ("branch7x7dbl_1", width, 1, 1),
            ("branch7x7dbl_2", width, 7, 1),
            ("branch7x7dbl_3", width, 1, 7),
            ("branch7x7dbl_4", width, 7, 1),
            ("branch7x7dbl_5", 192, 1, 7),
        ],
    ]


def _reduction() -> list[Chain]:
    return [
        [("branch3x3_1", 192, 1, 1), ("branch3x3_2", 320, 3, 3)],
        [
            ("branch7x7x3_1", 192, 1, 1),
            ("branch7x7x3_2", 192, 1, 7),
            ("branch7x7x3_3", 192, 7, 1),
            ("branch7x7x3_4", 192, 3, 3),
        ],
    ]


def _forks() -> list[Chain]:
    return [
        [("branch1x1", 320, 1, 1)],
        [("branch3x3_1", 384, 1, 1), [("branch3x3_2a", 384, 1, 3), ("branch3x3_2b", 384, 3, 1)]],
        [
            ("branch3x3dbl_1", 448, 1, 1),
            ("branch3x3dbl_2", 384, 3, 3),
            [("branch3x3dbl_3a", 384, 1, 3), ("branch3x3dbl_3b", 384, 3, 1)],
        ],
    ]

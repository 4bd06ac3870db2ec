"""AdamW whose two moments take one byte per number each, in torchao's 8-bit code, instead of four.

The code (Dettmers et al. 2021, arXiv 2110.02861) divides each block of 256 numbers by its largest magnitude
and rounds to one of 256 values, which are dense near zero. torchao's own optimizer keeps fp32 where a size
is not a multiple of 256, as that of a partition of ZeRO hardly ever is; here only the last, incomplete block
stays fp32. Checkpoints hold the decoded numbers under the names of the moments.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from intarsia.errors import UserError
from training.optimizer.ema import EmaAdamW

PER_SCALE = 256  # numbers that share a scale
LEAST = 4096  # numbers; smaller tensors stay fp32, as in torchao and bitsandbytes
BYTES = 1 + 4 / PER_SCALE  # per number: the code, and the scale's share
_AT_ONCE = 1 << 22  # numbers that are updated together; the arithmetic needs a multiple of it for a moment
_NEIGHBOURS = 2  # float32 numbers tried on either side of a scale that is calculated back


class Moment:
    """One moment of a parameter, as flat numbers: blocks in code, and fp32 numbers behind the last block.

    Args:
        size: how many numbers.
        signed: whether they may be negative, as the first moment's.
        device: their device.
    """

    def __init__(self, size: int, signed: bool, device: torch.device) -> None:
        from torchao.optim.subclass_8bit import get_qmap_signed, get_qmap_unsigned

        coded = size // PER_SCALE * PER_SCALE if size >= LEAST else 0
        self.signed = signed
        self.values = torch.tensor(get_qmap_signed() if signed else get_qmap_unsigned(), device=device)
        self.codes = torch.zeros(coded, dtype=torch.uint8, device=device)
        self.scales = torch.zeros(coded // PER_SCALE, device=device)
        self.rest = torch.zeros(size - coded, device=device)
        self._edges: dict[int, Tensor] = {}  # exact numbers of blocks that may not be complete yet

    def state(self, first: int, last: int) -> Tensor:
        """Numbers `first` … `last`, whole blocks, as torchao's tensor; writing to it writes to the moment."""
        from torchao.optim.subclass_8bit import OptimState8bit

        scales = self.scales[first // PER_SCALE : last // PER_SCALE]
        return OptimState8bit(self.codes[first:last], scales, self.values, self.signed, dtype=torch.float32)

    def stretch(self) -> "Stretch":
        """All of it."""
        return Stretch(self, 0, len(self.codes) + len(self.rest))

    def read(self, first: int, last: int) -> Tensor:
        """Numbers `first` … `last`, decoded."""
        coded = len(self.codes)
        low, high = first // PER_SCALE * PER_SCALE, min(-(-last // PER_SCALE) * PER_SCALE, coded)
        parts = [self.rest[max(first - coded, 0) : max(last - coded, 0)]]
        if low < high:
            parts.insert(0, self.state(low, high).dequantize()[first - low : last - low])
        return torch.cat(parts)

    def write(self, first: int, numbers: Tensor) -> None:
        """Set the numbers from `first` on. Those of a block may come in parts: what was written of it is kept
        exactly until `settle`, so that its code is that of all of them together."""
        numbers = numbers.to(self.rest.device, torch.float32)
        coded, last = len(self.codes), first + len(numbers)
        self.rest[max(first - coded, 0) : max(last - coded, 0)] = numbers[max(coded - first, 0) :]
        low, high = first // PER_SCALE * PER_SCALE, min(-(-last // PER_SCALE) * PER_SCALE, coded)
        if low >= high:
            return
        wide, ends = self.read(low, high), (low, high - PER_SCALE)
        for block in ends:
            if block in self._edges:
                wide[block - low : block - low + PER_SCALE] = self._edges[block]
        wide[first - low : last - low] = numbers[: high - first]
        for block in ends:
            self._edges[block] = wide[block - low : block - low + PER_SCALE].clone()
        codes, scales = encode(wide.view(-1, PER_SCALE), self.values)
        self.codes[low:high], self.scales[low // PER_SCALE : high // PER_SCALE] = codes.view(-1), scales

    def settle(self) -> None:
        """Forget the exact numbers of what was written in parts."""
        self._edges.clear()


class Stretch:
    """Consecutive numbers of a moment, used like a 1-D tensor; they are decoded where they are read."""

    def __init__(self, moment: Moment, start: int, size: int) -> None:
        self.moment, self.start, self._size = moment, start, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> "Stretch":
        first, last, _ = part.indices(self._size)
        return self.narrow(0, first, max(last - first, 0))

    def __setitem__(self, part: slice, numbers: Tensor) -> None:
        self.moment.write(self.start + part.indices(self._size)[0], numbers)

    @property
    def is_cuda(self) -> bool:
        """Whether it is on a GPU."""
        return self.moment.rest.is_cuda

    def numel(self) -> int:
        """How many numbers."""
        return self._size

    def narrow(self, dim: int, start: int, size: int) -> "Stretch":
        """`size` numbers from `start` on."""
        return Stretch(self.moment, self.start + start, size)

    def decoded(self) -> Tensor:
        """The numbers, float32, 1-D."""
        return self.moment.read(self.start, self.start + self._size)

    def split(self, sizes: int | Sequence[int]) -> Iterator[Tensor]:
        """Decoded numbers, so many at a time."""
        if isinstance(sizes, int):
            sizes = [min(sizes, self._size - first) for first in range(0, self._size, sizes)]
        first = 0
        for size in sizes:
            yield self[first : first + size].decoded()
            first += size


def encode(blocks: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (uint8, the shape of `blocks`) and scales [N] of float32 blocks [N, 256].

    Decoded numbers get back the codes that they come from. torchao's rule alone would not do that: it takes
    the largest magnitude as the scale, and -1 is not a value of the code, so a block whose largest number
    was negative holds at most .993 of its scale.
    """
    from torchao.optim.quant_utils import quantize_8bit_with_qmap, scale_tensor

    def changed(codes: Tensor, scales: Tensor, wanted: Tensor) -> Tensor:
        return (values[codes.int()] * scales[:, None] != wanted).any(1).nonzero()[:, 0]

    scaled, scales = scale_tensor(blocks, PER_SCALE)
    codes = quantize_8bit_with_qmap(scaled, values)
    if values[0] == 0:  # nothing is negative
        return codes, scales
    left = changed(codes, scales, blocks)
    trial = blocks[left].abs().amax(1) / values[0].abs()
    for _ in range(_NEIGHBOURS):
        trial = torch.nextafter(trial, torch.zeros_like(trial))
    for _ in range(2 * _NEIGHBOURS + 1):
        found = quantize_8bit_with_qmap(blocks[left] / trial[:, None], values)
        exact = torch.ones_like(left, dtype=torch.bool)
        exact[changed(found, trial, blocks[left])] = False
        codes[left[exact]], scales[left[exact]] = found[exact], trial[exact]
        left, trial = left[~exact], torch.nextafter(trial[~exact], trial.new_tensor(math.inf))
    return codes, scales


class EightBitAdamW(EmaAdamW):
    """`EmaAdamW` with its moments in 8 bits; the averages stay fp32.

    Args:
        params: parameters, contiguous.
        options: options of `EmaAdamW`; `fused` is needed.

    Raises:
        UserError: without torchao.
    """

    def __init__(self, params: Any, **options: Any) -> None:
        try:
            import torchao.optim  # noqa: F401
        except ImportError as error:
            raise UserError(
                "optimizer.moments=8bit needs torchao, which is not installed; install it with: python -m "
                f"pip install torchao ({error})"
            ) from None
        super().__init__(params, **options)

    def set_updates(self, updates: int) -> None:
        """Go on after so many updates; the moments and averages must be set by the caller."""
        super().set_updates(updates)
        for state in self.state.values():
            state["exp_avg"].settle()
            state["exp_avg_sq"].settle()

    def _new_moments(self, param: Tensor) -> dict[str, Any]:
        kinds = {"exp_avg": True, "exp_avg_sq": False}
        return {kind: Moment(param.numel(), signed, param.device) for kind, signed in kinds.items()}

    def _update(self, params: Sequence[Tensor], closure: Callable[[], float] | None) -> Any:
        with torch.enable_grad():
            result = None if closure is None else closure()
        for group in self.param_groups:
            found = [param for param in group["params"] if param.grad is not None]
            jobs = [_Job(param, self.state[param]) for param in found]
            if not jobs:
                continue
            _update_rests(jobs, group)  # counts the steps
            lr = torch.tensor(group["lr"], dtype=torch.float32)  # a number would be compiled in
            options = (*group["betas"], group["weight_decay"], group["eps"])
            with arithmetic_on(jobs[0].weight.device) as update:
                for job, span in [(each, span) for each in jobs for span in _spans(each.coded)]:
                    moments = (moment.state(span.start, span.stop) for moment in job.moments)
                    weight, gradient = job.weight[span], job.gradient[span]
                    update(weight, gradient, job.step, *moments, None, lr, *options, True, False)
        return result


class _Job:
    """A parameter to update, flat."""

    def __init__(self, param: Tensor, state: dict[str, Any]) -> None:
        assert param.grad is not None
        self.weight, self.gradient = param.detach().view(-1), param.grad.reshape(-1)
        self.step: Tensor = state["step"]
        self.moments: tuple[Moment, Moment] = (state["exp_avg"], state["exp_avg_sq"])
        self.coded = len(self.moments[0].codes)


def _update_rests(jobs: Sequence[_Job], group: dict[str, Any]) -> None:
    """torch's fused AdamW on all numbers without code, in one call; it adds 1 to the steps."""
    adamw(
        [job.weight[job.coded :] for job in jobs],
        [job.gradient[job.coded :] for job in jobs],
        [job.moments[0].rest for job in jobs],
        [job.moments[1].rest for job in jobs],
        [],
        [job.step for job in jobs],
        fused=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


def _spans(size: int) -> Iterator[slice]:
    """Spans whose lengths are powers of two: few shapes to compile for."""
    first = 0
    while first < size:
        last = first + min(1 << ((size - first).bit_length() - 1), _AT_ONCE)
        yield slice(first, last)
        first = last


@contextmanager
def arithmetic_on(device: torch.device) -> Iterator[Callable[..., None]]:
    """torchao's update of one tensor; compiled on a GPU, where each of 60 operations would be a kernel."""
    from torchao.optim.adam import single_param_adam

    if device.type != "cuda":
        yield single_param_adam
        return
    import torch._dynamo.utils

    with torch._dynamo.utils.disable_cache_limit():  # the number of shapes is small and fixed
        yield _compiled()


@cache
def _compiled() -> Callable[..., None]:
    from torchao.optim.adam import single_param_adam

    return torch.compile(single_param_adam, fullgraph=True, dynamic=False)  # type: ignore[no-any-return]

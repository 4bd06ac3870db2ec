"""The trained part's fp32 numbers by name, for every ZeRO stage: whole, in flat partitions, or sharded.

Every stage gives one list per rank: parameter, first element and number of elements, with views of
the master weight, the moments and the average. What saves, loads or gathers needs nothing else of DeepSpeed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.model.base_hash import is_of_base
from training.optimizer.moments8 import Moment, Stretch

WEIGHT = "weight"  # the kind of the master weights; the other kinds are the optimizer's own names


@dataclass(frozen=True)
class Fragment:
    """Elements `start` … `start + size` of a flattened parameter, as this rank holds them.

    Attributes:
        name: name of the parameter in the trained module.
        start: the first element.
        views: kind ("weight", "exp_avg", "exp_avg_sq", "ema") -> 1-D view; writing to it sets the state. Of
            moments in 8 bits it is a `Stretch`.
        everywhere: whether every rank holds the same elements.
        of_base: whether checkpoints leave them out (`base.mark_base`).
    """

    name: str
    start: int
    views: dict[str, Tensor | Stretch]
    everywhere: bool = False
    of_base: bool = False

    @property
    def size(self) -> int:
        """How many elements they are."""
        return self.views[WEIGHT].numel()

    def share(self, rank: int, world: int) -> "Fragment":
        """What this rank saves of it: an even part of what all ranks hold, else all."""
        if not self.everywhere:
            return self
        first, last = (self.size * r // world for r in (rank, rank + 1))
        return Fragment(self.name, self.start + first, {k: v[first:last] for k, v in self.views.items()})


def begin(engine: Any) -> None:
    """Make the optimizer's whole state, once, before anything is trained, saved or loaded."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    if stage == 0:
        optimizer.begin(param for param in engine.module.parameters() if param.requires_grad)
    elif stage == 3:
        optimizer.optimizer.begin(optimizer.fp32_partitioned_groups_flat)
    else:
        optimizer.optimizer.begin(optimizer.single_partition_of_fp32_groups)


def fragments(engine: Any) -> list[Fragment]:
    """All that this rank holds of the trained module, in the module's order; trained or frozen."""
    find = {0: _whole, 1: _of_partition, 2: _of_partition, 3: _of_shard}[engine.zero_optimization_stage()]
    found = (find(engine, name, param) for name, param in engine.module.named_parameters())
    return [fragment for fragment in found if fragment is not None and fragment.size]


def _whole(engine: Any, name: str, param: nn.Parameter) -> Fragment:
    """Stage 0, and frozen parameters of stages 1 and 2."""
    state = engine.optimizer.state.get(param, {}) if engine.zero_optimization_stage() == 0 else {}
    views = _views(param.detach(), state, lambda flat: flat)
    return Fragment(name, 0, views, everywhere=True, of_base=is_of_base(param))


def _of_partition(engine: Any, name: str, param: nn.Parameter) -> Fragment | None:
    """Stages 1 and 2: a stretch of a flat partition; none where another rank has all of it."""
    if not param.requires_grad:
        return _whole(engine, name, param)
    mapping = param._hp_mapping
    if mapping is None:
        return None
    flat = engine.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    place = mapping.hp_fragment_address
    state = engine.optimizer.optimizer.state[flat]
    views = _views(flat.detach(), state, lambda whole: whole.narrow(0, place.start, place.numel))
    return Fragment(name, mapping.lp_fragment_address.start, views)


def _of_shard(engine: Any, name: str, param: nn.Parameter) -> Fragment | None:
    """Stage 3: this rank's shard, without the padding that makes all shards equally long."""
    optimizer, length = engine.optimizer, param.partition_numel()
    start = torch.distributed.get_rank(param.ds_process_group) * length
    real = max(min(length, param.ds_numel - start), 0)
    if not param.requires_grad:
        views = {WEIGHT: param.ds_tensor.detach().flatten()[:real]}
        return Fragment(name, start, views, of_base=is_of_base(param))
    group, offset, _ = optimizer.grad_position[optimizer.get_param_id(param)]
    flat = optimizer.fp32_partitioned_groups_flat[group]
    state = optimizer.optimizer.state[flat]
    return Fragment(name, start, _views(flat.detach(), state, lambda whole: whole.narrow(0, offset, real)))


def _views(weight: Tensor, state: dict[str, Any], cut: Callable[[Any], Any]) -> dict[str, Tensor | Stretch]:
    tensors = {
        k: v for k, v in state.items() if torch.is_tensor(v) and v.numel() == weight.numel() and v.dim()
    }
    flat = {kind: tensor.view(-1) for kind, tensor in {WEIGHT: weight, **tensors}.items()}
    flat |= {kind: value.stretch() for kind, value in state.items() if isinstance(value, Moment)}
    return {kind: cut(value) for kind, value in flat.items()}


def refresh(engine: Any) -> None:
    """Let the module's weights follow the master weights that were written into the fragments. Collective."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    if stage in (1, 2):
        optimizer.update_lp_params()
        for group in range(len(optimizer.bit16_groups)):
            optimizer._update_model_bit16_weights(group)
    elif stage == 3:
        optimizer.checkpoint_event_prologue()
        for group in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        optimizer.checkpoint_event_epilogue()


@contextmanager
def swapped(engine: Any, kind: str) -> Iterator[None]:
    """Inside the block the module has the numbers of a kind as its weights, under every stage. Collective.

    Nothing may be trained or saved meanwhile. Afterwards everything is as it was, to the bit.
    """
    _swap(engine, kind)
    try:
        yield
    finally:
        _swap(engine, kind)


@torch.no_grad()
def _swap(engine: Any, kind: str) -> None:
    for fragment in fragments(engine):
        if kind in fragment.views:
            weight, other = fragment.views[WEIGHT], fragment.views[kind]
            assert isinstance(weight, Tensor), "the weight"
            assert isinstance(other, Tensor), "an average; moments in 8 bits cannot hold weights"
            kept = weight.clone()
            weight.copy_(other)
            other.copy_(kept)
    refresh(engine)


def gather(engine: Any, kind: str, keep: bool) -> dict[str, Tensor]:
    """All parameters of a kind by name, whole, on the module's device. Collective.

    Frozen parameters, and all of them where the optimizer has no such kind, come as the weights themselves.

    Args:
        engine: DeepSpeed's.
        kind: "weight", or the name of an optimizer's tensor.
        keep: whether this rank gets them; the other ranks get an empty dict.
    """
    gathered = {}
    for name, shape, held in _shapes(engine):
        whole = torch.zeros(shape, device=engine.device, dtype=torch.float32).view(-1)
        if held is not None:
            own = held.views.get(kind, held.views[WEIGHT])
            whole[held.start : held.start + held.size] = own if isinstance(own, Tensor) else own.decoded()
        if (held is None or not held.everywhere) and torch.distributed.is_initialized():
            torch.distributed.all_reduce(whole)
        if keep:
            gathered[name] = whole.view(shape)
    return gathered


def _shapes(engine: Any) -> Iterator[tuple[str, torch.Size, Fragment | None]]:
    held = {fragment.name: fragment for fragment in fragments(engine)}
    for name, param in engine.module.named_parameters():
        yield name, getattr(param, "ds_shape", param.shape), held.get(name)

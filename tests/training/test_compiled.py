"""Blocks compiled one by one, and the gate that a wrong compiler does not pass."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from intarsia.config import load_config
from intarsia.errors import UserError
from tests.training.synthetic import write_config
from training.config import TrainConfig
from training.model.build import new_model
from training.model.compiled import check_gradients, compile_blocks, largest_error
from training.objective.edit import EditTrainee

pytestmark = pytest.mark.long
CPU = torch.device("cpu")


def compiled(
    folder: Path, backend: str | Callable[..., Any], *overrides: str
) -> tuple[nn.Module, TrainConfig]:
    torch._dynamo.reset()
    config = load_config(TrainConfig, write_config(folder), overrides)
    model = new_model(config, CPU, False)
    assert compile_blocks(model.unet, backend) == 12
    return EditTrainee(model), config


def halving(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., tuple[Any, ...]]:
    """A wrong compiler: the values are right, the gradients half of what they are."""

    def run(*arguments: Any) -> tuple[Any, ...]:
        return tuple(o / 2 + o.detach() / 2 if isinstance(o, Tensor) else o for o in graph(*arguments))

    return run


@pytest.mark.parametrize(
    "overrides", [[], ["precision=bf16", "activation_checkpointing=true"]], ids=["plain", "half"]
)
def test_right_gradients_pass_and_leave_no_trace(tmp_path: Path, overrides: list[str]) -> None:
    calls = []

    def watched(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        calls.append(graph)
        return graph

    trainee, config = compiled(tmp_path, watched, *overrides)
    names = [name for name, _ in trainee.named_parameters()]
    assert check_gradients(trainee, config, CPU) < 1e-2
    assert calls, "nothing was compiled, so nothing was compared"
    assert all(param.grad is None for param in trainee.parameters())
    assert names == [name for name, _ in EditTrainee(new_model(config, CPU, False)).named_parameters()]


def test_equal_values_with_wrong_gradients_are_refused(tmp_path: Path) -> None:
    trainee, config = compiled(tmp_path, halving)
    with pytest.raises(UserError, match=r"wrong gradients here \(unet.* is wrong by .*set compile=false"):
        check_gradients(trainee, config, CPU)


def test_the_largest_error_is_a_share_of_the_gradient_and_never_hides_a_nan() -> None:
    plain = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.01])}
    assert largest_error(plain, plain) == ("a", 0)
    assert largest_error(plain, plain | {"a": torch.tensor([3.0, 3.5])}) == ("a", pytest.approx(0.1))
    assert largest_error(plain, plain | {"b": torch.tensor([0.02])}) == ("b", pytest.approx(0.2, rel=1e-3))
    name, error = largest_error(plain, plain | {"b": torch.tensor([torch.nan])})
    assert name == "b"
    assert not error <= 1


@pytest.mark.cluster  # the real compiler takes a minute
def test_inductors_blocks_pass_and_train_the_same(tmp_path: Path) -> None:
    trainee, config = compiled(tmp_path, "inductor")
    assert check_gradients(trainee, config, CPU) < 1e-4

"""Averaged weights against averaging written plainly."""

import copy

import pytest
import torch
from torch import nn

from tests.closeness import relative_error, rounding
from training.optimizer.ema import KEY, EmaAdamW, decays_of, ema_decay_at
from training.optimizer.power_ema import exponent_of
from training.option_groups import OptimizerConfig

pytestmark = pytest.mark.portable


def train(optimizer: torch.optim.Optimizer, module: nn.Module, steps: int) -> list[dict[str, torch.Tensor]]:
    rng = torch.Generator().manual_seed(0)
    history = []
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.randn(8, 5, generator=rng)).square().mean().backward()
        optimizer.step()
        history.append({name: p.detach().clone() for name, p in module.named_parameters()})
    return history


def averages_of(module: nn.Module, optimizer: EmaAdamW) -> dict[str, torch.Tensor]:
    return {name: optimizer.state[param][KEY] for name, param in module.named_parameters()}


def test_averages_equal_a_plain_loop_and_leave_adamw_as_it_is() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    twin = copy.deepcopy(module)
    plain = {name: p.detach().double().clone() for name, p in module.named_parameters()}
    optimizer = EmaAdamW(module.parameters(), ema_decay=0.9, lr=1e-2, fused=True)
    history = train(optimizer, module, 20)
    expected = train(torch.optim.AdamW(twin.parameters(), lr=1e-2, fused=True), twin, 20)
    for update, (ours, theirs) in enumerate(zip(history, expected, strict=True)):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        decay = min(0.9, (1 + update) / (10 + update))
        plain = {name: decay * plain[name] + (1 - decay) * theirs[name].double() for name in plain}
    averages = averages_of(module, optimizer)
    assert max(relative_error(averages[name], plain[name]) for name in plain) < rounding(20)  # updates


def test_power_function_averages_equal_their_definition() -> None:
    """After t updates number i weighs (i^(γ+1) − (i − 1)^(γ+1)) / t^(γ+1), the initial weights nothing."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    optimizer = EmaAdamW(module.parameters(), ema_widths=(0.05, 0.2), lr=1e-2, fused=True)
    history = train(optimizer, module, 20)
    for kind, width in (("ema", 0.05), ("ema2", 0.2)):
        edges = (torch.arange(21, dtype=torch.float64) / 20) ** (exponent_of(width) + 1)
        for name, param in module.named_parameters():
            weights = torch.stack([weight[name].double() for weight in history])
            expected = torch.tensordot(edges.diff(), weights, dims=1)
            assert relative_error(optimizer.state[param][kind], expected) < rounding(20)  # updates


def test_before_the_first_update_the_average_is_the_weight_itself() -> None:
    module = nn.Linear(2, 2)
    optimizer = EmaAdamW(module.parameters(), ema_decay=0.9, fused=True)
    optimizer.begin(module.parameters())
    averages = averages_of(module, optimizer)
    assert all(torch.equal(averages[name], param) for name, param in module.named_parameters())


def test_an_overflow_leaves_weights_moments_averages_and_counts_alone() -> None:
    torch.manual_seed(2)
    module = nn.Linear(5, 1)
    optimizer = EmaAdamW(module.parameters(), ema_decay=0.9, lr=1e-2, fused=True)
    train(optimizer, module, 2)
    before = copy.deepcopy((module.state_dict(), optimizer.state_dict()["state"]))
    optimizer.overflow = True
    train(optimizer, module, 1)
    after = (module.state_dict(), optimizer.state_dict()["state"])
    assert str(before) == str(after)


def test_the_state_survives_saving() -> None:
    torch.manual_seed(1)
    module = nn.Linear(5, 1)
    optimizer = EmaAdamW(module.parameters(), ema_decay=0.9, lr=1e-2, fused=True)
    train(optimizer, module, 3)
    twin = copy.deepcopy(module)
    other = EmaAdamW(twin.parameters(), ema_decay=0.9, lr=1e-2, fused=True)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(optimizer, module, 4)
    train(other, twin, 4)
    ours, theirs = averages_of(module, optimizer), averages_of(twin, other)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_each_kind_of_average_is_made_as_the_config_says() -> None:
    assert decays_of(**OptimizerConfig().averages) == {}
    assert list(decays_of(**OptimizerConfig(ema_decay=0.9).averages)) == ["ema"]
    decays = decays_of(**OptimizerConfig(ema_kind="post_hoc").averages)
    assert [decay(0) for decay in decays.values()] == [0, 0]
    assert decays["ema"](99) == pytest.approx(0.99 ** (exponent_of(0.05) + 1))
    assert decays["ema2"](99) == pytest.approx(0.99 ** (exponent_of(0.1) + 1))


def test_the_decay_grows_to_its_limit() -> None:
    decays = [ema_decay_at(0.99, update) for update in range(2000)]
    assert decays == sorted(decays)
    assert decays[0] == 0.1
    assert decays[-1] == 0.99

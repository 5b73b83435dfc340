import math

import pytest
import torch
from torch import nn

from recsys.errors import InputError
from recsys.training.optim import OptimConfig, make_optimizer, make_schedule


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text = nn.Linear(3, 3)
        self.table = nn.Embedding(4, 3)
        self.head = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)
        self.fixed = nn.Linear(3, 3).requires_grad_(False)


def group_of(weight: nn.Parameter, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    return next(group for group in optimizer.param_groups if any(one is weight for one in group["params"]))


def test_the_text_encoder_has_its_own_rate_and_only_matrices_decay() -> None:
    model, config = Model(), OptimConfig(lr=1.0, text_lr=0.5, weight_decay=0.1)
    optimizer = make_optimizer(model, config)
    found = {
        name: (group_of(weight, optimizer)["lr"], group_of(weight, optimizer)["weight_decay"])
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }
    assert found == {
        "text.weight": (0.5, 0.1), "text.bias": (0.5, 0.0), "table.weight": (1.0, 0.0), "head.weight": (1.0, 0.1),
        "head.bias": (1.0, 0.0), "norm.weight": (1.0, 0.0), "norm.bias": (1.0, 0.0),
    }  # fmt: skip


def test_frozen_weights_are_left_out() -> None:
    model = Model()
    held = [weight for group in make_optimizer(model, OptimConfig()).param_groups for weight in group["params"]]
    assert not any(weight is model.fixed.weight for weight in held)


def test_a_model_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(InputError, match="Nothing to train"):
        make_optimizer(Model().requires_grad_(False), OptimConfig())


def rates(config: OptimConfig, total: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_schedule(optimizer, config, total)
    found = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_rises_linearly_then_falls_by_half_a_cosine_to_the_floor() -> None:
    found = rates(OptimConfig(warmup=0.2, floor=0.1), 50)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    wanted = [0.1 + 0.9 * (1 + math.cos(math.pi * (step - 10) / 40)) / 2 for step in range(10, 50)]
    assert found[10:] == pytest.approx(wanted)
    assert found[-1] == pytest.approx(0.1, abs=2e-3)


def test_beyond_the_last_step_the_rate_stays_at_the_floor() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    share = make_schedule(optimizer, OptimConfig(floor=0.25), 5).lr_lambdas[0]
    assert share(5) == share(50) == 0.25


def test_one_step_is_enough_for_a_schedule() -> None:
    assert rates(OptimConfig(), 1) == [1.0]


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"lr": 0.0}, {"text_lr": -1.0}, {"warmup": 1.0}, {"floor": 2.0}, {"clip": -1.0}]
)
def test_an_impossible_value_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        OptimConfig(**wrong)  # pyright: ignore[reportArgumentType]

"""The learning rate and the options it follows."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from supertickets.training import TrainConfig
from supertickets.training.optimizer import learning_rate, make_optimizer


def rates(config: TrainConfig, steps_per_epoch: int) -> list[float]:
    total = config.epochs * steps_per_epoch
    return [learning_rate(config, step, steps_per_epoch) for step in range(total)]


def test_cosine_per_epoch_is_the_published_formula_exactly() -> None:
    config = TrainConfig(epochs=30, lr=0.1)
    for step, lr in enumerate(rates(config, 7)):
        assert lr == 0.5 * 0.1 * (1 + math.cos(math.pi * (step // 7) / 30))


def test_cosine_per_step_falls_at_every_step() -> None:
    found = rates(TrainConfig(epochs=3, lr=0.1, schedule_unit="step"), 5)
    assert found[0] == 0.1
    assert all(later < sooner for sooner, later in pairwise(found))


def test_warmup_rises_in_equal_steps_and_meets_the_peak() -> None:
    config = TrainConfig(epochs=8, lr=0.4, warmup_epochs=3)
    found = rates(config, 1)
    assert found[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert found[4:] == [0.5 * 0.4 * (1 + math.cos(math.pi * t / 5)) for t in range(1, 5)]


@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_step_schedule_multiplies_at_the_milestones(unit: str) -> None:
    config = TrainConfig(
        epochs=6, lr=1.0, schedule="step", schedule_unit=unit, step_epochs=(2, 5), step_gamma=0.5
    )
    assert rates(config, 3) == [1.0] * 6 + [0.5] * 9 + [0.25] * 3


def test_constant_schedule_stays() -> None:
    assert set(rates(TrainConfig(epochs=4, lr=0.3, schedule="constant"), 3)) == {0.3}


def test_one_cycle_is_that_of_torch() -> None:
    config = TrainConfig(epochs=8, lr=0.2, schedule="one-cycle", schedule_unit="step")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.2, total_steps=40, cycle_momentum=False
    )
    expected = []
    for _ in range(40):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates(config, 5) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "constant"])
def test_every_schedule_works_for_a_single_step(schedule: str) -> None:
    config = TrainConfig(epochs=1, lr=0.2, schedule=schedule)
    assert rates(config, 1) == [0.2]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW), ("rmsprop", torch.optim.RMSprop)],
)
def test_optimizer_takes_the_options(name: str, kind: type) -> None:
    config = TrainConfig(optimizer=name, lr=0.02, momentum=0.5, weight_decay=0.01)
    optimizer = make_optimizer([nn.Parameter(torch.zeros(2))], config)
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.01)
    assert group.get("momentum", 0.5) == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0}, "greater than 0"),
        ({"lr": float("nan")}, "finite"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"momentum": 1.0}, "less than 1"),
        ({"optimizer": "adagrad"}, "'sgd', 'adam', 'adamw' or 'rmsprop'"),
        ({"learning_rate": 0.1}, "Extra inputs are not permitted"),
        ({"nesterov": True, "optimizer": "adamw"}, "nesterov needs optimizer 'sgd'"),
        ({"epochs": 3, "warmup_epochs": 3}, r"warmup_epochs must be below epochs \(3\), got 3"),
        ({"schedule": "one-cycle", "warmup_epochs": 1}, "has its own rise"),
        ({"schedule": "step"}, "step_epochs must be given"),
        ({"step_epochs": [3]}, "only for it"),
        ({"schedule": "step", "step_epochs": [4, 2]}, r"ascending, got \[4, 2\]"),
        ({"schedule": "step", "step_epochs": [0, 2]}, r"positive and ascending, got \[0, 2\]"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainConfig(**options)

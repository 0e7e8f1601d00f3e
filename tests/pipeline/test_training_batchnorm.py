"""Batch-norm statistics re-estimated over a number of batches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from supertickets.errors import InputError
from supertickets.training import recalibrate_bn
from tests.pipeline.training_job import TinyLoader, make_net


@pytest.mark.parametrize("batches", [1, 4, 100])
def test_statistics_are_the_plain_average_over_the_batches(batches: int) -> None:
    model, loader = make_net(), TinyLoader()
    seen = [model[0](images) for images, _ in list(loader)[:batches]]
    mean = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    var = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in seen]).mean(0)

    recalibrate_bn(model, loader, batches=batches)

    # A running average in float32 against a mean taken at once.
    torch.testing.assert_close(model[1].running_mean, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model[1].running_var, var, rtol=1e-5, atol=1e-6)


def test_nothing_else_changes() -> None:
    model = make_net(dropout=0.5)
    model.train()
    model[3].eval()
    before, modes = copy.deepcopy(model), [m.training for m in model.modules()]
    state = torch.get_rng_state()

    recalibrate_bn(model, TinyLoader(), batches=3)

    assert [m.training for m in model.modules()] == modes
    assert model[1].momentum == 0.1
    assert torch.equal(torch.get_rng_state(), state), "dropout must not draw"
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name)), name


def test_a_failing_pass_leaves_mode_and_momentum() -> None:
    class Broken(TinyLoader):
        def __iter__(self):  # noqa: ANN204
            yield torch.zeros(2, 5, 6, 6), torch.zeros(2)

    model = make_net().eval()
    with pytest.raises(RuntimeError):
        recalibrate_bn(model, Broken(), batches=2)
    assert model[1].momentum == 0.1
    assert not any(module.training for module in model.modules())


def test_a_model_without_statistics_is_left_alone() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten())
    recalibrate_bn(model, TinyLoader(), batches=1)
    assert model[0].running_mean is None


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InputError, match="batches must be at least 1, got 0"):
        recalibrate_bn(make_net(), TinyLoader(), batches=0)
    with pytest.raises(InputError, match="loader gives no batches"):
        recalibrate_bn(make_net(), TinyLoader(samples=0), batches=1)

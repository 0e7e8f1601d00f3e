"""Functions that cannot work in the batch-inner layout give what they give for dense tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from supertickets_ext.lanes import LaneTensor, left_lanes, to_lanes
from tests.ext.lane_checks import (
    CHANNELS,
    HEIGHT,
    WIDTH,
    batches,
    check_like_dense,
    dense,
    draw,
    images,
    poisoned,
)


@pytest.fixture(autouse=True)
def _count_anew() -> None:
    left_lanes(clear=True)


LEAVING: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "flatten": ("flatten", lambda x: torch.flatten(x, 1)),
    "view": ("view", lambda x: x.view(x.size(0), -1)),
    "reshape": ("reshape", lambda x: x.reshape(len(x), 2, 2, -1)),
    "conv2d": ("conv2d", lambda x: F.conv2d(x, draw(3, CHANNELS, 3, 3))),
    "group_norm": ("group_norm", lambda x: F.group_norm(x, 2)),
    "rows": ("__getitem__", lambda x: x[:, :, 1:3]),
    "one channel": ("__getitem__", lambda x: x[:, 1]),
    "channels by a list": ("__getitem__", lambda x: x[:, [2, 1]]),
    "chunk of the map": ("chunk", lambda x: x.chunk(2, dim=2)[1]),
    "split of the batch": ("split", lambda x: torch.split(x, 2)[1]),
    "softmax": ("softmax", lambda x: x.softmax(1)),
    "mean over channels": ("mean", lambda x: x.mean(1)),
    "mean of all": ("mean", lambda x: x.mean()),
    "transposition": ("mT", lambda x: x.mT),
    "cat of batches": ("cat", lambda x: torch.cat([x, x])),
    "cat of integers": ("cat", lambda x: torch.cat([x, images(len(x)).long()], 1)),
    "pad of channels": ("pad", lambda x: F.pad(x, (0, 0, 0, 0, 1, 1))),
    "power": ("pow", lambda x: x**2),
    "reversed division": ("__rdiv__", lambda x: 1 / (abs(x) + 1)),
    "division by images": ("__truediv__", lambda x: x / draw(len(x), 1, 1, 1).exp()),
    "matmul": ("__matmul__", lambda x: x @ draw(WIDTH, 2)),
    "indices": ("max_pool2d_with_indices", lambda x: F.max_pool2d(x, 2, return_indices=True)[0]),
    "clamp by a tensor": ("clamp", lambda x: x.clamp(min=images(len(x), seed=3))),
    "unknown scalar": ("__mul__", lambda x: (x * 1j).imag),
    "integer": ("__mul__", lambda x: x * torch.arange(len(x))[:, None, None, None]),
}


@batches
@pytest.mark.parametrize("name", LEAVING)
def test_other_functions_work_on_the_dense_tensor(name: str, batch: int) -> None:
    counted, function = LEAVING[name]
    assert isinstance(function(to_lanes(images(batch))), Tensor)
    assert left_lanes(clear=True) == {counted: 1}
    assert left_lanes() == {}
    check_like_dense(function, images(batch))


def test_one_image_meets_many() -> None:
    one, many = images(1), images(3, seed=1)
    torch.testing.assert_close(poisoned(one) + many, one + many)
    torch.testing.assert_close(poisoned(one) * to_lanes(many), one * many)
    torch.testing.assert_close(torch.sub(many, poisoned(one)), many - one)


def test_dropout_in_training_is_the_dense_one() -> None:
    results = []
    for enter in (lambda x: x, to_lanes):
        torch.manual_seed(0)
        x: Any = enter(images(17))
        assert F.dropout(x, 0.5, inplace=True) is x
        results.append(dense(x))
    assert (results[0] == 0).float().mean() > 0.3
    assert torch.equal(*results)


@batches
def test_other_changes_in_place_are_carried_back(batch: int) -> None:
    def function(x: Any, y: Tensor) -> Any:
        x = x * 1
        same = x
        x[:, 0] = y[:, 1]
        F.threshold(x, 0.1, 0.2, inplace=True)
        x **= 2
        x /= y.exp()
        assert x.masked_fill_(y < 0, 0.5) is same
        return same

    check_like_dense(function, images(batch), images(batch, seed=1))
    assert isinstance(function(to_lanes(images(batch)), images(batch, seed=1)), LaneTensor)


@batches
def test_a_dense_tensor_changed_in_place_stays_dense(batch: int) -> None:
    def function(x: Any, y: Tensor) -> Any:
        total = y * 1
        total += x
        return torch.Tensor.multiply_(total, x)

    check_like_dense(function, images(batch), images(batch, seed=1))
    out = torch.empty(0)
    assert torch.add(to_lanes(images(batch)), 1, out=out) is out  # type: ignore[call-overload]
    assert torch.equal(out, images(batch).float() + 1)


def test_errors_of_torch_are_those_of_the_dense_tensor() -> None:
    lanes: Any = to_lanes(images(17))
    with pytest.raises(RuntimeError, match=r"size of tensor a \(7\) must match .* b \(8\)"):
        lanes + torch.zeros(HEIGHT, WIDTH + 1)
    with pytest.raises(RuntimeError, match=r"size of tensor a \(17\) must match .* b \(32\)"):
        lanes + to_lanes(images(32))
    with pytest.raises(ValueError, match=r"more than 1 value per channel when training"):
        F.batch_norm(to_lanes(draw(1, 2, 1, 1)), None, None, training=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["grad", "data", "register_hook", "requires_grad_", "nonsense"])
def test_attributes_that_a_copy_cannot_have(name: str) -> None:
    lanes = to_lanes(images(1))
    assert not hasattr(lanes, name)
    with pytest.raises(AttributeError, match=f"LaneTensor: no attribute '{name}'"):
        getattr(lanes, name)

"""Which layers are masked, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from supertickets.errors import InputError
from supertickets.prune import check_weights, mask_model, maskable_layers
from supertickets_ext.nn import MaskedConv2d, MaskedLinear


def _net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.Linear(8, 3),
    )


def test_the_last_linear_is_the_classifier_and_stays_dense() -> None:
    assert list(maskable_layers(_net())) == ["0", "2", "4"]


def test_without_a_linear_the_last_convolution_is_the_classifier() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 5, 1))
    assert list(maskable_layers(net)) == ["0"]


def test_a_list_keeps_exactly_the_named_layers_dense() -> None:
    assert list(maskable_layers(_net(), ["0", "4"])) == ["2", "5"]
    assert list(maskable_layers(_net(), [])) == ["0", "2", "4", "5"]


def test_an_unknown_dense_layer_is_named_with_the_nearest_one() -> None:
    net = nn.Sequential()
    net.add_module("stem", nn.Conv2d(1, 2, 3))
    net.add_module("head", nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"'steem'.*did you mean 'stem'"):
        maskable_layers(net, ["steem"])


def test_a_model_without_maskable_layers_is_refused() -> None:
    with pytest.raises(InputError, match="no maskable layer"):
        maskable_layers(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))


def test_a_subclass_with_its_own_forward_is_not_replaced() -> None:
    net = nn.ModuleDict({"mix": nn.MultiheadAttention(8, 2), "head": nn.Linear(8, 8)})
    assert list(maskable_layers(net, [])) == ["head"]


def test_nan_weights_are_refused_by_layer_name_and_count() -> None:
    net = _net()
    with torch.no_grad():
        net[2].weight.view(-1)[:3] = float("nan")
    with pytest.raises(InputError, match=r"layer '2': 3 of 36 weights are NaN"):
        check_weights(maskable_layers(net))


def test_masking_leaves_the_model_alone_and_changes_only_the_named_layers() -> None:
    net = _net().eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    mask = torch.rand(net[0].weight.shape) > 0.5
    masked = mask_model(net, {"0": mask})
    assert isinstance(masked[0], MaskedConv2d)
    assert type(masked[2]) is nn.Conv2d
    x = torch.randn(3, 2, 4, 4)
    with torch.no_grad():
        net[0].weight.mul_(mask)
        torch.testing.assert_close(masked(x), net(x))
    assert torch.equal(masked[0].weight, before["0.weight"])


def test_without_masks_every_layer_is_masked_and_nothing_removed() -> None:
    net = _net().eval()
    masked = mask_model(net, None)
    assert isinstance(masked[5], MaskedLinear)
    assert all(layer.mask.all() for layer in maskable_layers(masked, []).values())
    x = torch.randn(3, 2, 4, 4)
    torch.testing.assert_close(masked(x), net(x))


def test_training_the_scores_leaves_the_given_ones_alone() -> None:
    scores = torch.ones(4, 2, 3, 3)
    masked = mask_model(_net(), {"0": scores > 0}, {"0": scores})
    with torch.no_grad():
        masked[0].scores.zero_()
    assert (scores == 1).all()


def test_a_layer_used_in_two_places_is_masked_in_both() -> None:
    shared = nn.Linear(4, 4)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    masked = mask_model(net, {"0": torch.zeros(4, 4, dtype=torch.bool)})
    assert masked[0] is masked[2]
    torch.testing.assert_close(masked(torch.randn(2, 4)), net[0].bias.expand(2, 4))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(4, 2, 3, 3), "expected dtype torch.bool, got torch.float32"),
        (torch.ones(4, 2, 9, dtype=torch.bool), r"expected shape \(4, 2, 3, 3\), got \(4, 2, 9\)"),
    ],
)
def test_a_mask_of_the_wrong_dtype_or_shape_is_refused(mask: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=f"mask '0': {message}"):
        mask_model(_net(), {"0": mask})


def test_a_mask_of_no_layer_is_refused() -> None:
    with pytest.raises(InputError, match="mask '1' belongs to no convolution or linear layer"):
        mask_model(_net(), {"1": torch.ones(4, dtype=torch.bool)})

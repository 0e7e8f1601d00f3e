"""MaskedConv2d and MaskedLinear as drop-in modules."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from supertickets_ext.nn import MaskedConv2d, MaskedLinear


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_mask(weight: Tensor, seed: int = 1) -> Tensor:
    return torch.rand(weight.shape, generator=generator(seed)) < 0.5


CONVS: dict[str, dict[str, Any]] = {
    "plain": {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "padding": 1},
    "no-bias": {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "bias": False},
    "strided": {"in_channels": 4, "out_channels": 6, "kernel_size": (3, 2), "stride": (2, 1)},
    "grouped": {"in_channels": 4, "out_channels": 6, "kernel_size": 1, "groups": 2},
    "same": {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "padding": "same"},
    "dilated": {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "dilation": 2},
    "float64": {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "dtype": torch.float64},
    "circular": {
        "in_channels": 4, "out_channels": 6, "kernel_size": 3, "padding": 1,
        "padding_mode": "circular",
    },
    "reflect": {
        "in_channels": 4, "out_channels": 6, "kernel_size": 3, "padding": (2, 1),
        "padding_mode": "reflect",
    },
}  # fmt: skip
LINEARS: dict[str, dict[str, Any]] = {
    "linear": {"in_features": 5, "out_features": 7},
    "linear-no-bias": {"in_features": 5, "out_features": 7, "bias": False},
}
MODULES = [pytest.param(nn.Conv2d, keywords, id=name) for name, keywords in CONVS.items()] + [
    pytest.param(nn.Linear, keywords, id=name) for name, keywords in LINEARS.items()
]
MASKED: dict[type[nn.Module], Any] = {nn.Conv2d: MaskedConv2d, nn.Linear: MaskedLinear}
modules = pytest.mark.parametrize(("dense_type", "keywords"), MODULES)


def example(module: nn.Module) -> Tensor:
    shape = (2, 4, 8, 9) if isinstance(module, nn.Conv2d) else (3, 5)
    return torch.randn(shape, generator=generator(2)).to(next(module.parameters()).dtype)


def pair(dense_type: type[nn.Module], keywords: dict[str, Any]) -> tuple[Any, Any, Tensor]:
    """A dense module, its masked form with a random mask, and an input."""
    dense = dense_type(**keywords)
    masked = MASKED[dense_type].from_dense(dense, mask=random_mask(dense.weight))
    return dense, masked, example(dense)


@modules
def test_constructed_like_the_dense_module(
    dense_type: type[nn.Module], keywords: dict[str, Any]
) -> None:
    masked = MASKED[dense_type](**keywords)
    assert isinstance(masked, dense_type)
    assert masked.mask.dtype == torch.bool
    assert masked.mask.shape == masked.weight.shape
    assert masked.mask.all()
    dense = dense_type(**keywords)
    dense.load_state_dict({k: v for k, v in masked.state_dict().items() if k != "mask"})
    x = example(dense)
    torch.testing.assert_close(masked(x), dense(x))


@modules
def test_from_dense_shares_the_parameters(
    dense_type: type[nn.Module], keywords: dict[str, Any]
) -> None:
    dense, masked, x = pair(dense_type, keywords)
    assert masked.weight is dense.weight
    assert masked.bias is dense.bias
    assert masked.training == dense.training
    expected = deepcopy(dense)
    with torch.no_grad():
        expected.weight.mul_(masked.mask)
    torch.testing.assert_close(masked(x), expected(x))


@modules
def test_to_dense_is_a_plain_module_with_the_same_result(
    dense_type: type[nn.Module], keywords: dict[str, Any]
) -> None:
    _, masked, x = pair(dense_type, keywords)
    before = masked.weight.detach().clone()
    plain = masked.eval().to_dense()
    assert type(plain) is dense_type
    assert not plain.training
    assert set(plain.state_dict()) <= {"weight", "bias"}
    assert torch.equal(plain.weight, before * masked.mask)
    assert torch.equal(masked.weight, before), "to_dense must not change the masked module"
    torch.testing.assert_close(plain(x), masked(x))
    with torch.no_grad():
        plain.weight.fill_(3)
    assert torch.equal(masked.weight, before), "to_dense must not share the pruned weight"


@modules
def test_a_mask_that_pruned_infinity_leaves_zero(
    dense_type: type[nn.Module], keywords: dict[str, Any]
) -> None:
    dense, masked, _ = pair(dense_type, keywords)
    with torch.no_grad():
        dense.weight[~masked.mask] = torch.inf
    assert masked.to_dense().weight.isfinite().all()


@modules
def test_deepcopy_is_independent(dense_type: type[nn.Module], keywords: dict[str, Any]) -> None:
    _, masked, x = pair(dense_type, keywords)
    twin = deepcopy(masked)
    assert torch.equal(twin(x), masked(x))
    twin.mask.zero_()
    with torch.no_grad():
        twin.weight.zero_()
    assert masked.mask.any()
    assert masked.weight.any()


@modules
@pytest.mark.parametrize("with_scores", [False, True])
def test_state_dict_round_trip(
    dense_type: type[nn.Module], keywords: dict[str, Any], with_scores: bool
) -> None:
    dense = dense_type(**keywords)
    scores = torch.randn(dense.weight.shape, generator=generator(3)).to(dense.weight.dtype)
    create = MASKED[dense_type].from_dense

    def build(module: nn.Module, mask: Tensor | None) -> Any:
        return create(module, mask=mask, scores=scores.clone() if with_scores else None)

    masked = build(dense, random_mask(dense.weight))
    state = masked.state_dict()
    keys = {"weight", "mask"} | ({"bias"} if dense.bias is not None else set())
    assert set(state) == keys | ({"scores"} if with_scores else set())
    other = build(dense_type(**keywords), None)
    other.load_state_dict(state)
    x = example(dense)
    assert torch.equal(other(x), masked(x))
    assert torch.equal(other.mask, masked.mask)


@modules
def test_gradients(dense_type: type[nn.Module], keywords: dict[str, Any]) -> None:
    dense, masked, x = pair(dense_type, keywords)
    masked.scores = nn.Parameter(torch.ones_like(masked.weight))
    masked(x).square().sum().backward()
    assert not masked.weight.grad[~masked.mask].any()

    effective = (dense.weight.detach() * masked.mask).requires_grad_()
    parameters = {"weight": effective}
    if dense.bias is not None:
        parameters["bias"] = dense.bias.detach()
    output = torch.func.functional_call(dense, parameters, (x,))
    (gradient,) = torch.autograd.grad(output.square().sum(), effective)
    tolerance = {"rtol": 1e-4, "atol": 1e-4}  # float32, sums of about a hundred terms
    torch.testing.assert_close(masked.weight.grad, gradient * masked.mask, **tolerance)
    torch.testing.assert_close(masked.scores.grad, gradient * dense.weight, **tolerance)


def test_scores_are_none_or_a_parameter() -> None:
    dense = nn.Conv2d(4, 6, 3)
    assert MaskedConv2d.from_dense(dense).scores is None
    scored = MaskedConv2d.from_dense(dense, scores=torch.ones_like(dense.weight))
    assert isinstance(scored.scores, nn.Parameter)
    assert {name for name, _ in scored.named_parameters()} == {"weight", "bias", "scores"}


def test_frozen_weights_train_by_their_scores_alone() -> None:
    dense = nn.Conv2d(4, 6, 3).requires_grad_(False)
    scored = MaskedConv2d.from_dense(dense, scores=torch.ones_like(dense.weight))
    scored(example(dense)).square().sum().backward()
    assert scored.weight.grad is None
    assert scored.scores is not None
    assert scored.scores.grad is not None
    assert scored.scores.grad[~scored.mask].numel() == 0
    assert scored.scores.grad.any()


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        (torch.ones(6, 4, 3, 3), TypeError, "bool"),
        (torch.ones(6, 4, 3, 1, dtype=torch.bool), ValueError, "shape"),
    ],
    ids=["dtype", "shape"],
)
def test_a_wrong_mask_is_refused(mask: Tensor, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"mask.*{words}"):
        MaskedConv2d.from_dense(nn.Conv2d(4, 6, 3), mask=mask)


def test_moving_and_casting_keeps_the_mask_boolean() -> None:
    masked = MaskedConv2d(4, 6, 3).to(torch.bfloat16)
    assert masked.mask.dtype == torch.bool
    assert masked.weight.dtype == torch.bfloat16
    assert masked.to("meta").mask.device.type == "meta"
    assert MaskedConv2d(4, 6, 3, device="meta").mask.device.type == "meta"


def test_a_network_of_masked_modules_compiles_and_pickles() -> None:
    conv = MaskedConv2d.from_dense(nn.Conv2d(1, 4, 3), mask=random_mask(torch.empty(4, 1, 3, 3)))
    linear = MaskedLinear.from_dense(nn.Linear(4, 2), mask=random_mask(torch.empty(2, 4)))
    network = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    x = torch.randn(3, 1, 8, 8, generator=generator(4))
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), network(x))


def test_initialisation_follows_the_global_seed_like_the_dense_module() -> None:
    torch.manual_seed(11)
    dense = nn.Conv2d(4, 6, 3)
    torch.manual_seed(11)
    masked = MaskedConv2d(4, 6, 3)
    assert torch.equal(dense.weight, masked.weight)
    assert dense.bias is not None
    assert masked.bias is not None
    assert torch.equal(dense.bias, masked.bias)


def test_shapes_on_the_meta_device() -> None:
    layer = MaskedConv2d(3, 4, 3).to("meta").eval()
    with torch.no_grad():
        y = layer(torch.empty(2, 3, 5, 6, device="meta"))
    assert y.device.type == "meta"
    assert y.shape == (2, 4, 3, 4)

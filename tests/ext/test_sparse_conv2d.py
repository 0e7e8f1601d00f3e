"""SparseConv2d: values of every fused form and layout, packing, and what it refuses."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.shapes import EDGE_SHAPES, ConvShape
from supertickets_ext.lanes import LaneTensor, to_lanes
from supertickets_ext.nn import MaskedConv2d
from supertickets_ext.sparse import SparseConv2d

CASES = [shape for shape in EDGE_SHAPES if shape.batch > 0]
# a sum of a few hundred products in float32, and one rounding to the output's type
TOLERANCE = {
    torch.float32: 1e-5,
    torch.bfloat16: 2**-7,
    torch.float16: 2**-9,
    torch.float64: 1e-12,
}

# torch's own convolution warns that an even kernel costs it a copy
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def pruned_conv(shape: ConvShape, dtype: torch.dtype = torch.float32) -> nn.Conv2d:
    inputs = shape.inputs(dtype=dtype)
    conv = nn.Conv2d(
        shape.channels, shape.outputs, shape.kernel, bias=shape.bias, **shape.keywords
    ).to(dtype)
    conv.weight.data = inputs.weight * inputs.mask
    if inputs.bias is not None:
        conv.bias = nn.Parameter(inputs.bias)
    return conv.requires_grad_(False).eval()


def batch_norm(channels: int) -> nn.BatchNorm2d:
    generator = torch.Generator().manual_seed(3)
    bn = nn.BatchNorm2d(channels)
    for tensor in (bn.weight.data, bn.bias.data, bn.running_mean, bn.running_var):
        assert tensor is not None
        tensor.copy_(torch.rand(channels, generator=generator) + 0.5)
    return bn.requires_grad_(False).eval()


def assert_close(actual: Any, expected: Tensor, dtype: torch.dtype = torch.float32) -> None:
    if isinstance(actual, LaneTensor):
        actual = actual.dense()
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    error = (actual.double() - expected).abs().max()
    assert error <= TOLERANCE[dtype] * max(1.0, float(expected.abs().max()))


def expected_of(
    conv: nn.Module, x: Tensor, residual: Tensor | None = None, relu: bool = False
) -> Tensor:
    y = copy.deepcopy(conv).double()(x.double())
    y = y if residual is None else y + residual.double()
    return y.relu() if relu else y


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("shape", CASES, ids=lambda shape: shape.name)
def test_every_shape(shape: ConvShape, dtype: torch.dtype) -> None:
    conv = pruned_conv(shape, dtype)
    sparse = SparseConv2d.from_dense(conv)
    x = shape.inputs(dtype=dtype).x
    assert_close(sparse(x), expected_of(conv, x), dtype)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("with_bn", [False, True])
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "lanes"])
@pytest.mark.parametrize("batch", [1, 3, 8, 17])
def test_fused_forms(
    batch: int, layout: str, with_bn: bool, with_residual: bool, relu: bool
) -> None:
    shape = ConvShape("fused", batch, 6, 10, (7, 9), stride=(2, 1), padding=1)
    conv, bn = pruned_conv(shape), batch_norm(10) if with_bn else None
    sparse = SparseConv2d.from_dense(conv, bn=bn, relu=relu)
    x = shape.inputs().x
    reference = nn.Sequential(conv, *([bn] if bn is not None else []))
    residual = torch.randn(batch, 10, 4, 9) if with_residual else None
    expected = expected_of(reference, x, residual, relu)
    given: list[Any] = [x, residual]
    if layout == "channels_last":
        given = [t if t is None else t.contiguous(memory_format=torch.channels_last) for t in given]
    if layout == "lanes":
        given = [t if t is None else to_lanes(t) for t in given]
    y = sparse(*given)
    assert isinstance(y, LaneTensor) == (layout == "lanes")
    assert_close(y, expected)
    if layout != "lanes":
        wanted = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        assert y.is_contiguous(memory_format=wanted)
    if with_residual:
        assert torch.equal(residual, given[1].dense() if layout == "lanes" else given[1])


@pytest.mark.parametrize("x_in_lanes", [False, True])
def test_residual_in_the_other_layout(x_in_lanes: bool) -> None:
    shape = ConvShape("residual", 9, 4, 4, (5, 5), padding=1)
    conv = pruned_conv(shape)
    sparse = SparseConv2d.from_dense(conv)
    x, residual = shape.inputs().x, torch.randn(9, 4, 5, 5)
    y = sparse(to_lanes(x), residual) if x_in_lanes else sparse(x, to_lanes(residual))
    assert_close(y, expected_of(conv, x, residual))


def test_unbatched_input() -> None:
    shape = ConvShape("one", 1, 4, 4, (5, 5))
    conv = pruned_conv(shape)
    x = shape.inputs().x[0]
    assert_close(SparseConv2d.from_dense(conv)(x), expected_of(conv, x))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes(mode: str) -> None:
    conv = nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode=mode).requires_grad_(False)
    x = torch.randn(2, 4, 7, 8)
    assert_close(SparseConv2d.from_dense(conv)(x), expected_of(conv, x))


def test_mask_of_its_own_given_and_from_zeros() -> None:
    conv = nn.Conv2d(4, 4, 3)
    mask = torch.rand(conv.weight.shape) < 0.5
    masked = MaskedConv2d.from_dense(conv, mask)
    by_layer = SparseConv2d.from_dense(masked)
    by_argument = SparseConv2d.from_dense(conv, mask)
    by_zeros = SparseConv2d.from_dense(masked.to_dense())
    x = torch.randn(2, 4, 6, 6)
    for sparse in (by_layer, by_argument, by_zeros):
        assert torch.equal(sparse.mask, mask)
        assert_close(sparse(x), expected_of(masked.to_dense(), x).detach())
    assert by_layer.density == pytest.approx(float(mask.float().mean()))
    assert f"density={by_layer.density:.4g}" in repr(by_layer)


def test_nothing_is_shared() -> None:
    conv = pruned_conv(ConvShape("own", 2, 4, 4, (5, 5)))
    sparse = SparseConv2d.from_dense(conv)
    x = torch.randn(2, 4, 5, 5)
    before = sparse(x)
    conv.weight.zero_()
    assert torch.equal(sparse(x), before)


# --- packing follows the weights ----------------------------------------------------------------


def sparse_and_input() -> tuple[nn.Conv2d, SparseConv2d, Tensor]:
    conv = pruned_conv(ConvShape("packed", 2, 4, 4, (5, 5), padding=1))
    sparse, x = SparseConv2d.from_dense(conv), torch.randn(2, 4, 5, 5)
    sparse(x)
    return conv, sparse, x


def test_other_sizes_and_batches() -> None:
    conv, sparse, _ = sparse_and_input()
    for size in ((2, 4, 5, 5), (9, 4, 5, 5), (1, 4, 6, 5), (20, 4, 5, 6), (2, 4, 5, 5)):
        x = torch.randn(size)
        assert_close(sparse(x), expected_of(conv, x))
        assert_close(sparse(to_lanes(x)), expected_of(conv, x))


def test_set_weight() -> None:
    conv, sparse, x = sparse_and_input()
    conv.weight.copy_(torch.randn(conv.weight.shape).relu())
    conv.bias.fill_(2.0)
    sparse.set_weight(conv.weight, bias=conv.bias)
    assert torch.equal(sparse.mask, conv.weight != 0)
    assert_close(sparse(x), expected_of(conv, x))


def test_weight_changed_in_place() -> None:
    conv, sparse, x = sparse_and_input()
    for layer in (conv, sparse):
        layer.weight.mul_(2.0)
    assert_close(sparse(x), expected_of(conv, x))


@pytest.mark.parametrize("assign", [False, True])
def test_state_dict(assign: bool) -> None:
    conv, sparse, x = sparse_and_input()
    assert list(sparse.state_dict()) == ["weight", "bias", "mask"]
    other = SparseConv2d.from_dense(pruned_conv(ConvShape("o", 2, 4, 4, (5, 5), padding=1)))
    other.set_weight(torch.ones_like(other.weight))
    other(x)
    other.load_state_dict(sparse.state_dict(), assign=assign)
    assert_close(other(x), expected_of(conv, x))


def test_to_another_dtype_and_back() -> None:
    conv, sparse, x = sparse_and_input()
    sparse.bfloat16()
    assert_close(sparse(x.bfloat16()), expected_of(conv.bfloat16(), x.bfloat16()), torch.bfloat16)
    assert_close(sparse.float()(x), expected_of(conv.float(), x))


def test_copy_and_pickle() -> None:
    conv, sparse, x = sparse_and_input()
    file = io.BytesIO()
    torch.save(sparse, file)
    file.seek(0)
    for other in (copy.deepcopy(sparse), torch.load(file, weights_only=False)):
        other.weight.mul_(2.0)
        assert torch.equal(sparse(x), sparse(x))
        assert_close(other(x) - other.bias.view(-1, 1, 1), 2 * expected_of(conv, x)
                     - 2 * conv.bias.double().view(-1, 1, 1))  # fmt: skip


def test_gradient_reaches_the_input() -> None:
    conv, _, x = sparse_and_input()
    sparse = SparseConv2d.from_dense(conv, relu=True)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(sparse(x).sum(), x)
    (expected,) = torch.autograd.grad(conv(x).relu().sum(), x)
    torch.testing.assert_close(gradient, expected)


def test_autocast_keeps_the_layers_dtype() -> None:
    conv, sparse, x = sparse_and_input()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(sparse(x.bfloat16()), expected_of(conv, x.bfloat16()))


# --- what it refuses ----------------------------------------------------------------------------


def test_wrong_arguments() -> None:
    conv, sparse, x = sparse_and_input()
    with pytest.raises(TypeError, match=r"conv must be nn\.Conv2d, got Linear"):
        SparseConv2d.from_dense(nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"mask must be bool, got torch\.float32"):
        SparseConv2d.from_dense(conv, torch.ones_like(conv.weight))
    with pytest.raises(ValueError, match=r"mask must have weight's shape \(4, 4, 3, 3\)"):
        SparseConv2d.from_dense(conv, torch.ones(4, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"bn must be nn\.BatchNorm2d, got GroupNorm"):
        SparseConv2d.from_dense(conv, bn=nn.GroupNorm(2, 4))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bn must keep running statistics"):
        SparseConv2d.from_dense(conv, bn=nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(ValueError, match="bn must have conv's 4 filters, got 5"):
        SparseConv2d.from_dense(conv, bn=nn.BatchNorm2d(5))
    with pytest.raises(TypeError, match="must have weight's dtype"):
        sparse(x.double())
    with pytest.raises(ValueError, match="x must have 4 channels"):
        sparse(torch.randn(2, 3, 5, 5))
    with pytest.raises(ValueError, match="x must have 4 channels"):
        sparse(to_lanes(torch.randn(2, 3, 5, 5)))
    with pytest.raises(ValueError, match=r"residual must .* \(2, 4, 5, 5\), got \(2, 4, 1, 1\)"):
        sparse(x, torch.randn(2, 4, 1, 1))
    with pytest.raises(ValueError, match="weight must have shape"):
        sparse.set_weight(torch.ones(1, 4, 3, 3))
    without = SparseConv2d.from_dense(nn.Conv2d(4, 4, 3, bias=False))
    with pytest.raises(ValueError, match="the layer has no bias"):
        without.set_weight(without.weight, bias=torch.ones(4))

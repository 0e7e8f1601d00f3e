"""The raw Jacobian operators on every back end, against sums that are written out, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import supertickets_ext as ext
from benchmarks.shapes import EDGE_SHAPES, ConvShape
from supertickets_ext import _jacobian_rows as rows_module
from tests.ext.cases import options_of
from tests.ext.jacobian_nets import NETS, build, close, seeded

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
    pytest.mark.usefixtures("backend"),
]
DTYPES = (torch.float32, torch.float64)
WIDE = (  # around the tiles of 64 filters and 64 taps, and their 16 pixels
    ConvShape("tile", 2, 7, 64, (4, 4), padding=1),
    ConvShape("over-tile", 1, 8, 65, (4, 5), kernel=(3, 2)),
    ConvShape("pixels-15", 2, 2, 9, (3, 5), kernel=(1, 1)),
    ConvShape("pixels-17", 1, 2, 9, (1, 17), kernel=(1, 1)),
    ConvShape("groups", 2, 18, 18, (5, 5), padding=1, groups=2),
)
SHAPES = [s for s in (*EDGE_SHAPES, *WIDE) if isinstance(s.padding, int)]


def row_by_row(shape: ConvShape, grad: Tensor, x: Tensor, images: int) -> Tensor:
    """Rows by one backward pass each."""
    rows = []
    for first in range(0, len(grad), images):
        weight = torch.zeros(shape.weight_shape, dtype=grad.dtype, requires_grad=True)
        own = [(first + i) % len(x) for i in range(images)]
        y = F.conv2d(x[own], weight, **shape.keywords)
        rows.append(torch.autograd.grad(y, weight, grad[first : first + images])[0])
    return torch.stack(rows) if rows else grad.new_zeros(0, *shape.weight_shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("extras", ["plain", "mask", "scale", "everything"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_rows(shape: ConvShape, extras: str, dtype: torch.dtype) -> None:
    x, weight, mask, _ = shape.inputs(dtype=dtype)
    y = F.conv2d(x, weight, **shape.keywords)
    grad = torch.randn(2 * len(y), *y.shape[1:], generator=seeded(), dtype=dtype)
    scale = torch.randn(shape.outputs, generator=seeded(), dtype=dtype)
    given = (
        mask if extras in ("mask", "everything") else None,
        scale if extras in ("scale", "everything") else None,
        weight if extras == "everything" else None,
    )
    for images in {1, max(len(x), 1)}:
        rows, dots = rows_module._ops.jacobian_conv2d_rows(
            grad, x, *given, list(weight.shape), images, *options_of(shape)
        )
        plain = row_by_row(shape, grad.double(), x.double(), images)
        size = row_by_row(shape, grad.double().abs(), x.double().abs(), images)
        rounding = torch.finfo(dtype).eps * images * y[0, 0].numel() if len(y) else 0.0
        factor = scale.double().view(-1, 1, 1, 1) if given[1] is not None else 1.0
        exact, bound = plain * factor, size * rounding * abs(factor) + 1e-14
        if given[0] is not None:
            exact, bound = exact * mask, bound * mask
        assert rows.dtype == dtype
        assert ((rows.double() - exact).abs() <= bound).all()
        if given[2] is None:
            assert dots.shape == (0, shape.outputs)
        else:
            products = (plain * weight.double()).flatten(2).sum(2)
            room = (size * weight.double().abs()).flatten(2).sum(2)
            room = room * (rounding + torch.finfo(dtype).eps * weight[0].numel()) + 1e-14
            assert ((dots.double() - products).abs() <= room).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [0, 1, 15, 16, 17, 2047, 2049, 5000])
@pytest.mark.parametrize(("first", "second"), [(1, 1), (8, 5), (33, 32), (65, 70), (0, 3)])
def test_gram(first: int, second: int, columns: int, dtype: torch.dtype) -> None:
    one, two = (torch.randn(n, columns, generator=seeded(), dtype=dtype) for n in (first, second))
    start = torch.randn(first, second, generator=seeded(), dtype=torch.float64)
    gram = start.clone()
    rows_module.add_gram(gram, one, two)
    room = (
        2
        * torch.finfo(dtype).eps
        * min(columns, 2048)
        * (one.double().abs() @ two.double().abs().T)
    )
    error = (gram - start - one.double() @ two.double().T).abs()
    assert (error <= room + 1e-13).all()
    own = torch.zeros(first, first, dtype=torch.float64)
    rows_module.add_gram(own, one, None)
    assert torch.equal(own, own.T)
    again = torch.zeros(first, first, dtype=torch.float64)
    rows_module.add_gram(again, one, one)
    torch.testing.assert_close(own, again)


@pytest.mark.parametrize("mode", ["coupled", "independent"])
@pytest.mark.parametrize("name", NETS)
def test_gram_of_a_network(name: str, mode: str, backend: str) -> None:
    """The layers' route of every network, whose rows and products these operators are."""
    if backend == "cpu":
        pytest.skip("test_jacobian.py compares these with torch.func")
    net, x = build(name)
    gram = ext.ntk_gram(net, x, mode=mode)
    close(gram, ext.reference.ntk_gram(net, x, mode=mode))

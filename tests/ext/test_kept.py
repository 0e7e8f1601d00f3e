"""What is kept between calls: the same bits as without, and never of a mask or weight of before."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

import supertickets_ext
from benchmarks.shapes import EDGE_SHAPES, ConvShape
from supertickets_ext import _kept
from supertickets_ext.nn import MaskedConv2d, MaskedLinear, SparseConv2d
from tests.ext.cases import cotangent_for, laid_out, options_of

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

_ops = torch.ops.supertickets
SHAPE = ConvShape("kept", 2, 12, 10, (9, 8), padding=1)


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    _kept.forget_all()


# --- patterns: hints, which the operators check -------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", EDGE_SHAPES, ids=lambda shape: shape.name)
def test_a_pattern_changes_no_bit(shape: ConvShape, dtype: torch.dtype) -> None:
    inputs, options = shape.inputs(dtype=dtype), options_of(shape)
    weight, mask = inputs.weight, inputs.mask
    grad = cotangent_for(shape, inputs)
    for layout in ("nchw", "channels_last", "lanes"):
        x, dy = laid_out(inputs.x, layout), laid_out(grad, layout)
        ours, theirs = (
            _ops.masked_conv2d_pattern(weight, mask, x.shape, *options, grad_input)
            for grad_input in (False, True)
        )
        other = mask.logical_not()
        for pattern, kept in ((ours, mask), (ours, other), (theirs, mask)):
            y = _ops.masked_conv2d(x, weight, kept, None, *options, pattern)
            assert torch.equal(y, _ops.masked_conv2d(x, weight, kept, None, *options))
            dw = _ops.masked_conv2d_grad_weight(dy, x, kept, weight.shape, *options, pattern)
            plain = _ops.masked_conv2d_grad_weight(dy, x, kept, weight.shape, *options)
            assert torch.equal(dw, plain)
        for pattern, kept in ((theirs, mask), (theirs, other), (ours, mask)):
            dx = _ops.masked_conv2d_grad_input(dy, weight, kept, x.shape, *options, pattern)
            assert torch.equal(
                dx, _ops.masked_conv2d_grad_input(dy, weight, kept, x.shape, *options)
            )


@pytest.mark.parametrize("entry", [0, 1, 62, 63, 64, 65, 1000, 1079])
def test_one_changed_entry_is_seen(entry: int) -> None:
    inputs, options = SHAPE.inputs(), options_of(SHAPE)
    pattern = _ops.masked_conv2d_pattern(
        inputs.weight, inputs.mask, inputs.x.shape, *options, False
    )
    mask = inputs.mask.clone()
    mask.view(-1)[entry] ^= True
    y = _ops.masked_conv2d(inputs.x, inputs.weight, mask, None, *options, pattern)
    assert torch.equal(y, _ops.masked_conv2d(inputs.x, inputs.weight, mask, None, *options))


# --- modules: every way to change a mask or a weight ---------------------------------------------


def layer(route: str = "sparse", density: float = 0.3) -> MaskedConv2d:
    inputs = SHAPE.inputs(density=density)
    conv = nn.Conv2d(12, 10, 3, padding=1)
    conv.weight.data = inputs.weight
    module = MaskedConv2d.from_dense(conv, inputs.mask).eval()
    module.route = route
    return module


def expected(module: MaskedConv2d | SparseConv2d, x: Tensor) -> Tensor:
    return F.conv2d(x, module.weight.where(module.mask, 0), module.bias, padding=1)


def replace_mask(module: MaskedConv2d) -> None:
    module.mask = module.mask.logical_not()


def move_weight(module: MaskedConv2d) -> None:
    module.weight = nn.Parameter(module.weight.detach() * 2)


def optimizer_step(module: MaskedConv2d) -> None:
    module.weight.grad = torch.ones_like(module.weight)
    torch.optim.SGD([module.weight], lr=0.5).step()


def load(module: MaskedConv2d) -> None:
    module.load_state_dict({**layer().state_dict(), "mask": module.mask.logical_not()})


def swap_data_twice(module: MaskedConv2d) -> None:
    """The second new memory may lie where the first was."""
    module.weight.data = module.weight.data + 1
    module.weight.data = module.weight.data + 1


def in_inference_mode(module: MaskedConv2d) -> None:
    with torch.inference_mode():
        module.mask.logical_not_()
        module.weight.mul_(3)


def transpose_data(module: MaskedConv2d) -> None:
    module.weight.data = module.weight.data.transpose(2, 3)


CHANGES: dict[str, Callable[[Any], object]] = {
    "set_mask": lambda m: m.set_mask(m.mask.logical_not()),
    "mask entry": lambda m: m.mask.__setitem__(0, m.mask[0].logical_not()),
    "view of mask": lambda m: m.mask.view(-1)[3:].logical_not_(),
    "detached mask": lambda m: m.mask.detach().logical_not_(),
    "new mask": replace_mask,
    "topk": lambda m: supertickets_ext.update_topk_mask_(m.mask, torch.rand(m.mask.shape), 40),
    "topk list": lambda m: supertickets_ext.update_topk_masks_(
        [m.mask], [torch.rand(m.mask.shape)], [40]
    ),
    "rigl": lambda m: supertickets_ext.rigl_update_(
        m.mask, m.weight.detach(), torch.rand(m.mask.shape), 7
    ),
    "load_state_dict": load,
    "inference mode": in_inference_mode,
    "optimizer": optimizer_step,
    "weight in place": lambda m: m.weight.detach().mul_(-2),
    "new weight": move_weight,
    "new data": lambda m: setattr(m.weight, "data", m.weight.data * 2),
    "new data, twice": swap_data_twice,
    "transposed data": transpose_data,
    "data, then eval": lambda m: (m.mask.data.logical_not_(), m.weight.data.mul_(2), m.eval()),
    "data, then train": lambda m: (m.weight.data.mul_(2), m.train()),
    "data, then invalidate": lambda m: (m.weight.data.mul_(2), m.invalidate()),
    "memory format": lambda m: m.to(memory_format=torch.channels_last),
}  # fmt: skip


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "gradients"])
@pytest.mark.parametrize("route", ["sparse", "dense", "auto"])
@pytest.mark.parametrize("change", CHANGES, ids=list(CHANGES))
def test_a_change_is_seen_at_once(change: str, route: str, grad: bool) -> None:
    module, inputs = layer(route), SHAPE.inputs()
    torch.manual_seed(0)
    with torch.set_grad_enabled(grad):
        for _ in range(3):
            torch.testing.assert_close(module(inputs.x), expected(module, inputs.x))
        before = module(inputs.x).detach()
        CHANGES[change](module)
        for _ in range(3):
            y = module(inputs.x)
            torch.testing.assert_close(y, expected(module, inputs.x))
        assert change == "memory format" or not torch.allclose(y.detach(), before)


@pytest.mark.parametrize("change", ["weight in place", "new data", "new data, twice", "mask entry"])
@torch.no_grad()
def test_a_sparse_convolution_sees_changes(change: str) -> None:
    sparse, x = SparseConv2d.from_dense(layer()), SHAPE.inputs().x
    for _ in range(3):
        torch.testing.assert_close(sparse(x), expected(sparse, x))
    CHANGES[change](sparse)
    torch.testing.assert_close(sparse(x), expected(sparse, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("edit", ["data", "numpy"])
def test_masks_written_past_their_counter_are_seen_in_training(edit: str) -> None:
    module, inputs = layer(), SHAPE.inputs()
    for _ in range(3):
        module(inputs.x).sum().backward()
    if edit == "data":
        module.mask.data.logical_not_()
    else:
        module.mask.numpy()[...] = ~module.mask.numpy()
    x = inputs.x.clone().requires_grad_()
    y = module(x)
    torch.testing.assert_close(y, expected(module, x))
    ours = torch.autograd.grad(y.square().sum(), [x, module.weight])
    theirs = torch.autograd.grad(expected(module, x).square().sum(), [x, module.weight])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)  # float32 sums of squares


def test_a_compact_route_is_left_when_its_mask_is_written_past_its_counter() -> None:
    module = MaskedConv2d.from_dense(nn.Conv2d(12, 64, 3, padding=1))
    module.mask[8:] = False
    x = torch.randn(2, 12, 30, 30)
    for _ in range(2):
        torch.testing.assert_close(module(x), expected(module, x), rtol=1e-4, atol=1e-4)
    ((_, route),) = _kept._kept[id(module.mask)].routes.items()
    assert "compact" in route.times_us
    object.__setattr__(route, "name", "compact")  # whatever measured fastest here
    _kept._kept[id(module.mask)].seen = module.mask.clone()
    module.mask.data[20:30] = True
    torch.testing.assert_close(module(x), expected(module, x), rtol=1e-4, atol=1e-4)


def test_a_mask_that_is_a_view_changes_with_its_base() -> None:
    inputs, options = SHAPE.inputs(), options_of(SHAPE)
    base = inputs.mask.view(-1).clone()
    mask = base.view(inputs.mask.shape)
    with torch.no_grad():
        for _ in range(4):
            y = supertickets_ext.masked_conv2d(inputs.x, inputs.weight, mask, padding=1)
            assert torch.equal(y, _ops.masked_conv2d(inputs.x, inputs.weight, mask, None, *options))
            base[:500].logical_not_()


def test_to_another_dtype_and_back() -> None:
    module, inputs = layer(), SHAPE.inputs()
    with torch.no_grad():
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float32):
            x = inputs.x.to(dtype)
            y = module.to(dtype)(x)
            assert y.dtype == dtype
            wide = expected(module.double(), x.double())
            tolerance = {torch.bfloat16: 2e-2}.get(dtype, 1e-4)
            torch.testing.assert_close(y.double(), wide, rtol=tolerance, atol=tolerance)


def test_copies_keep_nothing_of_the_original() -> None:
    module, x = layer(), SHAPE.inputs().x
    with torch.no_grad():
        first = module(x)
        stream = io.BytesIO()
        torch.save(module, stream)
        stream.seek(0)
        copies = [
            copy.deepcopy(module),
            pickle.loads(pickle.dumps(module)),
            torch.load(stream, weights_only=False),
        ]
        for other in copies:
            assert torch.equal(other(x), first)
            other.mask.logical_not_()
            torch.testing.assert_close(other(x), expected(other, x))
            assert torch.equal(module(x), first)


def test_parameters_given_for_one_call() -> None:
    module, x = layer(), SHAPE.inputs().x
    with torch.no_grad():
        first = module(x)
        for factor in (2.0, 3.0, 2.0):
            given = {"weight": module.weight * factor, "mask": module.mask.logical_not()}
            y = functional_call(module, given, (x,))
            kept = given["weight"].where(given["mask"], 0)
            torch.testing.assert_close(y, F.conv2d(x, kept, module.bias, padding=1))
        assert torch.equal(module(x), first)


def test_vmap_over_masks_and_autocast() -> None:
    module, x = layer(), SHAPE.inputs().x
    masks = torch.stack([module.mask, module.mask.logical_not()])
    with torch.no_grad():
        module(x)
        ys = vmap(lambda mask: functional_call(module, {"mask": mask}, (x,)))(masks)
        for y, mask in zip(ys, masks, strict=True):
            kept = module.weight.where(mask, 0)
            torch.testing.assert_close(y, F.conv2d(x, kept, module.bias, padding=1))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert module(x).dtype == torch.bfloat16
        assert module(x).dtype == torch.float32


def test_options_of_a_layer_may_change() -> None:
    module, x = layer(), SHAPE.inputs().x
    with torch.no_grad():
        assert module(x).shape == (2, 10, 9, 8)
        module.stride, module.padding = (2, 2), (0, 0)
        assert module(x).shape == (2, 10, 4, 3)
        module.padding, module.padding_mode = (1, 1), "circular"
        module._reversed_padding_repeated_twice = [1, 1, 1, 1]
        kept = module.weight.where(module.mask, 0)
        circular = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), kept, module.bias, stride=2)
        torch.testing.assert_close(module(x), circular)


def test_weights_that_share_a_mask_in_threads() -> None:
    inputs, options = SHAPE.inputs(), options_of(SHAPE)
    weights = [inputs.weight * factor for factor in (1.0, 2.0, 3.0)]
    wanted = [_ops.masked_conv2d(inputs.x, w, inputs.mask, None, *options) for w in weights]
    wrong: list[int] = []

    def work(i: int) -> None:
        with torch.no_grad():
            for _ in range(200):
                y = supertickets_ext.masked_conv2d(inputs.x, weights[i], inputs.mask, padding=1)
                if not torch.equal(y, wanted[i]):
                    wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_threads_share_a_layer() -> None:
    module, inputs = layer(), SHAPE.inputs()
    wanted = {size: expected(module, inputs.x[..., :size]) for size in (4, 5, 6, 7, 8)}
    wrong: list[int] = []

    def work(size: int) -> None:
        with torch.no_grad():
            for _ in range(50):
                if not torch.allclose(module(inputs.x[..., :size]), wanted[size], atol=1e-4):
                    wrong.append(size)

    workers = [threading.Thread(target=work, args=(size,)) for size in wanted for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


# --- what is kept, and how much ------------------------------------------------------------------


def calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    """Fills with the name at every call of an operator by what keeps things."""
    seen: list[str] = []
    real = getattr(_ops, name)

    class Counting:
        def __getattr__(self, other: str) -> object:
            return (
                (lambda *a: (seen.append(name), real(*a))[1])
                if other == name
                else getattr(_ops, other)
            )

    monkeypatch.setattr(_kept, "_ops", Counting())
    return seen


def test_inference_packs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = calls(monkeypatch, "masked_conv2d_pack")
    module, x = layer(), SHAPE.inputs().x
    with torch.no_grad():
        for _ in range(5):
            module(x)
    assert len(seen) == 1


def test_training_looks_at_an_unchanged_mask_once_for_each_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = calls(monkeypatch, "masked_conv2d_pattern")
    module = layer().train()
    x = SHAPE.inputs().x.requires_grad_()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    for _ in range(5):
        optimizer.zero_grad()
        module(x).sum().backward()
        optimizer.step()
    assert len(seen) == 2


def test_what_is_kept_is_bounded_and_goes_with_the_mask() -> None:
    module, x = layer(), torch.randn(1, 12, 40, 40)
    with torch.no_grad():
        for size in range(3, 40):
            module(x[..., :size])
    kept = _kept._kept[id(module.mask)]
    assert kept.prepared is not None
    assert len(kept.prepared[2]) <= 8
    assert len(module._ready) <= 8
    for size in range(3, 40):
        module(x[..., :size])
    assert len(kept.patterns) <= 8
    del kept, module
    gc.collect()
    assert not _kept._kept


def test_a_linear_layer_sees_changes() -> None:
    linear = MaskedLinear.from_dense(nn.Linear(20, 7), torch.rand(7, 20) < 0.3)
    x = torch.randn(5, 20)
    with torch.no_grad():
        for _ in range(3):
            kept = linear.weight.where(linear.mask, 0)
            torch.testing.assert_close(linear(x), F.linear(x, kept, linear.bias))
            linear.mask.logical_not_()
            linear.weight.add_(1)


def test_nothing_is_kept_while_a_cuda_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = MaskedConv2d(3, 4, 3).requires_grad_(False)
    layer.route = "sparse"
    sparse, x = SparseConv2d.from_dense(layer, layer.mask), torch.randn(2, 3, 5, 5)
    expected = layer(x)
    for module in (_kept, supertickets_ext.routes, supertickets_ext.sparse):
        monkeypatch.setattr(module, "is_captured", lambda: True)
    _kept.forget_all()
    for _ in range(3):
        torch.testing.assert_close(layer(x), expected)
        torch.testing.assert_close(sparse(x), expected)
    assert not sparse._packed
    assert all(kept.prepared is None and not kept.patterns for kept in _kept._kept.values())
    layer.route = "auto"
    torch.testing.assert_close(layer(x), expected)
    (row,) = supertickets_ext.explain(layer, x).rows
    assert row.route.name == "dense"
    assert "captured" in row.route.reason

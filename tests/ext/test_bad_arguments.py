"""Bad arguments: the message names operator, argument, what was expected and what was given."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import supertickets_ext
from supertickets_ext import global_topk_mask, masked_conv2d, topk_mask, update_topk_mask_
from supertickets_ext.lanes import to_lanes

X = torch.zeros(2, 4, 5, 5)
WEIGHT = torch.zeros(8, 4, 3, 3)
MASK = torch.ones(8, 4, 3, 3, dtype=torch.bool)
META = torch.device("meta")  # stands for another device: every build of torch has it

# (what is wrong, arguments that replace the good ones, error, words of the message in order)
CONV_FAULTS: list[tuple[str, dict[str, Any], type[Exception], list[str]]] = [
    ("mask-dtype", {"mask": MASK.float()}, TypeError, ["mask", "bool", "torch.float32"]),
    ("mask-shape", {"mask": MASK[..., :1]}, ValueError, ["mask", "(8, 4, 3, 3)", "(8, 4, 3, 1)"]),
    ("mask-device", {"mask": MASK.to(META)}, ValueError, ["mask", "cpu", "meta"]),
    ("weight-dims", {"weight": WEIGHT[0]}, ValueError, ["weight", "4", "(4, 3, 3)"]),
    ("weight-dtype", {"weight": WEIGHT.double()}, TypeError, ["torch.float32", "torch.float64"]),
    ("weight-device", {"weight": WEIGHT.to(META)}, ValueError, ["cpu", "meta"]),
    ("x-dims", {"x": X[0, 0]}, ValueError, ["x", "(5, 5)"]),
    ("x-integer", {"x": X.int(), "weight": WEIGHT.int()}, TypeError, ["torch.int32"]),
    ("x-complex", {"x": X.cfloat(), "weight": WEIGHT.cfloat()}, TypeError, ["torch.complex64"]),
    ("x-channels", {"x": X[:, :3]}, ValueError, ["x", "4", "3"]),
    ("bias-shape", {"bias": torch.zeros(7)}, ValueError, ["bias", "(8,)", "(7,)"]),
    ("bias-dtype", {"bias": torch.zeros(8).half()}, TypeError, ["bias", "float32", "float16"]),
    ("scores-shape", {"scores": WEIGHT[:7]}, ValueError, ["scores", "(8, 4, 3, 3)", "(7, 4"]),
    ("scores-dtype", {"scores": MASK}, TypeError, ["scores", "torch.bool"]),
    ("scores-device", {"scores": WEIGHT.to(META)}, ValueError, ["scores", "cpu", "meta"]),
    ("groups-channels", {"groups": 3}, ValueError, ["groups", "3"]),
    ("groups-zero", {"groups": 0}, ValueError, ["groups", "0"]),
    ("groups-negative", {"groups": -1}, ValueError, ["groups", "-1"]),
    ("groups-x", {"groups": 2}, ValueError, ["8", "4"]),
    ("stride-zero", {"stride": 0}, ValueError, ["stride", "0"]),
    ("stride-negative", {"stride": (1, -2)}, ValueError, ["stride", "-2"]),
    ("stride-triple", {"stride": (1, 1, 1)}, ValueError, ["stride", "(1, 1, 1)"]),
    ("dilation-zero", {"dilation": 0}, ValueError, ["dilation", "0"]),
    ("padding-negative", {"padding": -1}, ValueError, ["padding", "-1"]),
    ("padding-word", {"padding": "full"}, ValueError, ["padding", "full"]),
    ("same-with-stride", {"padding": "same", "stride": 2}, ValueError, ["padding", "same", "2"]),
    ("kernel-over-image", {"x": X[:, :, :2]}, ValueError, ["kernel", "3", "2"]),
    ("route-word", {"route": "fastest"}, ValueError, ["route", "auto", "sparse", "fastest"]),
    ("lanes-channels", {"x": to_lanes(X[:, :3])}, ValueError, ["x", "4", "3"]),
    ("lanes-dtype", {"x": to_lanes(X.double())}, TypeError, ["torch.float64", "torch.float32"]),
    ("lanes-bias", {"x": to_lanes(X), "bias": torch.zeros(7)}, ValueError, ["(8,)", "(7,)"]),
    ("lanes-kernel", {"x": to_lanes(X[:, :, :2])}, ValueError, ["kernel", "3", "2"]),
    ("plain-five-dims", {"x": to_lanes(X).lanes}, ValueError, ["x", "4", "(1, 4, 5, 5, 16)"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [fault[1:] for fault in CONV_FAULTS],
    ids=[fault[0] for fault in CONV_FAULTS],
)
def test_masked_conv2d(changes: dict[str, Any], error: type[Exception], words: list[str]) -> None:
    arguments: dict[str, Any] = {"x": X, "weight": WEIGHT, "mask": MASK, **changes}
    positional = [arguments.pop(name) for name in ("x", "weight", "mask")]
    with pytest.raises(error) as raised:
        masked_conv2d(*positional, **arguments)
    assert_words(str(raised.value), "masked_conv2d", words)


def assert_words(message: str, operator: str, words: list[str]) -> None:
    assert message.startswith(f"{operator}: "), message
    pattern = ".*".join(re.escape(word) for word in words)
    assert re.search(pattern, message), f"{message!r} should say {words} in this order"


SCORES = torch.arange(12.0).view(3, 4)
WHOLE = torch.zeros(3, 4, dtype=torch.bool)


def test_exact_wording() -> None:
    with pytest.raises(ValueError, match=re.escape("topk_mask: keep must be in [0, 12], got 13")):
        topk_mask(SCORES, 13)
    with pytest.raises(TypeError, match=r"^masked_conv2d: mask must be bool, got torch.float32$"):
        masked_conv2d(X, WEIGHT, MASK.float())
    words = "masked_conv2d: mask must have weight's shape (8, 4, 3, 3), got (8, 4, 3, 1)"
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        masked_conv2d(X, WEIGHT, MASK[..., :1])


@pytest.mark.parametrize("keep", [-1, 13])
def test_keep_out_of_range(keep: int) -> None:
    for operator, call in {
        "topk_mask": lambda: topk_mask(SCORES, keep),
        "global_topk_mask": lambda: global_topk_mask([SCORES[:2], SCORES[2:]], keep),
        "update_topk_mask_": lambda: update_topk_mask_(WHOLE.clone(), SCORES, keep),
    }.items():
        with pytest.raises(ValueError, match="keep") as raised:
            call()
        assert_words(str(raised.value), operator, ["keep", "[0, 12]", str(keep)])


def test_keep_is_counted_along_dim() -> None:
    with pytest.raises(ValueError, match="keep") as raised:
        topk_mask(SCORES, 4, dim=0)
    assert_words(str(raised.value), "topk_mask", ["keep", "[0, 3]", "4"])


@pytest.mark.parametrize("name", ["x", "weight", "mask", "bias", "scores"])
def test_arguments_must_be_tensors(name: str) -> None:
    arguments: dict[str, Any] = {"x": X, "weight": WEIGHT, "mask": MASK, name: [1.0]}
    with pytest.raises(TypeError, match=rf"^masked_conv2d: {name} must be a tensor, got list"):
        masked_conv2d(**arguments)


@pytest.mark.parametrize("keep", [1.5, "3", None, True])
def test_keep_must_be_an_int(keep: Any) -> None:
    with pytest.raises(TypeError, match=r"^topk_mask: keep "):
        topk_mask(SCORES, keep)


@pytest.mark.parametrize("dim", [2, -3])
def test_dim_out_of_range(dim: int) -> None:
    with pytest.raises(ValueError, match="dim") as raised:
        topk_mask(SCORES, 1, dim=dim)
    assert_words(str(raised.value), "topk_mask", ["dim", "[-2, 1]", str(dim)])


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.bool], ids=str)
def test_scores_must_be_floating(dtype: torch.dtype) -> None:
    scores = SCORES.to(dtype)
    for operator, call in {
        "topk_mask": lambda: topk_mask(scores, 1),
        "global_topk_mask": lambda: global_topk_mask([scores], 1),
        "update_topk_mask_": lambda: update_topk_mask_(WHOLE.clone(), scores, 1),
    }.items():
        with pytest.raises(TypeError, match="scores") as raised:
            call()
        assert_words(str(raised.value), operator, ["scores", str(scores.dtype)])


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        (WHOLE.float(), TypeError, ["mask", "bool", "torch.float32"]),
        (WHOLE[:2], ValueError, ["mask", "(3, 4)", "(2, 4)"]),
        (WHOLE.to(META), ValueError, ["mask", "cpu", "meta"]),
        (WHOLE[:1].expand(3, 4), ValueError, ["mask", "overlap"]),
    ],
    ids=["dtype", "shape", "device", "expanded"],
)
def test_update_mask(mask: Tensor, error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as raised:
        update_topk_mask_(mask, SCORES, 3)
    assert_words(str(raised.value), "update_topk_mask_", words)


def test_negative_max_swaps() -> None:
    mask = WHOLE.clone()
    with pytest.raises(ValueError, match="max_swaps") as raised:
        update_topk_mask_(mask, SCORES, 3, max_swaps=-1)
    assert_words(str(raised.value), "update_topk_mask_", ["max_swaps", "-1"])
    assert not mask.any(), "a refused call must leave the mask alone"


def test_global_scores_must_be_a_list_on_one_device() -> None:
    with pytest.raises(ValueError, match=r"^global_topk_mask: .*cpu.*meta"):
        global_topk_mask([SCORES, SCORES.to(META)], 1)
    with pytest.raises(ValueError, match=r"^global_topk_mask: .*at least one"):
        global_topk_mask([], 0)
    with pytest.raises(TypeError, match=r"^global_topk_mask: .*torch.float32.*torch.float64"):
        global_topk_mask([SCORES, SCORES.double()], 1)


@pytest.mark.parametrize(
    ("op", "call"),
    [
        ("topk_mask", lambda x: supertickets_ext.topk_mask(x, 1)),
        ("nm_mask", lambda x: supertickets_ext.nm_mask(x, 1, 2)),
        ("pack_mask", lambda x: supertickets_ext.pack_mask(x > 0)),
        ("pack_signs", supertickets_ext.pack_signs),
        ("count_patterns", lambda x: supertickets_ext.count_patterns(x.long())),
        ("activation_patterns", lambda x: supertickets_ext.activation_patterns(nn.ReLU(), x)),
    ],
)
def test_a_device_without_kernels_is_named(op: str, call: Callable[[Tensor], object]) -> None:
    with FakeTensorMode():
        x = torch.empty(2, 4, 1, 1, device="xpu")
    shaped = x if op == "activation_patterns" else x.reshape(2, 4)
    with pytest.raises(ValueError, match=f"^{op}: this build has kernels for .* only, got .*xpu"):
        call(shaped)

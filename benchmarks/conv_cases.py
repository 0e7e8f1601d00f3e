"""What is timed of masked_conv2d and of torch's dense convolution, on one layer.

The dense side is ``F.conv2d``, and ``aten.convolution_backward`` for gradients. Its weight is
masked beforehand, also in training, where a user would have to do it in each step. Our side packs
the weights beforehand in inference; in training each step brings new values into the kept pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.shapes import ConvShape
from supertickets_ext import masked_conv2d, reference
from supertickets_ext._conv_options import ConvOptions, conv_options
from supertickets_ext.lanes import LaneTensor
from supertickets_ext.nn import MaskedConv2d, SparseConv2d

_ops = torch.ops.supertickets
# Against float64, relative to the largest value: sums of up to 4608 float32 products, or one
# rounding of the result to the storage type (of a gradient's parts as well).
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-3}

Results = dict[str, Tensor]


class Contender(NamedTuple):
    """What is timed, and how its result reads as plain tensors by name."""

    call: Callable[[], Any]
    read: Callable[[Any], Results]
    precision: torch.dtype | None = None  # of what it computes in, if not that of its results


class Layer:
    """One layer at one density, with everything that a case may need.

    Args:
        shape: Sizes; the batch is part of it.
        density: Share of kept weights.
        dtype: Of activations and weights.
    """

    def __init__(self, shape: ConvShape, density: float, dtype: torch.dtype) -> None:
        self.shape = shape
        self.x, self.weight, self.mask, _ = shape.inputs(
            density=density, dtype=dtype, channels_last=True
        )
        self.pruned = self.weight * self.mask
        self.options: ConvOptions = conv_options(
            shape.name, shape.kernel, shape.stride, shape.padding, shape.dilation, shape.groups
        )
        self.output_shape = F.conv2d(self.x, self.weight, **shape.keywords).shape
        generator = torch.Generator().manual_seed(1)
        cotangent = torch.randn(self.output_shape, generator=generator).to(dtype)
        self.cotangent = cotangent.contiguous(memory_format=torch.channels_last)

    def flops(self, sparse_passes: int, dense_passes: int) -> int:
        """Count those of kept weights, and of all weights where a pass must be dense."""
        positions = self.output_shape[0] * self.output_shape[2] * self.output_shape[3]
        weights = sparse_passes * int(self.mask.sum()) + dense_passes * self.mask.numel()
        return 2 * positions * weights

    def exact(self, names: Sequence[str]) -> Results:
        """Compute what is asked for in float64."""
        leaves = {
            "grad_x": self.x.double().requires_grad_(),
            "grad_weight": self.weight.double().requires_grad_(),
            "grad_scores": torch.zeros_like(self.weight, dtype=torch.double).requires_grad_(),
        }
        x, weight, scores = leaves.values()
        y = reference.masked_conv2d(x, weight, self.mask, scores=scores, **self.shape.keywords)
        wanted = [name for name in leaves if name in names]
        gradients = (
            torch.autograd.grad(y, [leaves[name] for name in wanted], self.cotangent.double())
            if wanted
            else ()
        )
        return {"output": y.detach(), **dict(zip(wanted, gradients, strict=True))}


def inference(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Run without gradients."""
    return torch.inference_mode()(call)


def as_output(y: Tensor) -> Results:
    return {"output": y}


def packed(layer: Layer, x: Tensor) -> Callable[[], Tensor]:
    blob = _ops.masked_conv2d_pack(layer.weight, layer.mask, x.shape, *layer.options)
    size = layer.weight.shape
    return inference(
        lambda: _ops.masked_conv2d_packed(x, blob, size, None, None, False, *layer.options)
    )


def forward_lanes(layer: Layer) -> Contender:
    """Weights packed beforehand, lanes in and out."""
    batch = layer.shape.batch
    call = packed(layer, _ops.to_lanes(layer.x))
    return Contender(call, lambda y: as_output(_ops.from_lanes(y, batch, True)))


def forward_plain(layer: Layer) -> Contender:
    """Weights packed beforehand, plain NCHW in and out."""
    return Contender(packed(layer, layer.x.contiguous()), as_output)


def masked_module(layer: Layer) -> Contender:
    """The drop-in module, called alone on a channels_last tensor."""
    module = MaskedConv2d.from_dense(_dense_module(layer), layer.mask).eval()
    return Contender(inference(lambda: module(layer.x)), as_output)


def sparse_module(layer: Layer) -> Contender:
    """The inference module, called alone on a channels_last tensor."""
    module = SparseConv2d.from_dense(_dense_module(layer), layer.mask)
    return Contender(inference(lambda: module(layer.x)), as_output)


def _dense_module(layer: Layer) -> nn.Conv2d:
    shape = layer.shape
    with torch.device("meta"):
        conv = nn.Conv2d(shape.channels, shape.outputs, shape.kernel, bias=False, **shape.keywords)
    conv.weight = nn.Parameter(layer.weight)
    return conv


def train_lanes(
    layer: Layer, *, with_scores: bool = False, score_dtype: torch.dtype | None = None
) -> Contender:
    """A training step in lanes; the mask's patterns are kept, the weights' values read in each."""
    batch = layer.shape.batch
    leaves = {
        "grad_x": _ops.to_lanes(layer.x).requires_grad_(),
        "grad_weight": layer.weight.detach().requires_grad_(),
    }
    scores = torch.zeros_like(layer.weight).requires_grad_() if with_scores else None
    if scores is not None:
        leaves["grad_scores"] = scores
    x, weight = LaneTensor(leaves["grad_x"], batch), leaves["grad_weight"]
    cotangent = _ops.to_lanes(layer.cotangent)

    def call() -> tuple[Tensor, ...]:
        y = masked_conv2d(
            x, weight, layer.mask, scores=scores, score_dtype=score_dtype, **layer.shape.keywords
        )
        return y.lanes, *torch.autograd.grad(y.lanes, list(leaves.values()), cotangent)

    def read(results: tuple[Tensor, ...]) -> Results:
        named = dict(zip(("output", *leaves), results, strict=True))
        for name in ("output", "grad_x"):
            named[name] = _ops.from_lanes(named[name].detach(), batch, True)
        return named

    return Contender(call, read, score_dtype)


def train_lanes_scores(layer: Layer) -> Contender:
    """The same with the dense weight gradient that scores take."""
    return train_lanes(layer, with_scores=True)


def train_lanes_scores_bf16(layer: Layer) -> Contender:
    """The same with that gradient in bfloat16."""
    return train_lanes(layer, with_scores=True, score_dtype=torch.bfloat16)


def dense_forward(layer: Layer, memory_format: torch.memory_format) -> Callable[[], Any]:
    """Torch's convolution with a weight masked beforehand."""
    x, weight = (t.contiguous(memory_format=memory_format) for t in (layer.x, layer.pruned))
    return inference(lambda: F.conv2d(x, weight, **layer.shape.keywords))


def dense_train(layer: Layer, memory_format: torch.memory_format) -> Callable[[], Any]:
    """Torch's convolution and both of its gradients."""
    tensors = (layer.cotangent, layer.x, layer.pruned)
    cotangent, x, weight = (t.contiguous(memory_format=memory_format) for t in tensors)
    stride, padding, dilation, groups = layer.options

    @torch.inference_mode()
    def call() -> tuple[Tensor, ...]:
        y = F.conv2d(x, weight, **layer.shape.keywords)
        gradients = torch.ops.aten.convolution_backward(
            cotangent, x, weight, None, stride, padding[::2], dilation, False, [0, 0], groups,
            [True, True, False],
        )  # fmt: skip
        return y, gradients[0], gradients[1]

    return call


def check(layer: Layer, contender: Contender) -> None:
    """Fail if a result is off; nothing wrong is ever timed.

    Raises:
        SystemExit: A result is farther from the float64 one than its tolerance.
    """
    found = contender.read(contender.call())
    exact = layer.exact(list(found))
    for name, value in found.items():
        error = (value.double() - exact[name]).abs().max() / exact[name].abs().max()
        if not error <= TOLERANCE[contender.precision or value.dtype]:
            raise SystemExit(f"{layer.shape.name}: {name} is off by {error:.1e} of its maximum")

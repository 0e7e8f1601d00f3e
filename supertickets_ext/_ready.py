"""The short way through a masked convolution in inference: one look-up, then the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from supertickets_ext._conv_options import check_channels, conv_options, output_size
from supertickets_ext._kept import State, has_state, is_plain
from supertickets_ext._route import ROUTES, PreparedCall, layout_of, prepared_call
from supertickets_ext.routes import choose_route

if TYPE_CHECKING:
    from supertickets_ext.nn import MaskedConv2d

_MOST = 8  # kinds of input that one layer keeps a call for


class Ready:
    """A call with everything prepared, for one kind of input and one state of weight and mask."""

    __slots__ = ("_call", "_mask", "_weight")

    def __init__(self, weight: Tensor, mask: Tensor, call: PreparedCall) -> None:
        self._weight, self._mask, self._call = State(weight), State(mask), call

    def run(self, layer: MaskedConv2d, x: Tensor) -> Tensor | None:
        """The result, or None if weight or mask changed."""
        parameters = layer._parameters
        weight, mask = parameters.get("weight"), layer._buffers.get("mask")
        if weight is None or mask is None:  # parametrised
            return None
        if not (self._weight.is_of(weight) and self._mask.is_of(mask)):
            return None
        return self._call(x, parameters["bias"])


def ready_call(layer: MaskedConv2d, x: Any, ready: dict[Any, Ready]) -> Tensor | None:
    """Convolve without gradients if everything is prepared, or prepare it.

    Args:
        layer: Whose mask, weight and options count.
        x: Its input.
        ready: What the layer has prepared so far, with its present attributes.

    Returns:
        The layer's output; None where the long way must be taken.
    """
    if type(x) is not Tensor or not is_plain() or torch.is_autocast_enabled(x.device.type):
        return None
    key = (x.shape, x.stride(), x.dtype, x.device, torch.get_num_threads())
    kept = ready.get(key)
    y = None if kept is None else kept.run(layer, x)
    if y is not None:
        return y
    kept = _prepare(layer, x)
    if kept is None:
        return None
    while len(ready) >= _MOST:
        ready.pop(next(iter(ready)), None)
    ready[key] = kept
    return kept.run(layer, x)


def _prepare(layer: MaskedConv2d, x: Tensor) -> Ready | None:
    weight, mask, bias = layer._parameters.get("weight"), layer.mask, layer.bias
    if weight is None or not (has_state(weight) and has_state(mask)) or layer.lanes:
        return None
    biased_alike = bias is None or (bias.dtype == weight.dtype and len(bias) == len(weight))
    fits = x.dim() == 4 and x.dtype == weight.dtype and x.device == weight.device
    if not fits or not biased_alike or 0 in x.shape or layer.padding_mode != "zeros":
        return None
    kernel = (weight.shape[2], weight.shape[3])
    options = conv_options(
        "MaskedConv2d", kernel, layer.stride, layer.padding, layer.dilation, layer.groups
    )
    check_channels("MaskedConv2d", x.shape, weight.shape, options)
    output_size("MaskedConv2d", x.shape[2:], kernel, options)
    route = ROUTES.get(layer.route)
    if route is None:
        if layer.route != "auto":
            return None
        route = choose_route(tuple(x.shape), layout_of(x), weight, mask, options, False)
    call = prepared_call(route, x, weight, mask, options)
    return None if call is None else Ready(weight, mask, call)

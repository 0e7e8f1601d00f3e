"""Drop-in modules on the masked operators."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from supertickets_ext._kept import forget
from supertickets_ext._lane_tensor import LANES, to_lanes
from supertickets_ext._ready import Ready, ready_call
from supertickets_ext.masked_conv2d import masked_conv2d
from supertickets_ext.sparse import SparseConv2d

__all__ = ["MaskedConv2d", "MaskedLinear", "SparseConv2d"]


_Self = TypeVar("_Self", bound="_Masked")


class _Masked(nn.Module):
    """What MaskedConv2d and MaskedLinear share: the mask, the scores, and the way back."""

    weight: Tensor
    mask: Tensor
    scores: nn.Parameter | None

    def _init_mask(self, mask: Tensor | None, scores: Tensor | None) -> None:
        ones = torch.ones(self.weight.shape, dtype=torch.bool, device=self.weight.device)
        self.register_buffer("mask", ones)
        if mask is not None:
            self.set_mask(mask)
        parameter = None
        if scores is not None:
            _check_shape(type(self).__name__, "scores", scores, self.weight)
            parameter = scores if isinstance(scores, nn.Parameter) else nn.Parameter(scores)
        self.register_parameter("scores", parameter)

    @torch.no_grad()
    def set_mask(self, mask: Tensor) -> None:
        """Replace the mask's values.

        Args:
            mask: Bool, of weight's shape.

        Raises:
            TypeError: ``mask`` is not bool.
            ValueError: ``mask`` has another shape.
        """
        name = type(self).__name__
        if mask.dtype != torch.bool:
            raise TypeError(f"{name}: mask must be bool, got {mask.dtype}")
        _check_shape(name, "mask", mask, self.weight)
        self.mask.copy_(mask)

    def invalidate(self) -> None:
        """Forget what is kept between calls: packed weights, and the mask's pattern and routes.

        Whatever changes ``weight`` or ``mask`` is seen, but for writes past their version counters
        in evaluation: through ``weight.data``, ``mask.data`` or an array of numpy. Those need this
        call, or ``train()``, ``eval()`` or ``to()``, which all make it.
        """
        forget(self.mask)

    def train(self: _Self, mode: bool = True) -> _Self:
        """Set the mode, as ``nn.Module.train`` does; nothing is kept across a change of mode."""
        super().train(mode)
        self.invalidate()
        return self

    def _apply(self: _Self, fn: Any, recurse: bool = True) -> _Self:
        self.invalidate()  # .to() and the like put new values into the same parameters
        return super()._apply(fn, recurse)

    @property
    def density(self) -> float:
        """Kept share of the weights."""
        return float(self.mask.float().mean()) if self.mask.numel() else 1.0


def _check_shape(owner: str, name: str, tensor: Tensor, weight: Tensor) -> None:
    if tensor.shape != weight.shape:
        raise ValueError(
            f"{owner}: {name} must have weight's shape {tuple(weight.shape)}, "
            f"got {tuple(tensor.shape)}"
        )


def _share(module: nn.Conv2d | nn.Linear, dense: nn.Conv2d | nn.Linear) -> None:
    """Give ``module`` the parameters and the mode of ``dense``, not copies."""
    module.weight = dense.weight
    module.bias = dense.bias
    module.train(dense.training)


class MaskedConv2d(_Masked, nn.Conv2d):
    """``nn.Conv2d`` with a bool buffer ``mask``; pruned weights are skipped, not multiplied.

    Takes the arguments of ``nn.Conv2d``; the mask starts as all True. If ``scores`` is a parameter,
    it receives the straight-through gradient (see ``masked_conv2d``).

    Attributes:
        route: ``"auto"`` for what measures fastest (``supertickets_ext.explain`` says what and
            why), ``"sparse"`` or ``"dense"``.
        lanes: Whether a batch of 8 or more is converted to lanes and the result stays in them; set
            by ``supertickets_ext.keep_lanes``.
        score_dtype: What the dense gradient of ``scores`` is computed in; None for x's dtype.
    """

    route: str = "auto"
    lanes: bool = False
    score_dtype: torch.dtype | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._init_mask(None, None)
        self._ready: dict[Any, Ready] = {}

    @classmethod
    def from_dense(
        cls, conv: nn.Conv2d, mask: Tensor | None = None, scores: Tensor | None = None
    ) -> MaskedConv2d:
        """Wrap a convolution; its parameters are shared, not copied.

        Args:
            conv: The dense layer.
            mask: Bool, of weight's shape; None keeps every weight.
            scores: Of weight's shape; None for a layer without scores.

        Returns:
            The masked layer, in the same training mode.

        Raises:
            TypeError: ``conv`` is no ``nn.Conv2d``, or ``mask`` is not bool.
            ValueError: A shape does not fit.
        """
        if not isinstance(conv, nn.Conv2d):
            raise TypeError(f"MaskedConv2d.from_dense: conv must be nn.Conv2d, got {type(conv)}")
        with torch.device("meta"):
            module = cls(**_conv_arguments(conv))
        _share(module, conv)
        module._init_mask(mask, scores)
        return module

    def to_dense(self) -> nn.Conv2d:
        """Give a plain ``nn.Conv2d`` with the mask multiplied in; nothing is shared."""
        with torch.device("meta"):
            conv = nn.Conv2d(**_conv_arguments(self))
        return _fold(self, conv)

    def forward(self, x: Any) -> Any:
        """Convolve ``x``, ``[N, C, H, W]``, ``[C, H, W]`` or lanes, as ``nn.Conv2d`` does."""
        if not torch.is_grad_enabled():
            y = ready_call(self, x, self._ready)
            if y is not None:
                return y
        if self.lanes and isinstance(x, Tensor) and x.dim() == 4 and x.shape[0] >= LANES // 2:
            x = to_lanes(x)
        padding: str | tuple[int, ...] = self.padding
        if self.padding_mode != "zeros":
            x = nn.functional.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0, 0)
        return masked_conv2d(
            x,
            self.weight,
            self.mask,
            self.bias,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
            scores=self.scores,
            score_dtype=self.score_dtype,
            route=self.route,
        )

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name != "_ready":  # what is prepared holds for the stride, the route, ... of before
            self.__dict__.get("_ready", {}).clear()

    def invalidate(self) -> None:
        """Forget what is kept between calls, see ``MaskedLinear.invalidate``."""
        self._ready.clear()
        super().invalidate()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ready": {}}

    def extra_repr(self) -> str:
        """Describe the layer, with its density."""
        return f"{super().extra_repr()}, density={self.density:.4g}"


class MaskedLinear(_Masked, nn.Linear):
    """``nn.Linear`` with a bool buffer ``mask``, as a convolution of one pixel.

    Takes the arguments of ``nn.Linear``; mask and scores as in ``MaskedConv2d``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._init_mask(None, None)

    @classmethod
    def from_dense(
        cls, linear: nn.Linear, mask: Tensor | None = None, scores: Tensor | None = None
    ) -> MaskedLinear:
        """Wrap a linear layer; its parameters are shared, not copied.

        Args:
            linear: The dense layer.
            mask: Bool, of weight's shape; None keeps every weight.
            scores: Of weight's shape; None for a layer without scores.

        Returns:
            The masked layer, in the same training mode.

        Raises:
            TypeError: ``linear`` is no ``nn.Linear``, or ``mask`` is not bool.
            ValueError: A shape does not fit.
        """
        if not isinstance(linear, nn.Linear):
            raise TypeError(
                f"MaskedLinear.from_dense: linear must be nn.Linear, got {type(linear)}"
            )
        with torch.device("meta"):
            module = cls(linear.in_features, linear.out_features, bias=linear.bias is not None)
        _share(module, linear)
        module._init_mask(mask, scores)
        return module

    def to_dense(self) -> nn.Linear:
        """Give a plain ``nn.Linear`` with the mask multiplied in; nothing is shared."""
        with torch.device("meta"):
            linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        return _fold(self, linear)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[*, in_features]`` to ``[*, out_features]``."""
        pixels = x.reshape(-1, self.in_features, 1, 1)
        y = masked_conv2d(
            pixels,
            self.weight[:, :, None, None],
            self.mask[:, :, None, None],
            self.bias,
            scores=None if self.scores is None else self.scores[:, :, None, None],
        )
        return y.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Describe the layer, with its density."""
        return f"{super().extra_repr()}, density={self.density:.4g}"


def _conv_arguments(conv: nn.Conv2d) -> dict[str, Any]:
    return {
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "bias": conv.bias is not None,
        "padding_mode": conv.padding_mode,
    }


_Dense = TypeVar("_Dense", nn.Conv2d, nn.Linear)


@torch.no_grad()
def _fold(masked: _Masked, dense: _Dense) -> _Dense:
    # where, not a product: a pruned weight that is NaN or infinite is zero all the same
    dense.weight = nn.Parameter(masked.weight.where(masked.mask, 0).clone())
    bias: Tensor | None = masked.get_parameter("bias") if dense.bias is not None else None
    dense.register_parameter("bias", None if bias is None else nn.Parameter(bias.clone()))
    dense.train(masked.training)
    return dense

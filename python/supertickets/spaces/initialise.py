"""Weights of a scored network, drawn again from a passed generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Fan = Literal["fan_in", "fan_out"]


def initialise_(
    model: nn.Module,
    generator: torch.Generator,
    *,
    fan: Fan = "fan_out",
    gain: float = math.sqrt(2),
    by_group: bool = False,
) -> None:
    """Draw the weights of every convolution and linear layer: Kaiming normal (He et al. 2015).

    Biases become zero; batch norms get weight 1, bias 0 and fresh statistics. One draw serves all
    layers, so that a supernet costs little more than its numbers.

    Args:
        model: Changed in place.
        generator: Of the model's device.
        fan: Whether a layer's inputs or outputs set the scale; fan out counts as torch does, all
            output channels even with groups.
        gain: Square root of 2 for ReLU.
        by_group: Count the output channels of one group only.
    """
    weights: list[Tensor] = []
    scales: list[float] = []
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                shape = module.weight.shape
                channels = shape[1] if fan == "fan_in" else shape[0]
                if by_group and fan == "fan_out" and isinstance(module, nn.Conv2d):
                    channels //= module.groups
                weights.append(module.weight)
                scales.append(gain / math.sqrt(max(channels * shape[2:].numel(), 1)))
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
        if not weights:
            return
        sizes = [weight.numel() for weight in weights]
        first = weights[0]
        flat = torch.randn(sum(sizes), generator=generator, device=first.device)
        torch._foreach_copy_(
            weights, [part.view_as(w) for part, w in zip(flat.split(sizes), weights, strict=True)]
        )
        torch._foreach_mul_(weights, scales)


def initialise_for_training_(model: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of a network with depthwise convolutions that is to be trained.

    Convolutions and linear layers are Kaiming normal by the outputs of a group, so that a depthwise
    filter does not start hundreds of times too small; the last linear layer, the classifier, is
    uniform in plus and minus one over the root of its inputs; biases are zero, batch norms fresh.

    Args:
        model: Changed in place.
        generator: Of the model's device.

    Source: He et al. 2015; Tan and Le 2019 for the groups.
    """
    initialise_(model, generator, by_group=True)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        for classifier in linears[-1:]:
            bound = max(classifier.in_features, 1) ** -0.5
            classifier.weight.uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def initialise_mnas_(model: nn.Module, generator: torch.Generator) -> None:
    """Draw every weight as MnasNet does; a depthwise filter by its own area.

    Convolutions: normal, standard deviation ``sqrt(2 / fan_out)``, where the fan out of a depthwise
    convolution is its kernel's area alone, so that one magnitude fits all kinds. Linear layers:
    uniform within ``1 / sqrt(fan_out)``. Other matrices (queries): Xavier. Biases become zero,
    batch norms get weight 1, bias 0 and fresh statistics.

    Args:
        model: Changed in place.
        generator: Of the model's device.

    Source: ``mnas`` initialisation of AtomNAS, Mei et al. 2020, after Tan et al. 2019.
    """

    def convolution(conv: nn.Conv2d) -> None:
        channels = 1 if conv.groups == conv.in_channels > 1 else conv.out_channels
        fan_out = channels * conv.kernel_size[0] * conv.kernel_size[1]
        conv.weight.normal_(0.0, math.sqrt(2 / fan_out), generator=generator)

    _draw_(model, convolution, generator)


@torch.no_grad()
def initialise_normal_(model: nn.Module, generator: torch.Generator, *, std: float = 1e-3) -> None:
    """Draw every convolution from one narrow normal distribution, as pose networks do.

    Linear layers, batch norms and biases: as in :func:`initialise_mnas_`.

    Args:
        model: Changed in place.
        generator: Of the model's device.
        std: Standard deviation of all convolutions.

    Source: the COCO configurations of HRNet, Sun et al. 2019.
    """
    _draw_(
        model,
        lambda conv: conv.weight.normal_(0.0, std, generator=generator),
        generator,
    )


def _draw_(
    model: nn.Module,
    convolution: Callable[[nn.Conv2d], object],
    generator: torch.Generator,
) -> None:
    own: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            convolution(module)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(max(module.out_features, 1))
            module.weight.uniform_(-bound, bound, generator=generator)
        elif isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            module.reset_parameters()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            module.bias.zero_()
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.LayerNorm)):
            own |= {id(parameter) for parameter in module.parameters(recurse=False)}
    for parameter in model.parameters():
        if id(parameter) in own:
            continue
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter, generator=generator)
        else:
            parameter.zero_()  # the shift of a vanished block

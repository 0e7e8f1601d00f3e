"""Rows of a Jacobian, and Gram matrices, from the input and the output gradient of each layer."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from supertickets_ext._graph import Node
from supertickets_ext._jacobian_replay import Layer, norm_scale
from supertickets_ext._library import LIBRARY as LIBRARY

_ops = torch.ops.supertickets


def add_gram(gram: Tensor, one: Tensor, two: Tensor | None) -> None:
    """``gram += one two^T`` for rows ``[R, *]``; gram is float64, two of None is one."""
    other = None if two is None else two.flatten(1)
    _ops.jacobian_gram_(gram, one.flatten(1), other)


def layer_rows(
    layer: Layer, grad: Tensor, names: set[str], images: int
) -> Iterator[tuple[str, Tensor]]:
    """Rows ``[R, *shape]`` of the chosen parameters of a layer.

    Args:
        layer: From a `Replay`.
        grad: Gradient at its tap; ``images`` images in a row together.
        names: Chosen parameters.
        images: 1 for a row of each sample, the batch for a row of the batch.
    """
    node, norm = layer.node, layer.norm
    mine = {role: name for role, name in node.parameters.items() if name in names}
    if node.kind == "conv2d":
        of_norm = {} if norm is None else {
            role: name for role, name in norm.parameters.items() if name in names
        }  # fmt: skip
        yield from _conv_rows(layer, grad, mine, of_norm, images)
        return
    if node.kind == "linear":
        makers = {"weight": lambda: grad[:, :, None] * layer.x[:, None, :], "bias": lambda: grad}
    else:
        makers = {"weight": lambda: grad * _normalised(node, layer.x), "bias": lambda: grad}
    for role, name in mine.items():
        rows = makers[role]()
        if node.kind in ("batch_norm", "group_norm") and rows.dim() > 2:
            rows = rows.flatten(2).sum(2)
        if node.kind == "layer_norm":
            rows = rows.flatten(1, -1 - len(node.constants["shape"])).sum(1)
        yield name, _together(rows, images)


def _together(rows: Tensor, images: int) -> Tensor:
    return rows if images == 1 else rows.unflatten(0, (-1, images)).sum(1)


def _normalised(node: Node, x: Tensor) -> Tensor:
    mean, rstd = node.tensors["mean"], node.tensors["rstd"]
    if node.kind == "batch_norm":
        size = (1, -1) + (1,) * (x.dim() - 2)
        return (x - mean.view(size)) * rstd.view(size)
    if node.kind == "layer_norm":  # statistics anew: the record may be of other samples
        dims = tuple(range(x.dim() - len(node.constants["shape"]), x.dim()))
        var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
        return (x - mean) * (var + node.constants["eps"]).rsqrt()
    grouped = x.reshape(len(x), node.constants["groups"], -1)
    var, mean = torch.var_mean(grouped, 2, correction=0, keepdim=True)
    return ((grouped - mean) * (var + node.constants["eps"]).rsqrt()).reshape(x.shape)


def _conv_rows(
    layer: Layer, grad: Tensor, mine: dict[str, str], of_norm: dict[str, str], images: int
) -> Iterator[tuple[str, Tensor]]:
    node, norm, c = layer.node, layer.norm, layer.node.constants
    scale = None if norm is None else norm_scale(norm)
    sums = None
    if "bias" in mine or of_norm:
        sums = _together(grad.flatten(2).sum(2), images)
    if "bias" in mine and sums is not None:
        yield mine["bias"], sums if scale is None else sums * scale
    if norm is not None and "bias" in of_norm and sums is not None:
        yield of_norm["bias"], sums
    gamma = norm is not None and "weight" in of_norm
    if "weight" not in mine and not gamma:
        return
    weight = node.tensors["weight"]
    rows = _ops.jacobian_conv2d_rows(
        grad, layer.x, node.tensors.get("mask"), None if gamma else scale, list(weight.shape),
        images, list(c["stride"]), list(c["padding"]), list(c["dilation"]), c["groups"],
    )  # fmt: skip
    if norm is not None and gamma and sums is not None:
        # sum of G xhat, from the rows: xhat is an affine map of the convolution of x.
        shift = -norm.tensors["mean"]
        shift = shift + node.tensors["bias"] if "bias" in node.tensors else shift
        flat = torch.matmul(rows.flatten(2).unsqueeze(2), weight.flatten(1).unsqueeze(2))
        yield of_norm["weight"], (flat[..., 0, 0] + shift * sums) * norm.tensors["rstd"]
        if "weight" in mine:
            assert scale is not None
            rows = rows.mul_(scale[:, None, None, None])
    if "weight" in mine:
        yield mine["weight"], rows


def linear_gram(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]) -> Tensor:
    """Gram matrix of a linear layer's weight from inputs and gradients, without its rows."""
    (x1, g1), (x2, g2) = ((x.double(), g.double()) for x, g in (one, two))
    return (g1 @ g2.T) * (x1 @ x2.T)

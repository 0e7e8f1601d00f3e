"""The lightweight transformer that can stand beside the convolutions of a search block."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SIDE = 8
_DROPOUT = 0.1


class LightTransformer(nn.Module):
    """Attention over a few tokens, each a learned map of 8 x 8 places.

    The features are resized to 8 x 8, joined by two coordinate channels and mapped to tokens; one
    encoder layer, one decoder layer with learned queries, and the way back, added to the input.

    Args:
        channels: Of the features.
        tokens: Number of tokens.
        norm: Makes a batch norm of so many channels.

    Source: Ding et al. 2021 (HR-NAS), section 3.1.
    """

    points: Tensor

    def __init__(
        self, channels: int, tokens: int, *, norm: Callable[[int], nn.BatchNorm2d]
    ) -> None:
        super().__init__()
        width = _SIDE * _SIDE
        self.tokens = tokens
        self.inward = nn.Conv2d(channels + 2, tokens, 1, bias=False)
        self.inward_norm = norm(tokens)
        self.encoder = _Layer(width)
        self.queries = nn.Parameter(torch.empty(tokens, width))
        self.decoder = _Layer(width)
        self.outward = nn.Conv2d(tokens, channels, 1, bias=False)
        self.outward_norm = norm(channels)
        self.register_buffer("points", _points(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to the same shape."""
        small = _resize(x, (_SIDE, _SIDE))
        points = self.points.to(small.dtype).expand(len(x), -1, -1, -1)
        tokens = self.inward_norm(self.inward(torch.cat([small, points], dim=1))).flatten(2)
        memory = self.encoder(tokens, tokens, tokens)
        queries = self.queries.expand(len(x), -1, -1)
        tokens = self.decoder(queries, memory, memory)
        small = self.outward_norm(self.outward(tokens.unflatten(2, (_SIDE, _SIDE))))
        return x + _resize(small, x.shape[2:])


class _Layer(nn.Module):
    """Attention with one head, then two linear layers, a layer norm after each sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out, self.first, self.second = (
            nn.Linear(width, width, bias=False) for _ in range(6)
        )
        self.attention_norm = nn.LayerNorm(width)
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, memory: Tensor, residual: Tensor) -> Tensor:
        """Attend from ``queries`` to ``memory``, both ``[N, tokens, width]``."""
        query, key, value = self.query(queries), self.key(memory), self.value(memory)
        weights = (query @ key.transpose(1, 2) / math.sqrt(query.shape[2])).softmax(dim=2)
        attended = self.out(self._drop(weights) @ value)
        x = self.attention_norm(residual + self._drop(attended))
        y = self.second(self._drop(F.relu(self.first(x))))
        normed: Tensor = self.norm(x + self._drop(y))
        return normed

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, _DROPOUT, self.training)


def _resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _points() -> Tensor:
    """Give the coordinates of the 8 x 8 places, ``[2, 8, 8]``, each of mean 0 and variance 1."""
    line = torch.arange(_SIDE, dtype=torch.float32)
    line = (line - line.mean()) / line.std(correction=0)
    return torch.stack(torch.meshgrid(line, line, indexing="ij"))

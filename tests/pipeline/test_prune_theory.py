"""A7: one swap chosen by score crossing lowers the loss; many at once do so less often.

This is the reason for the short restriction, in a form that can be measured: on fixed data and
from the same mask, only the number of simultaneous swaps differs.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import Tensor, nn

from supertickets.data import DataConfig, ImageData, load_data
from supertickets.prune import JackpotConfig, layer_rates, mask_model, maskable_layers
from supertickets.prune.search import masked_layers, score_parameter, start_masks, start_scores
from supertickets.seeds import generator
from supertickets_ext import topk_mask, update_topk_mask_
from tests.pipeline.digits_net import trained_digits_net

LAYER = "features.6"
TRIALS = 20
STEPS = 10
LR = 10.0
SWAPS = (1, 8, 64, None)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data(DataConfig(name="digits"))


@pytest.fixture(scope="module")
def trained(data: ImageData) -> nn.Module:
    return trained_digits_net(data, epochs=3)


def _loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(images), labels)


def _descend(model: nn.Module, layer: nn.Module, images: Tensor, labels: Tensor) -> float:
    """One step on the scores of one layer; give the loss before it."""
    scores = score_parameter(layer)
    loss = _loss(model, images, labels)
    (gradient,) = torch.autograd.grad(loss, scores)
    with torch.no_grad():
        scores -= LR * gradient
    return loss.item()


def _falls(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[dict[int | None, bool], int]:
    """Search one layer for a while; then try each number of swaps from the same mask."""
    layer = masked_layers(model, [LAYER])[LAYER]
    keep = int(layer.mask.sum())
    for _ in range(STEPS - 1):
        _descend(model, layer, images, labels)
        update_topk_mask_(layer.mask, layer.scores.detach(), keep, by_magnitude=False)
    before = _descend(model, layer, images, labels)
    start, scores = layer.mask.clone(), layer.scores.detach()
    wanted = int((topk_mask(scores, keep, by_magnitude=False) & ~start).sum())
    falls = {}
    for swaps in SWAPS:
        layer.mask.copy_(start)
        update_topk_mask_(layer.mask, scores, keep, max_swaps=swaps, by_magnitude=False)
        with torch.no_grad():
            falls[swaps] = _loss(model, images, labels).item() < before
    return falls, wanted


def test_one_swap_lowers_the_loss_and_the_share_falls_with_the_number_of_swaps(
    trained: nn.Module, data: ImageData
) -> None:
    loader = data.loader("train", batch_size=2048, augment=False, shuffle=False)
    images, labels = next(iter(loader))
    layers = maskable_layers(trained)
    rates = layer_rates(layers, 0.5, "uniform")
    scores = start_scores(layers, rates, JackpotConfig(unit="score", gap=0.01), seed=0)
    fell = dict.fromkeys(SWAPS, 0)
    for trial in range(TRIALS):
        # batch norm uses the batch, as in a search, so the loss depends on the mask alone
        model = mask_model(trained, start_masks(layers, rates, scores), scores).train()
        draw = generator(0, "one-swap", trial)
        chosen = torch.randperm(len(images), generator=draw)[:256]
        falls, wanted = _falls(model, images[chosen], labels[chosen])
        assert wanted > 64
        for swaps, fallen in falls.items():
            fell[swaps] += fallen
    assert binomtest(fell[1], TRIALS, alternative="greater").pvalue < 0.01
    assert fell[1] >= fell[8] >= fell[64] > fell[None]

"""B6 of the jackpot study: what a search costs beside plain dense training."""

from __future__ import annotations

import dataclasses
import os
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.jackpot_nets import NETS, Settings, digits_data, untrained
from supertickets.data import DataConfig, ImageData, load_data
from supertickets.evaluate import classification
from supertickets.machine import peak_memory_bytes, reset_peak_memory
from supertickets.prune import JackpotConfig, find_jackpot
from supertickets.seeds import generator
from supertickets.spaces import ModelConfig
from supertickets.training import TrainConfig, train

ROUNDS = 4
EPOCHS = 2


def cost(name: str, seed: int, settings: Settings) -> dict[str, Any]:
    """Measure memory first, in a fresh process, then the time of whole epochs in turns."""
    if name == "resnet20x2":
        net, data, batch_size = ModelConfig(name="resnet20x2"), _noise_images(), 32
    else:
        net, batch_size = NETS[name].model, settings.batch_size
        data = digits_data(NETS[name], seed)
    model = untrained(net, data, seed)
    config = JackpotConfig(epochs=EPOCHS, batch_size=batch_size)
    result = _memory(model, data, config)
    seconds = _epoch_seconds(model, data, config)
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    return result | {
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "epochs_timed": len(seconds["dense"]),
        "dense_epoch_s": medians["dense"],
        "search_epoch_s": medians["search"],
        "search_bn_epoch_s": medians["search_bn"],
        "ratio": medians["search"] / medians["dense"],
        "ratio_bn": medians["search_bn"] / medians["dense"],
    }


def _memory(model: nn.Module, data: ImageData, config: JackpotConfig) -> dict[str, int]:
    """Give the growth of resident memory over one search, and what weights and activations take."""
    needed = _weights_and_activations(model, data, config.batch_size)
    before = _resident_bytes()
    reset_peak_memory()
    find_jackpot(model, data, config.model_copy(update={"epochs": 1}), progress=False)
    extra = peak_memory_bytes() - before
    return {"peak_extra_bytes": extra, "weights_and_activations_bytes": needed}


def _epoch_seconds(
    model: nn.Module, data: ImageData, config: JackpotConfig
) -> dict[str, list[float]]:
    """Alternate dense training and both searches; each epoch ends with a validation pass."""
    seconds: dict[str, list[float]] = {"dense": [], "search": [], "search_bn": []}
    loader = data.loader("train", batch_size=config.batch_size)
    validation = data.loader("validation", batch_size=config.batch_size)
    plain = TrainConfig(epochs=EPOCHS, batch_size=config.batch_size, lr=1e-3)

    def score(net: nn.Module) -> dict[str, float]:
        return {"validation_accuracy": classification(net, validation).accuracy}

    for _ in range(ROUNDS):
        trained = train(model, loader, plain, evaluate=score, progress=False)
        seconds["dense"] += [row["seconds"] for row in trained.history]
        for kind, batches in (("search", 0), ("search_bn", config.bn_batches)):
            searched = config.model_copy(update={"bn_batches": batches})
            found = find_jackpot(model, data, searched, progress=False)
            seconds[kind] += [row["seconds"] for row in found.history]
    return seconds


def _weights_and_activations(model: nn.Module, data: ImageData, batch_size: int) -> int:
    """Count the bytes of all parameters and of every leaf module's output for one batch."""
    outputs: list[int] = []

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        outputs.append(output.numel() * output.element_size())

    leaves = [module for module in model.modules() if not list(module.children())]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    images, _ = next(iter(data.loader("train", batch_size=batch_size)))
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return sum(p.numel() * p.element_size() for p in model.parameters()) + sum(outputs)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _noise_images() -> ImageData:
    """Give 32 x 32 colour images for timing; nothing is learned from them."""
    digits = load_data(DataConfig(augment="none"))
    draw = generator(0, "noise")
    images = torch.randint(0, 256, (128, 3, 32, 32), generator=draw, dtype=torch.uint8)
    part = digits.train.take(torch.arange(128))
    split = dataclasses.replace(part, images=images)
    sizes: dict[str, Any] = {"channels": 3, "image_size": (32, 32)}
    return dataclasses.replace(digits, train=split, validation=split, test=split, **sizes)

"""The nets and data sets of the jackpot study."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from supertickets.data import DataConfig, ImageData, load_data
from supertickets.errors import DataError
from supertickets.seeds import generator
from supertickets.spaces import ModelConfig, build_model
from supertickets.training import TrainConfig, train

MNIST_NPZ = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "mnist10k.npz"
IMAGES_USED = 3000
PUBLISHED: dict[str, Any] = {"start": "magnitude", "unit": "score", "gap": 0.01}
"""The published code's first scores, as options of a search."""
NARROW_RANDOM: dict[str, Any] = {"unit": "score", "spread": 0.01}
"""A second random start: which spread is better depends on the net."""


@dataclass(frozen=True)
class Settings:
    """What decides a cell besides its net and seed; a changed field makes it run again."""

    train_epochs: int = 20
    search_epochs: int = 30
    image_epochs: int = 10
    batch_size: int = 64
    sparsities: tuple[float, ...] = (0.9, 0.95, 0.98)


@dataclass(frozen=True)
class Net:
    """One of the nets of the study."""

    model: ModelConfig
    data: DataConfig


def mlp(num_classes: int) -> nn.Module:
    """Build the 64-200-200-10 perceptron, without batch norm."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 200),
        nn.ReLU(),
        nn.Linear(200, 200),
        nn.ReLU(),
        nn.Linear(200, num_classes),
    )


NETS = {
    "digits": Net(ModelConfig(name="digits"), DataConfig()),
    "digits-16": Net(ModelConfig(name="digits", options={"width": 16}), DataConfig()),
    "mlp": Net(
        ModelConfig(space="import", name="benchmarks.jackpot_nets:mlp"), DataConfig(augment="none")
    ),
}


def second_data_set() -> str | None:
    """Name the second data set that this machine has, or give None."""
    try:
        load_data(DataConfig(name="idx", image_size=14))
    except DataError:
        return "mnist10k" if MNIST_NPZ.is_file() else None
    return "idx"


def digits_data(net: Net, seed: int) -> ImageData:
    """Divide the digits anew for each seed, so that the intervals hold the split's chance too."""
    return load_data(net.data.model_copy(update={"split_seed": seed}))


def second_images(seed: int) -> ImageData:
    """Take a part of the second data set at 14 x 14 pixels; each seed draws its own."""
    options: dict[str, Any] = {"name": "idx", "image_size": 14, "split_seed": seed}
    if second_data_set() == "idx":
        data = load_data(DataConfig(**options))
    else:
        with tempfile.TemporaryDirectory() as folder:
            _write_idx(Path(folder))
            data = load_data(DataConfig(**options, path=Path(folder)))
    draw = torch.randperm(len(data.train), generator=generator(seed, "subset"))
    return dataclasses.replace(data, train=data.train.take(draw[:IMAGES_USED]))


def _write_idx(folder: Path) -> None:
    """Lay the ten thousand images out as IDX files, every fifth as the test split."""
    with np.load(MNIST_NPZ) as arrays:
        by_dimension = {arrays[name].ndim: arrays[name] for name in arrays}
    images, labels = by_dimension[3], by_dimension[1]
    every_fifth = np.arange(len(labels)) % 5 == 0
    for part, chosen in (("train", ~every_fifth), ("t10k", every_fifth)):
        for kind, values in (("images-idx3", images[chosen]), ("labels-idx1", labels[chosen])):
            head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
            content = head + values.astype(np.uint8).tobytes()
            (folder / f"{part}-{kind}-ubyte").write_bytes(content)


def untrained(net: ModelConfig, data: ImageData, seed: int) -> nn.Module:
    """Build a net with its first weights."""
    return build_model(net, num_classes=data.num_classes, channels=data.channels, seed=seed)


def trained(net: ModelConfig, data: ImageData, seed: int, settings: Settings) -> nn.Module:
    """Build a net and train it densely."""
    model = untrained(net, data, seed)
    loader = data.loader("train", batch_size=settings.batch_size, seed=seed)
    config = TrainConfig(epochs=settings.train_epochs, batch_size=settings.batch_size)
    train(model, loader, config, seed=seed, progress=False)
    return model

"""A small supernet training for the tests; as a script, one for torchrun."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supertickets.distill import SupernetConfig, SupernetTraining
from supertickets.seeds import generator
from supertickets.spaces import ChoiceSupernet
from supertickets.training import Callback, TrainConfig, TrainResult, rank, train, world_size
from supertickets.training.checkpoint import snapshot
from tests.pipeline.choice_blocks import block_space


class Stripes:
    """Noisy 8 x 8 images whose label is their brightest of ten stripes; sharded."""

    def __init__(self, samples: int = 80, *, rank: int = 0, world_size: int = 1) -> None:
        rng = generator(1, "stripes")
        self.labels = torch.randint(8, (samples,), generator=rng)
        self.images = torch.randn(samples, 1, 8, 8, generator=rng)
        self.images[torch.arange(samples), 0, self.labels] += 1.5
        self.samples = samples // world_size
        self._rank, self._world_size, self._epoch = rank, world_size, 0

    def __len__(self) -> int:
        return -(-self.samples // 16)

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.labels), generator=generator(self._epoch, "order"))
        for index in order[self._rank :: self._world_size].split(16):
            yield self.images[index], self.labels[index]


def config(**options: Any) -> SupernetConfig:
    """Make options that suit a training of a few steps."""
    small: dict[str, Any] = {
        "board_size": 4,
        "rescore_epochs": 2,
        "rescore_images": 32,
        "meta_interval": 5,
    }
    small |= {"board_rule": "paper", "confirm": False}
    return SupernetConfig(**{**small, **options})


def slice_of(count: int = 32) -> tuple[Tensor, Tensor]:
    """Give images that stand for a validation slice."""
    loader = Stripes(200)
    return loader.images[-count:], loader.labels[-count:]


def training(
    supernet: ChoiceSupernet,
    options: SupernetConfig,
    *,
    epochs: int,
    checkpoint: Path | None = None,
    extra: Sequence[Callback] = (),
) -> tuple[SupernetTraining, TrainResult]:
    """Train a supernet of the small space."""
    search = SupernetTraining(block_space(), options, *slice_of(), classes=10)
    result = train(
        supernet,
        Stripes(rank=rank(), world_size=world_size()),
        TrainConfig(epochs=epochs, batch_size=16, lr=0.05),
        seed=5,
        loss=search.loss,
        callbacks=[search, *extra],
        checkpoint=checkpoint,
        progress=False,
    )
    return search, result


def main(folder: Path) -> None:
    """Train over processes, with one operation that the prior never draws."""
    supernet = block_space().supernet(generator(0, "net"))
    prefix = "layers.0.1."
    before = snapshot({k: v for k, v in supernet.state_dict().items() if k.startswith(prefix)})
    weights = {"k1": 1.0, "skip": 1.0, "k5": 1.0}
    options = config(
        warmup=0.2, prior=weights, teacher="meta", meta_interval=1, meta_lr=0.1, confirm=True
    )
    search, _ = training(supernet, options, epochs=5)
    after = supernet.state_dict()
    # weight decay and momentum would move what only has a gradient of zero
    kept = all(torch.equal(after[k], v) for k, v in before.items())
    torch.save(
        {
            "model": snapshot(after),
            "search": snapshot(search.state_dict()),
            "never_sampled": len(before) > 0,
            "untouched": kept,
        },
        folder / f"{rank()}.pt",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))

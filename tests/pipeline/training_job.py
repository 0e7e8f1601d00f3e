"""Small trainings for the tests; as a script, one that can be killed or started by torchrun."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from supertickets.training import Callback, TrainConfig, TrainState, rank, train, world_size
from supertickets.training.checkpoint import digest

CLASSES = 3


class TinyLoader:
    """Random images whose label is their brightest stripe; sharded like the real loader."""

    def __init__(
        self, samples: int = 52, batch_size: int = 8, *, rank: int = 0, world_size: int = 1
    ) -> None:
        draw = torch.Generator().manual_seed(11)
        self.images = torch.randn(samples, 1, 6, 6, generator=draw)
        self.labels = self.images.view(samples, CLASSES, 12).mean(2).argmax(1)
        self.samples = len(range(rank, samples, world_size))
        self._batch_size = batch_size
        self._shard = (rank, world_size)
        self._epoch = 0

    def __len__(self) -> int:
        return -(-self.samples // self._batch_size)

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first, stride = self._shard
        draw = torch.Generator().manual_seed(1000 + self._epoch)
        order = torch.randperm(len(self.labels), generator=draw)[first::stride]
        for index in order.split(self._batch_size):
            yield self.images[index], self.labels[index]


def make_net(*, bn: bool = True, dropout: float = 0.0, seed: int = 0) -> nn.Sequential:
    """Make a small conv net with its own seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, bias=not bn),
            nn.BatchNorm2d(6) if bn else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(6 * 16, CLASSES),
        )


def score(model: nn.Module) -> Mapping[str, float]:
    """Evaluate on other images than the trained ones."""
    loader = TinyLoader(samples=97)
    training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(loader.images)
    model.train(training)
    accuracy = (logits.argmax(1) == loader.labels).double().mean().item()
    return {"validation_accuracy": accuracy, "validation_loss": logits.square().mean().item()}


class RandomDrop(Callback):
    """Zeroes a random convolution weight after each step; its generator is part of its state."""

    name = "random-drop"

    def __init__(self, log: Path | None = None) -> None:
        self.draw = torch.Generator().manual_seed(5)
        self.dropped = 0
        self.seen = 0.0
        self.log = log

    def epoch_begin(self, state: TrainState) -> None:
        self.seen += state.figures.get("validation_loss", 0.0) + (state.loss if state.step else 0.0)

    def step_end(self, state: TrainState) -> None:
        weight = state.model[0].weight.detach().view(-1)  # type: ignore[index, union-attr, operator]
        weight[torch.randint(weight.numel(), (1,), generator=self.draw)] = 0
        self.dropped += 1
        if self.log is not None:
            with self.log.open("a") as stream:
                stream.write(".")

    def epoch_end(self, state: TrainState) -> dict[str, float]:
        return {"dropped": float(self.dropped)}

    def state_dict(self) -> dict[str, Any]:
        return {"draw": self.draw.get_state(), "dropped": self.dropped, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draw.set_state(state["draw"])
        self.dropped = state["dropped"]
        self.seen = state["seen"]


def without_times(content: Any) -> Any:
    """Drop the wall times from a checkpoint's content or a history."""
    if isinstance(content, dict):
        timed = ("seconds", "wall_s")
        return {key: without_times(v) for key, v in content.items() if key not in timed}
    return [without_times(item) for item in content] if isinstance(content, list) else content


def checkpoint_digest(folder: Path) -> str:
    """Give the SHA-256 of everything in a checkpoint but the wall times."""
    saved = torch.load(folder / "last.pt", weights_only=True)
    return digest(without_times(saved["content"]))


def everything_on(epochs: int, **changes: Any) -> TrainConfig:
    """Make a config that uses every part with a state."""
    options: dict[str, Any] = {
        "epochs": epochs,
        "lr": 0.03,
        "schedule": "one-cycle",
        "schedule_unit": "step",
        "label_smoothing": 0.1,
        "ema_decay": 0.9,
        "clip_norm": 1.0,
        "accumulate": 2,
        "bn_recalibration_batches": 2,
        "keep": "best",
    }
    return TrainConfig(**{**options, **changes})


def killable(folder: Path) -> None:
    """Train with everything on, leaving a mark per step, and write down what came out."""
    model, drop = make_net(dropout=0.2), RandomDrop(folder / "steps")
    result = train(
        model,
        TinyLoader(),
        everything_on(40),
        seed=3,
        evaluate=score,
        callbacks=[drop],
        checkpoint=folder / "checkpoint",
    )
    outcome = {
        "model": digest(model.state_dict()),
        "callback": digest(drop.state_dict()),
        "history": without_times(result.history),
        "best_epoch": result.best_epoch,
        "checkpoint": checkpoint_digest(folder / "checkpoint"),
    }
    (folder / "outcome.json").write_text(json.dumps(outcome))


def distributed_config() -> TrainConfig:
    """Train half of a global batch of 12 in each of two processes; the last batch is smaller."""
    return TrainConfig(epochs=4, batch_size=6, lr=0.05, accumulate=2, ema_decay=0.9, keep="best")


def distributed(folder: Path, name: str) -> None:
    """Train a share of the batches, as torchrun asks, and write down what came out."""
    model = make_net(bn=False)
    loader = TinyLoader(53, batch_size=6, rank=rank(), world_size=world_size())
    result = train(
        model,
        loader,
        distributed_config(),
        evaluate=score_by_rank,
        checkpoint=folder / "checkpoint",
    )
    outcome = {"model": model.state_dict(), "history": without_times(result.history)}
    torch.save({**outcome, "best_epoch": result.best_epoch}, folder / f"{name}-{rank()}.pt")


def score_by_rank(model: nn.Module) -> Mapping[str, float]:
    """Evaluate, but disagree outside the main process."""
    return {name: value / (1 + rank()) for name, value in score(model).items()}


class TwoPaths(nn.Module):
    """A net with a second path that its loss never takes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.taken = make_net(seed=seed)
        self.spare = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.taken(images)


def distributed_bn(folder: Path, name: str, recalibration: int) -> None:
    """Train a net with batch norm and an own loss, from a different start in each process."""

    def own_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model.taken(images), labels)  # type: ignore[operator]

    model = TwoPaths(seed=rank())
    loader = TinyLoader(53, batch_size=6, rank=rank(), world_size=world_size())
    config = TrainConfig(epochs=2, lr=0.05, bn_recalibration_batches=recalibration)
    train(model, loader, config, loss=own_loss)
    torch.save(model.state_dict(), folder / f"{name}-{rank()}.pt")


def distributed_refusal(folder: Path) -> None:
    """Give the processes different numbers of batches."""
    loader = TinyLoader(12 + 12 * rank(), batch_size=6)
    try:
        train(make_net(), loader, TrainConfig(epochs=1))
    except ValueError as error:
        (folder / f"error-{rank()}").write_text(str(error))


def all_distributed(folder: Path) -> None:
    """Do every distributed job in one launch; starting processes is what takes the time."""
    distributed(folder, "first")
    distributed(folder, "resumed")
    distributed_bn(folder, "bn", recalibration=0)
    distributed_bn(folder, "bn-recalibrated", recalibration=2)
    distributed_refusal(folder)


if __name__ == "__main__":
    {"killable": killable, "distributed": all_distributed}[sys.argv[1]](Path(sys.argv[2]))

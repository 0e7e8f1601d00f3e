"""One supernet of the distillation study: trained with one arm and one seed, every path scored."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.cream_space import study_data, study_space
from supertickets.data import ImageData
from supertickets.distill import Board, SupernetConfig, SupernetTraining
from supertickets.evaluate import classification
from supertickets.seeds import generator
from supertickets.spaces import ChoiceSpace, ChoiceSupernet, Path
from supertickets.training import TrainConfig, TrainState, recalibrate_bn, train

# The rate at which a supernet learns most in these epochs (0.05, 0.1 and 0.2 were tried).
SHARED = TrainConfig(epochs=120, batch_size=64, lr=0.2, schedule_unit="step")
_HALF = 0.5
# A meta update every 20 of the 960 steps, at a rate at which it can move within the few there are.
_META = {"meta_interval": 20, "meta_lr": 0.1}

ARMS: Mapping[str, SupernetConfig] = {
    "none": SupernetConfig(teacher="none"),
    "any-path": SupernetConfig(teacher="none"),
    "board-random": SupernetConfig(teacher="random"),
    "board-top": SupernetConfig(teacher="top1"),
    "board-meta": SupernetConfig(teacher="meta", **_META),
    "worst": SupernetConfig(teacher="none"),
}


class AnyPathTeaches(SupernetTraining):
    """Control: the teacher is any path of the space, board or not."""

    def teacher_of(self, path: Path) -> tuple[Path, Tensor] | None:
        """Draw the teacher from the prior, once the warm-up is over."""
        if self.state.step < self.warmup_steps:
            return None
        rng = generator(self.state.seed, "any-path", self.state.step)
        return self.space.sample(rng), torch.tensor(_HALF)


class WorstTeaches(SupernetTraining):
    """Control: a second board keeps the worst paths, and its worst teaches."""

    def begin(self, state: TrainState) -> None:
        """Open the second board."""
        super().begin(state)
        self.reverse = Board(self.config.board_size, rule="top", warmup_steps=self.warmup_steps)

    def step_end(self, state: TrainState) -> None:
        """Offer the path to both boards."""
        super().step_end(state)
        path, accuracy = self._latest[-1]
        self.reverse.offer(state.step, path, 1 - accuracy, self.space.macs(path))

    def teacher_of(self, path: Path) -> tuple[Path, Tensor] | None:
        """Give the worst path that was seen."""
        entries = self.reverse.entries
        return (entries[0].path, torch.tensor(_HALF)) if entries else None


_KINDS: Mapping[str, type[SupernetTraining]] = {
    "any-path": AnyPathTeaches,
    "worst": WorstTeaches,
}


def run_arm(
    arm: str, config: SupernetConfig, seed: int, shared: TrainConfig = SHARED
) -> dict[str, Any]:
    """Train a supernet and score all paths.

    Args:
        arm: ``any-path`` and ``worst`` are controls; any other name: as ``config`` says.
        config: The options.
        seed: Decides weights, order and paths.
        shared: The options of the training.

    Returns:
        A row: for each path, in the order of the space, validation accuracy and loss with its own
        batch-norm statistics; the board with its events, and the seconds of both parts.
    """
    space, data = study_space(), study_data()
    supernet = space.supernet(generator(seed, "supernet"))
    images, labels = next(
        iter(data.loader("validation", batch_size=config.rescore_images, seed=0, shuffle=True))
    )
    kind = _KINDS.get(arm, SupernetTraining)
    search = kind(space, config, images, labels, classes=data.num_classes)
    loader = data.loader("train", batch_size=shared.batch_size, seed=seed)
    result = train(
        supernet, loader, shared, seed=seed, loss=search.loss, callbacks=[search], progress=False
    )
    started = time.perf_counter()
    scores = score_all(space, supernet, data)
    return {
        "kind": "arm",
        "arm": arm,
        "seed": seed,
        **scores,
        "board": [[list(e.path), e.score] for e in search.board],
        "events": [[e.step, e.kind, list(e.path)] for e in search.board.events],
        "warmup_steps": search.warmup_steps,
        "train_s": round(result.wall_s, 3),
        "score_s": round(time.perf_counter() - started, 3),
    }


def score_all(
    space: ChoiceSpace, supernet: ChoiceSupernet, data: ImageData
) -> dict[str, list[float]]:
    """Score every path with batch-norm statistics of its own."""
    train_loader = data.loader("train", batch_size=128, seed=0)
    validation = data.loader("validation", batch_size=512)
    accuracies, losses = [], []
    for path in space.paths():
        view = supernet.view(path)
        recalibrate_bn(view, train_loader, batches=len(train_loader))
        found = classification(view, validation)
        accuracies.append(found.accuracy)
        losses.append(found.loss)
    return {"accuracy": accuracies, "loss": losses}

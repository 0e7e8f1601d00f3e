"""One supernet of the distillation study: trained with one arm and one seed, every path scored."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.cream_space import study_data, study_space
from supertickets.data import ImageData
from supertickets.distill import Board, SupernetConfig, SupernetTraining
from supertickets.distill.select import PathScorer
from supertickets.seeds import generator
from supertickets.spaces import ChoiceSpace, ChoiceSupernet, Path
from supertickets.training import TrainConfig, TrainState, train

# The rate at which a supernet learns most in these epochs (0.05, 0.1 and 0.2 were tried).
SHARED = TrainConfig(epochs=120, batch_size=64, lr=0.2, schedule_unit="step")
_HALF = 0.5
# A meta update every 20 of the 960 steps, at a rate at which it can move within the few there are.
_META: Mapping[str, Any] = {"meta_interval": 20, "meta_lr": 0.1}

_SLOWER = SHARED.model_copy(update={"lr": 0.1})
_LONGER = SHARED.model_copy(update={"epochs": 240})
_AVERAGED = SHARED.model_copy(update={"ema_decay": 0.99})

Arm = tuple[SupernetConfig, TrainConfig]

_PAPER: Mapping[str, Any] = {"board_rule": "paper", "confirm": False}
_OURS: Mapping[str, Any] = {"board_rule": "top", "confirm": True}

ARMS: Mapping[str, Arm] = {
    "none": (SupernetConfig(teacher="none", **_PAPER), SHARED),
    "any-path": (SupernetConfig(teacher="none", **_PAPER), SHARED),
    "board-random": (SupernetConfig(teacher="random", **_PAPER), SHARED),
    "board-top": (SupernetConfig(teacher="top1", **_PAPER), SHARED),
    "board-meta": (SupernetConfig(teacher="meta", **_META, **_PAPER), SHARED),
    "worst": (SupernetConfig(teacher="none", **_PAPER), SHARED),
    "none, our board": (SupernetConfig(teacher="none", **_OURS), SHARED),
    "top, our board": (SupernetConfig(teacher="top1", **_OURS), SHARED),
}


def _sized(teacher: Literal["top1", "meta"], size: int) -> SupernetConfig:
    meta = _META if teacher == "meta" else {}
    return SupernetConfig(teacher=teacher, board_size=size, **meta, **_PAPER)


# What was tried when the arms above turned out alike; each beside "none" of the same training.
TRIES: Mapping[str, Arm] = {
    "none, 240 epochs": (SupernetConfig(teacher="none", **_OURS), _LONGER),
    "top, 240 epochs": (SupernetConfig(teacher="top1", **_OURS), _LONGER),
    "top, warm-up of half": (SupernetConfig(teacher="top1", warmup=0.5, **_OURS), SHARED),
    "top, temperature 3": (SupernetConfig(teacher="top1", temperature=3, **_OURS), SHARED),
    "none, no label smoothing": (
        SupernetConfig(teacher="none", label_smoothing=0, **_OURS),
        SHARED,
    ),
    "none, averaged weights": (SupernetConfig(teacher="none", **_OURS), _AVERAGED),
    "none, lr 0.1": (SupernetConfig(teacher="none", **_OURS), _SLOWER),
    "top, lr 0.1": (SupernetConfig(teacher="top1", **_OURS), _SLOWER),
}
SIZES: Mapping[str, Arm] = {
    f"{teacher}, board of {size}": (_sized(teacher, size), SHARED)
    for teacher in ("top1", "meta")
    for size in (1, 5, 20, 50)
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


_CONTROLS: Mapping[str, type[SupernetTraining]] = {
    "any-path": AnyPathTeaches,
    "worst": WorstTeaches,
}


def run_arm(kind: str, name: str, arm: Arm, seed: int) -> dict[str, Any]:
    """Train a supernet and score all paths.

    Args:
        kind: Of the row.
        name: ``any-path`` and ``worst`` are controls; any other name: as the options say.
        arm: The options of the search and of the training.
        seed: Decides weights, order and paths.

    Returns:
        A row: for each path, in the order of the space, validation accuracy and loss with its own
        batch-norm statistics; the board with its events, and the seconds of both parts.
    """
    config, shared = arm
    space, data = study_space(), study_data()
    supernet = space.supernet(generator(seed, "supernet"))
    images, labels = next(
        iter(data.loader("validation", batch_size=config.rescore_images, seed=0, shuffle=True))
    )
    make = _CONTROLS.get(name, SupernetTraining)
    search = make(space, config, images, labels, classes=data.num_classes)
    loader = data.loader("train", batch_size=shared.batch_size, seed=seed)
    result = train(
        supernet, loader, shared, seed=seed, loss=search.loss, callbacks=[search], progress=False
    )
    started = time.perf_counter()
    scores = score_all(space, supernet, data)
    return {
        "kind": kind,
        "arm": name,
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
    scorer = PathScorer(space, supernet, train_loader, validation, batches=len(train_loader))
    rows = [scorer(path) for path in space.paths()]
    return {"accuracy": [row.accuracy for row in rows], "loss": [row.loss for row in rows]}

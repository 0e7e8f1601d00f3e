"""What board, teacher and look-ahead add to a training step."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import optim

from benchmarks.cream_space import study_space
from supertickets.distill import SupernetConfig, SupernetTraining
from supertickets.seeds import generator
from supertickets.spaces import ChoiceSpace
from supertickets.spaces.mbconv import mbconv_space
from supertickets.training import TrainConfig, TrainState

_STEPS_PER_EPOCH = 10**6  # no epoch ends meanwhile
_FILL = 15


class Stepper:
    """Makes training steps of one arm, on the same images."""

    def __init__(self, space: ChoiceSpace, config: SupernetConfig, batch: int) -> None:
        rng = generator(0, "cost")
        self._images = torch.randn(batch, 1, 8, 8, generator=rng)
        self._labels = torch.randint(10, (batch,), generator=rng)
        supernet = space.supernet(rng)
        self._optimizer = optim.SGD(supernet.parameters(), lr=1e-4, momentum=0.9)
        self._state = TrainState(
            model=supernet,
            optimizer=self._optimizer,
            config=TrainConfig(epochs=10, batch_size=batch),
            device=torch.device("cpu"),
            seed=0,
            steps_per_epoch=_STEPS_PER_EPOCH,
        )
        self.search = SupernetTraining(space, config, self._images, self._labels, classes=10)
        self.search.begin(self._state)
        self.search.epoch_begin(self._state)

    def __call__(self) -> float:
        """Make one step; give its seconds."""
        started = time.perf_counter()
        loss = self.search.loss(self._state.model, self._images, self._labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._state.step += 1
        self.search.step_end(self._state)
        return time.perf_counter() - started


def measure_cost(*, repeats: int = 15) -> dict[str, Any]:
    """Time steps of all arms in turn.

    Args:
        repeats: Steps of each; every arm takes the same path at the same step.

    Returns:
        The machine's load, and for each network and batch: median milliseconds of a step,
        quartiles, each arm's ratio to plain single-path training (no board, no teacher), and the
        share of a look-ahead update at the paper's interval of 200 steps.
    """
    digits = mbconv_space(
        num_classes=10, channels=1, image_size=(8, 8), options={"preset": "digits"}
    )
    cases: dict[str, tuple[Callable[[], ChoiceSpace], int]] = {
        "study, batch 64": (study_space, 64),
        "mbconv digits, batch 64": (lambda: digits, 64),
        "mbconv digits, batch 128": (lambda: digits, 128),
    }
    # other work on the machine widens the quartiles; the arms take turns, so all meet the same
    before = os.getloadavg()[0]
    measured = {name: _case(make(), batch, repeats) for name, (make, batch) in cases.items()}
    return {"load_average_before": before, "cases": measured}


def _case(space: ChoiceSpace, batch: int, repeats: int) -> dict[str, Any]:
    never = 10**9
    arms = {
        "plain": SupernetConfig(teacher="none", warmup=0.99),
        "board": SupernetConfig(teacher="none", warmup=0),
        "board and top teacher": SupernetConfig(teacher="top1", warmup=0),
        "board and matched teacher": SupernetConfig(teacher="meta", warmup=0, meta_interval=never),
        "a look-ahead every step": SupernetConfig(teacher="meta", warmup=0, meta_interval=1),
    }
    steppers = {name: Stepper(space, config, batch) for name, config in arms.items()}
    for stepper in steppers.values():
        for _ in range(_FILL):
            stepper()
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repeats):
        for name, stepper in steppers.items():
            times[name].append(1e3 * stepper())
    median = {name: statistics.median(values) for name, values in times.items()}
    quartiles = {name: statistics.quantiles(values, n=4) for name, values in times.items()}
    extra = median["a look-ahead every step"] - median["board and matched teacher"]
    return {
        "median_ms": median,
        "quartiles_ms": {name: [cut[0], cut[2]] for name, cut in quartiles.items()},
        "ratio_to_plain": {name: value / median["plain"] for name, value in median.items()},
        "look_ahead_share_at_200": extra / (200 * median["board and matched teacher"]),
        "steps": repeats,
    }

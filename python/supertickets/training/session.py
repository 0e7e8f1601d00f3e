"""One training under way: the order in which everything happens."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from supertickets.errors import InputError, RunError
from supertickets.seeds import derive_seed
from supertickets.tasks import TaskName
from supertickets.training import distributed
from supertickets.training.batchnorm import recalibrate_bn, running_statistics
from supertickets.training.callback import BatchLoader, Callback, TrainState
from supertickets.training.checkpoint import (
    CHECKPOINT_NAME,
    digest,
    model_layout,
    read_checkpoint,
    snapshot,
    write_checkpoint,
)
from supertickets.training.config import TrainConfig
from supertickets.training.ema import Ema
from supertickets.training.optimizer import learning_rate, make_optimizer
from supertickets.training.progress import ProgressBar, progress_bar
from supertickets.training.result import TrainResult, best_epoch
from supertickets.training.step import Batch, Loss, NotFiniteError, StepRunner
from supertickets.training.tracking import tensorboard_track

Evaluate = Callable[[nn.Module], Mapping[str, float]]


@dataclass
class Session:
    """A training with its state; the arguments are those of :func:`supertickets.training.train`.

    Attributes:
        trained: The optimised parameters by their names in ``model``.
        callbacks: By their stable names.
        state: What callbacks see.
        history: One row per finished epoch.
        kept: State of the model and the callbacks that the training ends with, if not the present.
    """

    model: nn.Module
    loader: BatchLoader
    config: TrainConfig
    seed: int
    task: TaskName
    loss: Loss | None
    evaluate: Evaluate | None
    metric: str
    trained: Mapping[str, nn.Parameter]
    callbacks: Mapping[str, Callback]
    folder: Path | None
    device: torch.device
    label: str
    history: list[dict[str, float]] = field(default_factory=list)
    kept: dict[str, Any] | None = None
    wall_s: float = 0.0

    def __post_init__(self) -> None:
        self.state = TrainState(
            model=self.model,
            optimizer=make_optimizer(self.trained.values(), self.config),
            config=self.config,
            device=self.device,
            seed=self.seed,
            steps_per_epoch=-(-len(self.loader) // self.config.accumulate),
        )
        self._identity = self._what_it_is()
        with self._seeded("begin"):
            for callback in self.callbacks.values():
                callback.begin(self.state)
        decay = self.config.ema_decay
        self._ema = self.state.ema = Ema(self.model, self.trained, decay) if decay else None
        self._runner = self._make_runner()

    def _make_runner(self) -> StepRunner:
        self.state.reshaped = False
        return StepRunner(
            self.model, self.state.optimizer, self.config, self.loss, self.device, self.task
        )

    def run(self, *, progress: bool, tensorboard: Path | None) -> TrainResult:
        """Do what is left of the training, from the checkpoint if there is one."""
        state, epochs = self.state, self.config.epochs
        self._resume()
        total = epochs * state.steps_per_epoch
        with (
            progress_bar(self.label, total, done=state.step, enabled=progress) as bar,
            tensorboard_track(tensorboard, first_step=state.step) as track,
        ):
            while state.epoch < epochs:
                with self._seeded("epoch", state.epoch):
                    self._epoch(bar)
                track(state.step, self.history[-1])
        if self.kept is not None:
            self._restore(self.kept)
        return TrainResult(self.history, best_epoch(self.history, self.metric), self.wall_s)

    def _epoch(self, bar: ProgressBar) -> None:
        started = time.perf_counter()
        state = self.state
        self.model.train()
        self.loader.set_epoch(state.epoch)
        for callback in self.callbacks.values():
            callback.epoch_begin(state)
        lr = learning_rate(self.config, state.step, state.steps_per_epoch)
        state.figures = {"epoch": state.epoch + 1, "loss": self._steps(bar), "lr": lr}
        self._check_weights()
        distributed.broadcast_(self.model.buffers())
        if self._ema is not None:
            distributed.broadcast_(self._ema.tensors.values())
        for callback in self.callbacks.values():
            figures = callback.epoch_end(state) or {}
            self._add_figures(figures)
            bar.show(**figures)
        if state.reshaped:
            self._runner = self._make_runner()
        self._score()
        if self.metric in state.figures:
            bar.show(**{self.metric: state.figures[self.metric]})
        seconds = time.perf_counter() - started
        self.history.append({**state.figures, "seconds": seconds})
        self.wall_s += seconds
        state.epoch += 1
        self._save()

    def _steps(self, bar: ProgressBar) -> float:
        """Do the optimizer steps of one epoch; give the mean loss over its samples."""
        summed, count = 0.0, 0
        bar.show(epoch=f"{self.state.epoch + 1}/{self.config.epochs}")
        batches = iter(self.loader)
        while group := list(islice(batches, self.config.accumulate)):
            step_loss, step_count = self._step(group)
            summed += step_loss
            count += step_count
            bar.advance()
            bar.show(loss=summed / count)
        return summed / count

    def _step(self, group: Sequence[Batch]) -> tuple[float, int]:
        state = self.state
        try:
            summed, count = self._runner.backward(group)
            self._runner.update(learning_rate(self.config, state.step, state.steps_per_epoch))
        except NotFiniteError as error:
            raise self._diverged(str(error), state.step) from error
        state.step += 1
        state.loss = summed / count
        for callback in self.callbacks.values():
            callback.step_end(state)
        if self._ema is not None:
            self._ema.update(self.model)
        return summed, count

    def _score(self) -> None:
        """Evaluate the model as it would be kept, and keep it if it is to be."""
        state, config = self.state, self.config
        last = state.epoch + 1 == config.epochs
        if self.evaluate is None and not last:
            return
        with self._as_kept():
            if self.evaluate is not None:
                self._add_figures(self.evaluate(self.model))
            if config.keep == "best":
                self._require_metric()
                keep = best_epoch([*self.history, state.figures], self.metric) == state.epoch + 1
            else:
                keep = last and bool(config.ema_decay or config.bn_recalibration_batches)
            if keep:
                self.kept = self._model_and_callbacks()

    @contextmanager
    def _as_kept(self) -> Iterator[None]:
        """Give the model its averaged weights and re-estimated statistics, for a while."""
        batches = self.config.bn_recalibration_batches
        if self._ema is None and not batches:
            yield
            return
        live = copy.deepcopy(self.model.state_dict())
        try:
            if self._ema is not None:
                self._ema.copy_to_(self.model)
            if batches:
                recalibrate_bn(self.model, self.loader, batches=batches, device=self.device)
                distributed.average_(running_statistics(self.model))
            yield
        finally:
            self.model.load_state_dict(live)

    def _add_figures(self, figures: Mapping[str, float]) -> None:
        """Add the main process's figures to the epoch's row."""
        agreed = distributed.on_main(lambda: {name: float(v) for name, v in figures.items()})
        taken = self.state.figures.keys() | {"seconds"}
        for name, value in agreed.items():
            if name in taken:
                raise InputError(f"{self.label}: two figures of an epoch are named {name!r}")
            self.state.figures[name] = value

    def _require_metric(self) -> None:
        if self.metric not in self.state.figures:
            given = ", ".join(sorted(self.state.figures))
            raise InputError(
                f"{self.label}: keep='best' needs {self.metric!r}; figures are {given}"
            )

    def _check_weights(self) -> None:
        """Never let a checkpoint hold weights that the next loss would fail on."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                raise self._diverged(f"{name!r} is not finite", self.state.step - 1)

    def _diverged(self, what: str, step: int) -> RunError:
        state, per_epoch = self.state, self.state.steps_per_epoch
        kept = ""
        if self.folder is not None and self.history:
            kept = f"; {self.folder / CHECKPOINT_NAME} still holds epoch {state.epoch}"
        return RunError(
            f"{self.label}: {what} in epoch {state.epoch + 1} of {self.config.epochs}, "
            f"step {step % per_epoch + 1} of {per_epoch}; a lower lr or clip_norm may help{kept}"
        )

    @contextmanager
    def _seeded(self, *purpose: str | int) -> Iterator[None]:
        """Seed the global generators for the block, and put them back after it."""
        cards = [self.device.index] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cards):
            torch.manual_seed(derive_seed(self.seed, "train", *purpose, distributed.rank()))
            yield

    def _what_it_is(self) -> dict[str, Any]:
        """Say what makes this training this one; a checkpoint of any other is refused."""
        state = self.model.state_dict()
        frozen = {n: p for n, p in self.model.named_parameters() if n not in self.trained}
        return {
            "config": self.config.model_dump(mode="json"),
            "seed": self.seed,
            "task": self.task,
            "metric": self.metric,
            "evaluated": self.evaluate is not None,
            "own_loss": self.loss is not None,
            "samples": self.loader.samples,
            "batches": len(self.loader),
            "world_size": distributed.world_size(),
            "callbacks": list(self.callbacks),
            "model": model_layout(state),
            "trained": list(self.trained),
            "frozen_sha256": digest(frozen),
        }

    def _model_and_callbacks(self) -> dict[str, Any]:
        states = {name: callback.state_dict() for name, callback in self.callbacks.items()}
        return {
            "model": snapshot(self.model.state_dict(), "model"),
            "callbacks": snapshot(states, "callbacks"),
        }

    def _restore(self, saved: Mapping[str, Any]) -> None:
        for name, callback in self.callbacks.items():
            callback.restore_shapes(self.state, snapshot(saved["callbacks"][name]))
        if self.state.reshaped:
            self._runner = self._make_runner()
        self.model.load_state_dict(saved["model"])
        for name, callback in self.callbacks.items():
            callback.load_state_dict(snapshot(saved["callbacks"][name]))

    def _save(self) -> None:
        folder = self.folder
        if folder is None:
            return
        content = {
            **self._model_and_callbacks(),
            "optimizer": self.state.optimizer.state_dict(),
            "ema": None if self._ema is None else self._ema.state_dict(),
            "kept": self.kept,
            "history": self.history,
            "step": self.state.step,
            "loss": self.state.loss,
            "wall_s": self.wall_s,
        }
        distributed.on_main(lambda: write_checkpoint(folder, self._identity, content))

    def _resume(self) -> None:
        folder = self.folder
        if folder is None:
            return
        saved = distributed.on_main(lambda: read_checkpoint(folder, self._identity))
        if saved is None:
            return
        self._restore(saved)
        self.state.optimizer.load_state_dict(saved["optimizer"])
        if self._ema is not None:
            self._ema.load_state_dict(saved["ema"])
        self.kept = saved["kept"]
        self.history = saved["history"]
        self.wall_s = saved["wall_s"]
        self.state.step = saved["step"]
        self.state.loss = saved["loss"]
        self.state.epoch = len(self.history)
        self.state.figures = {k: v for k, v in self.history[-1].items() if k != "seconds"}

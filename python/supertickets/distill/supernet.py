"""Training a supernet: single paths, the board, and the teacher, as parts of the shared loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from supertickets.distill.board import Board
from supertickets.distill.config import SupernetConfig
from supertickets.distill.lookahead import lookahead_gradient
from supertickets.distill.loss import distillation_loss, soft_cross_entropy
from supertickets.distill.matching import MatchingNetwork, choose, match, quiet_forward
from supertickets.errors import InputError
from supertickets.seeds import generator
from supertickets.spaces import ChoiceSpace, ChoiceSupernet, Path
from supertickets.training import Callback, TrainState, distributed

_LATEST = 8
_META_MOMENTUM = 0.9
_META_CLIP = 1.0


class SupernetTraining(Callback):
    """What makes :func:`supertickets.training.train` a one-shot search.

    Give it to ``train`` twice::

        search = SupernetTraining(space, config, slice_images, slice_labels, classes=10)
        train(supernet, loader, train_config, loss=search.loss, callbacks=[search])
        search.board.paths

    An optimizer step trains one path, the same in every process; the weights off it have no
    gradient and stay as they are, bit for bit. From the end of the warm-up on, the path's accuracy
    on its training batch is offered to the board, and an entry of the board teaches it. A batch is
    easier or harder than the validation slice that entries are scored on anew, so the mean
    difference of the two, measured at each scoring over the last paths that were sampled, is
    subtracted from what is offered.

    Args:
        space: Gives paths and their MACs.
        config: The options.
        images: The validation slice, ``[N, C, H, W]`` as the loader gives it.
        labels: int64 ``[N]``.
        classes: Number of classes.
        truth: Accuracies of paths, if they are known; adds the figure ``tau_truth``.

    Attributes:
        board: The board.
        matching: The matching network.
    """

    name = "supernet"

    def __init__(
        self,
        space: ChoiceSpace,
        config: SupernetConfig,
        images: Tensor,
        labels: Tensor,
        *,
        classes: int,
        truth: Mapping[Path, float] | None = None,
    ) -> None:
        self.space = space
        self.config = config
        prior = None if config.prior is None else space.prior(config.prior)
        self._sampler = space.within(config.min_macs, config.max_macs, prior)
        self._images, self._labels = images, labels
        self._truth = dict(truth or {})
        self.board = Board(
            config.board_size,
            rule=config.board_rule,
            gap=config.board_gap,
            min_macs=config.min_macs or 0,
            max_macs=config.max_macs,
        )
        self.matching = MatchingNetwork(config.slice, classes)
        self._meta = optim.SGD(
            self.matching.parameters(), lr=config.meta_lr, momentum=_META_MOMENTUM
        )
        self._latest: deque[tuple[Path, float]] = deque(maxlen=_LATEST)
        self._easier = 0.0
        self._ranked: dict[Path, float] = {}
        self._rhos: list[Tensor] = []
        self._taught: set[Path] = set()

    @property
    def state(self) -> TrainState:
        """The training under way."""
        if not hasattr(self, "_state"):
            raise InputError("supernet: its loss needs it among the callbacks of the training")
        return self._state

    @property
    def supernet(self) -> ChoiceSupernet:
        """The network that is trained."""
        model = self.state.model
        assert isinstance(model, ChoiceSupernet)
        return model

    @property
    def warmup_steps(self) -> int:
        """Optimizer steps before the first teacher: whole epochs."""
        epochs = round(self.config.warmup * self.state.config.epochs)
        return epochs * self.state.steps_per_epoch

    def path_at(self, step: int) -> Path:
        """Give the path of an optimizer step; it depends on the seed and the step alone."""
        return self._sampler(generator(self.state.seed, "supernet", "path", step))

    def begin(self, state: TrainState) -> None:
        """Take up the training."""
        if not isinstance(state.model, ChoiceSupernet):
            raise InputError(f"supernet: expected a ChoiceSupernet, got {type(state.model)}")
        self._state = state
        self.board.warmup_steps = self.warmup_steps
        self.matching.to(state.device)
        self._images, self._labels = self._images.to(state.device), self._labels.to(state.device)
        self._step = -1

    def epoch_begin(self, state: TrainState) -> None:
        """Score the board anew, when it is time."""
        self._rhos, self._taught = [], set()
        active = state.step - self.warmup_steps
        every = self.config.rescore_epochs * state.steps_per_epoch
        if every and active >= 0 and active % every == 0 and self._latest:
            self._rescore()

    def loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Give the loss of this step's path; what ``train`` takes for its ``loss``.

        Args:
            model: The supernet.
            images: ``[N, C, H, W]``.
            labels: int64 ``[N]``.
        """
        assert isinstance(model, ChoiceSupernet)
        state = self.state
        if state.step != self._step:
            self._step, self._correct, self._count = state.step, [], 0
            model.set_path(self.path_at(state.step))
        path = model.path
        if self._looks_ahead():
            self._look_ahead(model, images, labels)
        found = self.teacher_of(path)
        logits = model(images)
        plain = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        self._correct.append((logits.detach().argmax(dim=1) == labels).sum())
        self._count += len(labels)
        self._lesson = (images, logits.detach())
        if found is None:
            return plain
        teacher, rho = found
        self._rhos.append(rho)
        self._taught.add(teacher)
        targets = self._teach(model, teacher, images)
        soft = soft_cross_entropy(logits, targets, temperature=self.config.temperature)
        return distillation_loss(plain, soft, rho)

    def step_end(self, state: TrainState) -> None:
        """Offer the path to the board."""
        correct = float(torch.stack(self._correct).sum())
        right, count = distributed.totals([correct, float(self._count)], state.device)
        path = self.supernet.path
        self._latest.append((path, right / count))
        self.board.offer(
            self._step,
            path,
            right / count - self._easier,
            self.space.macs(path),
            lesson=self._own_lesson,
            confirm=(lambda: self.score([path])[0]) if self.config.confirm else None,
        )

    def epoch_end(self, state: TrainState) -> dict[str, float]:
        """Give the figures of board and teacher.

        Returns:
            ``board`` (entries), ``board_best`` and ``board_mean`` (scores), ``rho`` (mean over the
            epoch's steps), ``teachers`` (different ones), and on demand ``tau``: Kendall's tau of
            the scores of a fixed set of random paths with their scores an epoch before, and
            ``tau_truth`` with the known accuracies.
        """
        scores = [entry.score for entry in self.board]
        figures: dict[str, float] = {"board": float(len(scores))}
        if scores:
            figures |= {"board_best": scores[0], "board_mean": sum(scores) / len(scores)}
        if self._rhos:
            figures["rho"] = float(torch.stack(self._rhos).mean())
            figures["teachers"] = float(len(self._taught))
        return figures | self._taus()

    def score(self, paths: Sequence[Path]) -> list[float]:
        """Score paths on the validation slice, with the batch norm statistics of the slice itself.

        Args:
            paths: Any paths of the space.

        Returns:
            Accuracies; the main process's, in every process. Statistics and generators are
            untouched, and the path that was set is set again.
        """

        def measure() -> list[float]:
            model, found = self.supernet, []
            with torch.no_grad(), quiet_forward(model), _as_it_was(model):
                for path in paths:
                    model.set_path(path)
                    right = model(self._images).argmax(dim=1) == self._labels
                    found.append(float(right.float().mean()))
            return found

        return distributed.on_main(measure)

    def state_dict(self) -> dict[str, Any]:
        """Give board, matching network and what else a resumed training needs."""
        return {
            "board": self.board.state_dict(),
            "matching": self.matching.state_dict(),
            "meta": self._meta.state_dict(),
            "latest": [[list(path), accuracy] for path, accuracy in self._latest],
            "easier": self._easier,
            "ranked": [[list(path), score] for path, score in self._ranked.items()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state that :meth:`state_dict` gave."""
        self.board.load_state_dict(state["board"], device=self.state.device)
        self.matching.load_state_dict(state["matching"])
        self._meta.load_state_dict(state["meta"])
        self._latest = deque(((tuple(p), a) for p, a in state["latest"]), maxlen=_LATEST)
        self._easier = state["easier"]
        self._ranked = {tuple(path): score for path, score in state["ranked"]}

    def teacher_of(self, path: Path) -> tuple[Path, Tensor] | None:
        """Choose who teaches a path at this step; to be overridden by other ways of choosing.

        Args:
            path: The student, which the supernet is set to.

        Returns:
            The teacher and rho, a scalar in ``[0, 1]``; ``None`` where there is no teacher.
        """
        entries, kind = self.board.entries, self.config.teacher
        if kind == "none" or not entries:
            return None
        if kind == "meta":
            with quiet_forward(self.supernet):
                choice = match(self.matching, self.supernet, entries)
        else:
            rng = generator(self.state.seed, "supernet", "teacher", self.state.step)
            choice = choose(kind, path, entries, generator=rng, device=self.state.device)
        return entries[choice.index].path, choice.rho

    def _teach(self, model: ChoiceSupernet, teacher: Path, images: Tensor) -> Tensor:
        """Give a teacher's soft outputs on the student's images."""
        with torch.no_grad(), quiet_forward(model), _as_it_was(model):
            model.set_path(teacher)
            logits = model(images).float()
        return (logits / self.config.temperature).softmax(dim=1)

    def _looks_ahead(self) -> bool:
        learns = self.config.teacher == "meta" and bool(self.board.entries)
        return learns and self.state.step % self.config.meta_interval == 0

    def _look_ahead(self, model: ChoiceSupernet, images: Tensor, labels: Tensor) -> None:
        """Update the matching network: does the teacher's direction help on held-out images?"""
        size = self.config.slice
        if len(images) < 2 * size:
            return
        with quiet_forward(model):
            choice = match(self.matching, model, self.board.entries)
            entry = self.board.entries[choice.index]
            targets = self._teach(model, entry.path, images[:size])
            slope = lookahead_gradient(
                model.path_parameters(),
                lambda: soft_cross_entropy(
                    model(images[:size]), targets, temperature=self.config.temperature
                ),
                lambda: F.cross_entropy(model(images[size : 2 * size]), labels[size : 2 * size]),
                choice.rho,
                lr=self.state.optimizer.param_groups[0]["lr"],
            )
            assert entry.images is not None
            assert entry.outputs is not None
            with torch.no_grad():
                own = model(entry.images).float().softmax(dim=1)
        z = self.matching(own[None], entry.outputs[None]).squeeze(0)
        self._meta.zero_grad()
        (slope.detach() * torch.sigmoid(z)).backward()
        gradients = [p.grad for p in self.matching.parameters() if p.grad is not None]
        distributed.average_(gradients)
        nn.utils.clip_grad_norm_(self.matching.parameters(), _META_CLIP)
        self._meta.step()

    def _own_lesson(self) -> tuple[Tensor, Tensor]:
        """Give the path's first images and its own outputs; the main process's, everywhere."""
        images, logits = self._lesson
        size = self.config.slice
        places = torch.arange(size, device=images.device) % len(images)  # a last batch may be small
        lesson = (images[places].clone(), logits[places].float().softmax(dim=1))
        distributed.broadcast_(lesson)
        return lesson

    def _rescore(self) -> None:
        """Score the board on the slice, and measure how much easier training batches are."""
        sampled = list(self._latest)
        scores = self.score([path for path, _ in sampled])
        differences = [seen - scored for (_, seen), scored in zip(sampled, scores, strict=True)]
        self._easier = sum(differences) / len(differences)
        if self.board.entries:
            self.board.rescore(self.state.step, self.score)

    def _taus(self) -> dict[str, float]:
        """Compare the ranking of random paths with the epoch before, on demand."""
        if not self.config.tau_paths:
            return {}
        from scipy.stats import kendalltau

        rng = generator(self.state.seed, "supernet", "tau")
        paths = list(dict.fromkeys(self._sampler(rng) for _ in range(self.config.tau_paths)))
        ranked = dict(zip(paths, self.score(paths), strict=True))
        found = {}
        for name, other in (("tau", self._ranked), ("tau_truth", self._truth)):
            both = [path for path in paths if path in other]
            if len(both) > 2:
                tau = kendalltau([ranked[p] for p in both], [other[p] for p in both]).statistic
                if tau == tau:  # scores that are all equal have no ranking
                    found[name] = float(tau)
        self._ranked = ranked
        return found


@contextmanager
def _as_it_was(model: ChoiceSupernet) -> Iterator[None]:
    path = model.path
    try:
        yield
    finally:
        model.set_path(path)

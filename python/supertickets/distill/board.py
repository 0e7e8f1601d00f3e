"""The board of prioritized paths: which of the sampled paths are worth learning from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from supertickets.errors import InputError
from supertickets.spaces import Path

Rule = Literal["paper", "pareto", "top"]
EventKind = Literal["insert", "update", "leave", "rescore"]


@dataclass(frozen=True, eq=False)
class Entry:
    """One path on the board.

    Attributes:
        path: The path.
        score: Its accuracy in ``[0, 1]``: the mean of what it was seen with, see :class:`Board`.
        macs: Its multiply-accumulates.
        seen: How many observations ``score`` is the mean of.
        images: ``[s, C, H, W]`` that it was seen with, or None on a board without teaching.
        outputs: ``[s, classes]``: its *own* soft outputs on ``images`` at that time.
    """

    path: Path
    score: float
    macs: int
    seen: int = 1
    images: Tensor | None = None
    outputs: Tensor | None = None

    @property
    def order(self) -> tuple[float, int, Path]:
        """Sort key, the best first: the score, at equal scores the cheaper, then the path."""
        return (-self.score, self.macs, self.path)


@dataclass(frozen=True)
class Event:
    """Something that happened on the board.

    Attributes:
        step: When.
        kind: ``insert``, ``update`` (seen again), ``leave`` or ``rescore``.
        path: Which path.
        score: Its score after the event.
        macs: Its multiply-accumulates.
    """

    step: int
    kind: EventKind
    path: Path
    score: float
    macs: int


class Board:
    """At most ``size`` different paths, the best first; the outcome depends on the offers alone.

    A path that is on the board and is offered again is not inserted twice: its score becomes the
    mean of its observations. A full board takes a new path ``(score a, MACs c)`` by its rule, ``w``
    being the last entry:

    - ``paper``: ``a > a_w + gap``, or ``a > a_w`` and ``c < c_w``;
    - ``top``: ``a > a_w``;
    - ``pareto``, also while the board is not full: no entry is at least as good in both and better
      in one, or equal in both. Entries that the new path beats in this sense leave.

    Whatever is over ``size`` leaves at the end of the order.

    Args:
        size: Largest number of entries.
        rule: See above.
        gap: Of rule ``paper``: an accuracy this much above the last entry's needs no fewer MACs.
        min_macs: Cheaper paths are refused.
        max_macs: More expensive paths are refused.
        warmup_steps: Offers at earlier steps are refused.

    Attributes:
        entries: The entries, the best first.
        events: Everything that happened, in order.
        refused: How many offers were refused, by reason: ``warm-up``, ``macs``, ``rule``,
            ``second score``.

    Source: Peng et al. 2020 ("Cream of the Crop"), with the official code's 5 points for ``gap``;
    the Pareto rule after the UniNAS implementation. Unlike the official code, entries are
    different paths, equal scores prefer the cheaper path, and an entry holds its own outputs.
    """

    def __init__(
        self,
        size: int = 10,
        *,
        rule: Rule = "paper",
        gap: float = 0.05,
        min_macs: int = 0,
        max_macs: int | None = None,
        warmup_steps: int = 0,
    ) -> None:
        if size < 1:
            raise InputError(f"board: size must be at least 1, got {size}")
        if rule not in ("paper", "pareto", "top"):
            raise InputError(f"board: rule must be paper, pareto or top, got {rule!r}")
        if max_macs is not None and max_macs < min_macs:
            raise InputError(f"board: max_macs must be at least {min_macs}, got {max_macs}")
        self.size = size
        self.rule: Rule = rule
        self.gap = gap
        self.min_macs = min_macs
        self.max_macs = max_macs
        self.warmup_steps = warmup_steps
        self.entries: list[Entry] = []
        self.events: list[Event] = []
        self.refused: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    @property
    def paths(self) -> list[Path]:
        """The paths, the best first."""
        return [entry.path for entry in self.entries]

    def offer(
        self,
        step: int,
        path: Path,
        score: float,
        macs: int,
        *,
        lesson: Callable[[], tuple[Tensor, Tensor]] | None = None,
        confirm: Callable[[], float] | None = None,
    ) -> bool:
        """Show the board one observation of a path.

        Args:
            step: Counted from 0.
            path: The path.
            score: Its accuracy now, in ``[0, 1]``; a NaN is refused by every rule.
            macs: Its multiply-accumulates.
            lesson: Gives ``(images [s, C, H, W], outputs [s, classes])``, the outputs being the
                path's own; called only if the path is taken, and kept as it is.
            confirm: Gives a second, better score of the path; called only if the rule takes the
                first, and then the rule must take it, too. With it a path that is on the board
                keeps its score until the next :meth:`rescore`: observations of two kinds are not
                averaged.

        Returns:
            Whether the path is on the board afterwards.
        """
        if step < self.warmup_steps:
            return self._refuse("warm-up")
        if macs < self.min_macs or (self.max_macs is not None and macs > self.max_macs):
            return self._refuse("macs")
        new = Entry(path, score, macs)
        old = next((entry for entry in self.entries if entry.path == path), None)
        if score != score or (old is None and not self._takes(new)):
            return self._refuse("rule")
        if confirm is not None:
            if old is not None:
                return True
            new = replace(new, score=confirm())
            if not self._takes(new):
                return self._refuse("second score")
        if lesson is not None:
            images, outputs = lesson()
            new = replace(new, images=images, outputs=outputs)
        if old is None:
            self._insert(step, new)
        else:
            mean = (old.score * old.seen + score) / (old.seen + 1)
            merged = replace(new, score=mean, seen=old.seen + 1)
            self.entries[self.entries.index(old)] = merged
            self._log(step, "update", merged)
            self.entries.sort(key=lambda entry: entry.order)
        return path in self.paths

    def rescore(
        self, step: int, score: Callable[[Sequence[Path]], Sequence[float]]
    ) -> dict[Path, float]:
        """Replace every entry's score by a fresh one, and sort anew.

        Args:
            step: When.
            score: Gives the accuracies of paths.

        Returns:
            How much each path's score has changed.
        """
        before = {entry.path: entry.score for entry in self.entries}
        fresh = score(self.paths)
        if len(fresh) != len(self.entries):
            raise InputError(f"board: expected {len(self.entries)} new scores, got {len(fresh)}")
        self.entries = [
            replace(entry, score=float(value), seen=1)
            for entry, value in zip(self.entries, fresh, strict=True)
        ]
        self.entries.sort(key=lambda entry: entry.order)
        for entry in self.entries:
            self._log(step, "rescore", entry)
        return {entry.path: entry.score - before[entry.path] for entry in self.entries}

    def state_dict(self) -> dict[str, Any]:
        """Give entries, events and counts as plain data and tensors."""
        return {
            "entries": [{**vars(entry), "path": list(entry.path)} for entry in self.entries],
            "events": [{**asdict(event), "path": list(event.path)} for event in self.events],
            "refused": dict(self.refused),
        }

    def load_state_dict(self, state: dict[str, Any], *, device: str | torch.device = "cpu") -> None:
        """Take up a state that :meth:`state_dict` gave; tensors go to ``device``."""
        self.entries = [
            Entry(**{key: _load(key, value, device) for key, value in row.items()})
            for row in state["entries"]
        ]
        self.events = [Event(**{**row, "path": tuple(row["path"])}) for row in state["events"]]
        self.refused = Counter(state["refused"])

    def _takes(self, new: Entry) -> bool:
        if self.rule == "pareto":
            return not any(_at_least(entry, new) for entry in self.entries)
        if len(self.entries) < self.size:
            return True
        worst = self.entries[-1]
        if self.rule == "top":
            return new.score > worst.score
        cheaper = new.score > worst.score and new.macs < worst.macs
        return cheaper or new.score > worst.score + self.gap

    def _insert(self, step: int, new: Entry) -> None:
        beaten = []
        if self.rule == "pareto":
            beaten = [entry for entry in self.entries if _at_least(new, entry)]
        kept = [entry for entry in self.entries if not any(entry is one for one in beaten)]
        kept.append(new)
        kept.sort(key=lambda entry: entry.order)
        self._log(step, "insert", new)
        for entry in [*beaten, *kept[self.size :]]:
            self._log(step, "leave", entry)
        self.entries = kept[: self.size]

    def _refuse(self, reason: str) -> bool:
        self.refused[reason] += 1
        return False

    def _log(self, step: int, kind: EventKind, entry: Entry) -> None:
        self.events.append(Event(step, kind, entry.path, entry.score, entry.macs))


def _at_least(one: Entry, other: Entry) -> bool:
    """Say whether ``one`` is no worse than ``other`` in accuracy and in MACs."""
    return one.score >= other.score and one.macs <= other.macs


def _load(key: str, value: Any, device: str | torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return tuple(value) if key == "path" else value

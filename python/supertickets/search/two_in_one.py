"""Search and pruning during one training: the callback with the two clocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from supertickets.errors import InputError
from supertickets.evaluate import model_cost
from supertickets.search.atoms import Atoms, averaged_gammas, block_atoms, find_atoms, gammas
from supertickets.search.config import TwoInOneConfig
from supertickets.search.masks import (
    density,
    magnitude_prune_,
    mask_change,
    masked_convolutions_,
    set_free_,
)
from supertickets.search.penalty import GammaPenalty
from supertickets.search.schedule import is_prune, is_search, penalty_strength, sparsity_after
from supertickets.search.shrink import alive_atoms, first_atoms, shrink_
from supertickets.training import Callback, TrainState

_STEERED_UNTIL = 0.8  # of the training: the rest is for the weights
_LARGEST_STEER = 2.0


class TwoInOne(Callback):
    """Removes dead atoms and prunes weights on their two clocks, and keeps the record.

    After the last epoch both happen, the pruning last: the model that the training ends with is the
    ticket.

    Args:
        model: With masks on all prunable convolutions.
        config: The options.
        example: ``[1, C, H, W]``, on the model's device: what MACs are counted for.
        log: Takes one line per event.

    Attributes:
        penalty: To be added to the loss.
        events: One dict per search and pruning, in their order.
    """

    name = "two-in-one"

    def __init__(
        self,
        model: nn.Module,
        config: TwoInOneConfig,
        example: Tensor,
        *,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self._config = config
        self._example = example
        self._log = log or (lambda line: None)
        self.penalty = GammaPenalty(model, example)
        self.events: list[dict[str, Any]] = []
        self._first_atoms = sum(one.count for one in self.penalty.atoms)
        self._first_macs = model_cost(model, example).macs
        self._steer = 1.0
        self._pruned: dict[str, Tensor] = {}
        self._clock = self._stepped = 0.0

    def epoch_begin(self, state: TrainState) -> None:
        """Set the epoch's penalty."""
        self.penalty.rho = self._steer * penalty_strength(self._config, state.epoch)
        self._clock = self._stepped = time.perf_counter()

    def step_end(self, state: TrainState) -> None:
        """Note the time."""
        self._stepped = time.perf_counter()

    def epoch_end(self, state: TrainState) -> Mapping[str, float]:
        """Search, then prune, where their clocks say so."""
        config, epoch, epochs = self._config, state.epoch + 1, state.config.epochs
        step_ms = 1e3 * (self._stepped - self._clock) / state.steps_per_epoch
        trained_density = density(self._layers(state.model))
        if is_search(config, epoch, epochs):
            self._search(state, last=epoch == epochs)
        if is_prune(config, epoch, epochs):
            self._prune(state, last=epoch == epochs)
        cost = model_cost(state.model, self._example)
        return {
            "atoms": float(sum(one.count for one in self.penalty.atoms)),
            "macs": float(cost.macs),
            "effective_macs": float(cost.effective_macs),
            "density": density(self._layers(state.model)),
            "trained_density": trained_density,
            "rho": self.penalty.rho,
            "step_ms": step_ms,
        }

    def _layers(self, model: nn.Module) -> dict[str, Any]:
        return masked_convolutions_(model, self._config.keep_dense)

    def _search(self, state: TrainState, *, last: bool) -> None:
        """Remove dead atoms if there are enough, and let masked weights of the blocks return."""
        config, model, atoms = self._config, state.model, self.penalty.atoms
        averages = None if state.ema is None else state.ema.tensors
        averaged = averaged_gammas(atoms, model, averages)
        dead_macs = sum(
            cost * int((gamma <= config.dead_gamma).sum())
            for cost, gamma in zip(self.penalty.costs, averaged, strict=True)
        )
        fires = last or dead_macs >= max(config.min_dead_macs, 1)
        event: dict[str, Any] = {
            "epoch": state.epoch + 1,
            "kind": "search",
            "dead_macs": dead_macs,
            "fired": fires,
        }
        if fires:
            keep, rescued = alive_atoms(
                atoms,
                gammas(atoms),
                averaged,
                threshold=config.dead_gamma,
                last=last,
                floor=round(config.min_atoms * self._first_atoms),
            )
            event |= self._remove(state, atoms, keep)
            event["kept_by_floor"] = rescued
            if config.arm != "reuse":
                layers = self._layers(model)
                inside = [name for one in self.penalty.atoms for name in one.convolutions]
                event["set_free"] = set_free_(layers, inside)
        macs = model_cost(model, self._example).macs
        self._steer_towards_target(state, macs)
        self.events.append({**event, "macs": macs, "density": density(self._layers(model))})
        self._log(_search_line(self.events[-1]))

    def _remove(self, state: TrainState, atoms: list[Atoms], keep: list[Tensor]) -> dict[str, Any]:
        before = block_atoms(atoms)
        removed = sum(int((~mask).sum()) for mask in keep)
        if removed:
            self._pruned = shrink_(
                state.model,
                atoms,
                keep,
                optimizer=state.optimizer,
                ema=state.ema,
                followers=self._pruned,
            )
            state.reshaped = True
            self.penalty.refresh(state.model)
        after = block_atoms(self.penalty.atoms)
        return {"removed": removed, "vanished": sorted(before.keys() - after.keys())}

    def _prune(self, state: TrainState, *, last: bool) -> None:
        """Rank all weights together and mask the smallest."""
        layers = self._layers(state.model)
        sparsity = sparsity_after(self._config, state.epoch + 1)
        kept = magnitude_prune_(layers, sparsity)
        masks = {f"{name}.weight": layer.mask.clone() for name, layer in layers.items()}
        change = mask_change(self._pruned, masks) if self._pruned else {}
        self._pruned = masks
        empty = [name for name, layer in layers.items() if not bool(layer.mask.any())]
        event = {
            "epoch": state.epoch + 1,
            "kind": "prune",
            "sparsity": sparsity,
            "kept": kept,
            "density": density(layers),
            "empty_layers": empty,
            **change,
        }
        self.events.append(event)
        self._log(_prune_line(event))
        if self._config.arm == "reset" and not last:  # the last masks are the ticket's
            set_free_(layers, layers)

    def _steer_towards_target(self, state: TrainState, macs: int) -> None:
        """Raise or lower rho, so that MACs fall along a geometric line to the target."""
        config = self._config
        if config.target_macs is None:
            return
        if macs <= config.target_macs:
            self._steer = 0.0
            return
        epoch, end = state.epoch + 1, _STEERED_UNTIL * state.config.epochs
        way = (epoch - config.warmup_epochs) / max(end - config.warmup_epochs, 1.0)
        share = (config.target_macs / self._first_macs) ** min(max(way, 0.0), 1.0)
        factor = macs / (share * self._first_macs)
        self._steer *= min(max(factor * factor, 1 / _LARGEST_STEER), _LARGEST_STEER)

    def restore_shapes(self, state: TrainState, saved: dict[str, Any]) -> None:
        """Remove as many atoms of each operation as the saved model lacks.

        Raises:
            InputError: The checkpoint is of a search with other options.
        """
        mine = self._config.model_dump(mode="json")
        for key, value in mine.items():
            if saved["config"].get(key) != value:
                raise InputError(
                    f"two-in-one: the checkpoint is of a search with {key} = "
                    f"{saved['config'].get(key)}, here it is {value}; delete it to start anew, or "
                    "use another folder"
                )
        atoms = find_atoms(state.model)
        if {one.name: one.count for one in atoms} == saved["atoms"]:
            return
        keep = first_atoms(atoms, saved["atoms"])
        shrink_(state.model, atoms, keep, optimizer=state.optimizer, ema=state.ema, correct=False)
        state.reshaped = True
        self.penalty.refresh(state.model)

    def state_dict(self) -> dict[str, Any]:
        """Give the sizes, the record and the last masks."""
        return {
            "config": self._config.model_dump(mode="json"),
            "atoms": {one.name: one.count for one in self.penalty.atoms},
            "events": self.events,
            "steer": self._steer,
            "pruned": self._pruned,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them up."""
        self.events = state["events"]
        self._steer = state["steer"]
        device = self._example.device
        self._pruned = {name: mask.to(device) for name, mask in state["pruned"].items()}


def _search_line(event: Mapping[str, Any]) -> str:
    if not event["fired"]:
        return f"epoch {event['epoch']}: search, {event['dead_macs']:,} MACs dead, nothing removed"
    notes = f", {len(event['vanished'])} blocks vanished" if event["vanished"] else ""
    if event["kept_by_floor"]:
        notes += f"; the penalty is too strong: {event['kept_by_floor']} dead atoms kept as floor"
    return (
        f"epoch {event['epoch']}: search, {event['removed']} atoms removed{notes}; "
        f"{event['macs']:,} dense MACs left, density {event['density']:.3f}"
    )


def _prune_line(event: Mapping[str, Any]) -> str:
    line = f"epoch {event['epoch']}: prune to density {event['density']:.3f}"
    if "resurrected" in event:
        line += f", {event['resurrected']:.1%} of its weights resurrected"
    if event["empty_layers"]:
        line += f"; layers without a weight: {len(event['empty_layers'])}"
    return line


def ticket_density_bound(config: TwoInOneConfig, weights: int) -> float:
    """Give the largest density that a ticket of so many prunable weights may have."""
    return 1 - config.sparsity + 1 / max(weights, 1)

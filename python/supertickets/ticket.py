"""A ticket: a network with its weights and masks, in one folder that loads anywhere."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from supertickets import __version__
from supertickets.errors import TicketError
from supertickets.evaluate import ModelCost, model_cost
from supertickets.masks import mask_of
from supertickets.spaces import ModelConfig, build_model, example_input, load_state
from supertickets.spaces.weights import is_finite
from supertickets.ticket_card import model_card
from supertickets.ticket_files import (
    CARD_FILE,
    CONFIG_FILE,
    TENSOR_FILE,
    Architecture,
    TicketContent,
    check_architecture,
    read_ticket,
    write_ticket,
)

_FIGURES = (
    "density",
    "macs",
    "effective_macs",
    "uniform_macs",
    "parameters",
    "nonzeros",
    "dense_bytes",
)


@dataclass(eq=False)
class Ticket:
    """A network as data: nothing of it is code, and nothing of it is imported.

    Attributes:
        architecture: ``space``, ``name``, ``options``, ``num_classes``, ``channels`` and
            ``image_size`` (height, width), from which the network is built again.
        tensors: The plain state dict of the dense network; pruned weights are zero.
        masks: Weight key -> bool mask, True where the weight is kept.
        task: What the network does, a word of :data:`supertickets.tasks.TASKS`.
        class_names: Names of its outputs; may be empty.
        metrics: Scores, and beside them density, exact MACs and sizes (see :attr:`figures`).
        provenance: Where it came from: seed, recipe, versions, data.
    """

    architecture: dict[str, Any]
    tensors: dict[str, Tensor]
    masks: dict[str, Tensor]
    task: str = "classification"
    class_names: tuple[str, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        architecture: Mapping[str, Any],
        *,
        task: str = "classification",
        class_names: tuple[str, ...] = (),
        metrics: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Ticket:
        """Take a model's tensors, and the masks of its masked layers.

        Args:
            model: Dense, or with ``MaskedConv2d`` and ``MaskedLinear``; left as it is.
            architecture: See :class:`Ticket`.
            task: What the network does.
            class_names: Names of its outputs.
            metrics: Scores to carry; density, MACs and sizes are counted here and added.
            provenance: Where it came from; the package version is added.

        Returns:
            The ticket; its tensors are copies on the CPU.

        Raises:
            TicketError: The architecture is incomplete or its input does not fit the model, the
                task is unknown, or a tensor holds NaN or infinity.
        """
        checked = check_architecture(architecture)
        tensors, masks = _split_state(model)
        cost = _cost(model, checked)
        counted = {name: getattr(cost, name) for name in _FIGURES}
        return cls(
            architecture=checked.model_dump(mode="json"),
            tensors=tensors,
            masks=masks,
            task=task,
            class_names=tuple(class_names),
            metrics={**(metrics or {}), **counted},
            provenance={"supertickets": __version__, **(provenance or {})},
        )

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        token: str | bool | None = None,
    ) -> Ticket:
        """Load a ticket from a folder, or from the Hugging Face hub.

        No pickle is read, nothing is imported, and everything is checked before it is used.

        Args:
            folder: A local folder (no network is used), or else, as a string, a hub id
                ``"owner/name"``.
            revision: Branch, tag or commit on the hub.
            cache_dir: The hub's cache folder.
            local_files_only: Take the hub's files from the cache only.
            force_download: Fetch the hub's files again.
            token: Access token of the hub; by default the stored one.

        Returns:
            The ticket.

        Raises:
            TicketError: Something is missing, damaged, or of another version; the message says
                what.
        """
        path = Path(folder)
        if not path.is_dir():
            if not isinstance(folder, str) or folder.count("/") != 1:
                raise TicketError(f"ticket {folder}: no such folder")
            path = _download(
                folder,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                force_download=force_download,
                token=token,
            )
        content = read_ticket(path)
        return cls(**vars(content))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the folder in one step: an old ticket there is replaced only by a complete one.

        Args:
            folder: New or empty, or a ticket to replace; a folder with other files is refused.

        Raises:
            TicketError: The ticket is inconsistent, or the folder holds something else.
            RunError: The disk is full or not writable; nothing has changed.
        """
        content = TicketContent(**{name: getattr(self, name) for name in self.__dataclass_fields__})
        write_ticket(Path(folder), content, card=model_card(self))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        branch: str | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload ticket",
    ) -> str:
        """Upload the folder to the Hugging Face hub in one commit.

        Args:
            repo_id: ``"owner/name"``; created if missing.
            private: Whether a new repository is private.
            branch: Branch to commit to.
            token: Access token; by default the stored one.
            commit_message: First line of the commit.

        Returns:
            Address of the commit.
        """
        import tempfile

        from huggingface_hub import HfApi

        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "ticket"
            self.save_pretrained(folder)
            api = HfApi(token=token)
            repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            commit = api.upload_folder(
                repo_id=repo, folder_path=folder, revision=branch, commit_message=commit_message
            )
        return str(commit.commit_url)

    def to_dense(self, model: nn.Module | None = None) -> nn.Module:
        """Build the plain network: torch modules, ordinary keys, pruned weights zero.

        Args:
            model: A network to take the structure from (copied). Needed if the architecture is a
                user's own, because a ticket never causes an import.

        Returns:
            The network in evaluation mode, on the CPU.

        Raises:
            TicketError: ``model`` is needed and missing, or the tensors do not fit.
        """
        tensors = {key: tensor.clone() for key, tensor in self.tensors.items()}
        what = f"the ticket of {self.architecture.get('name')!r}"
        dense = self._empty_model() if model is None else copy.deepcopy(model)
        load_state(dense, tensors, what=what, assign=True, error=TicketError)
        return dense.eval()

    def to_masked(self, model: nn.Module | None = None) -> nn.Module:
        """Build the network with the compiled masked layers, which keep pruned weights pruned.

        Args:
            model: As for :meth:`to_dense`.

        Returns:
            The network in evaluation mode, on the CPU, with a masked layer per mask.

        Raises:
            TicketError: As for :meth:`to_dense`.
        """
        from supertickets.masked_modules import put_masks_

        masks = {key: mask.clone() for key, mask in self.masks.items()}
        return put_masks_(self.to_dense(model), masks).eval()

    @property
    def density(self) -> float:
        """Share of kept weights among the weights of Conv2d and Linear."""
        return float(self.metrics["density"])

    @property
    def figures(self) -> dict[str, float]:
        """Density, exact MACs, parameters and sizes, as counted when the ticket was made."""
        return {name: self.metrics[name] for name in _FIGURES if name in self.metrics}

    @property
    def bytes(self) -> int:
        """Bytes of the tensors as stored: kept values, one bit per masked weight, and the rest."""
        total = 0
        for key, tensor in self.tensors.items():
            if key in self.masks:
                kept = int(self.masks[key].sum())
                total += kept * tensor.element_size() + (tensor.numel() + 7) // 8
            else:
                total += tensor.numel() * tensor.element_size()
        return total

    def _empty_model(self) -> nn.Module:
        """Build the architecture without memory: the shapes are compared before any is used."""
        checked = check_architecture(self.architecture)
        if checked.space == "import":
            raise TicketError(
                f"this ticket holds the tensors of the user's own network {checked.name!r}, and "
                "nothing is imported because a ticket says so: build that network and pass it as "
                "model=..."
            )
        try:
            config = ModelConfig.model_validate(
                {"space": checked.space, "name": checked.name, "options": checked.options}
            )
            with torch.device("meta"):
                return build_model(
                    config, num_classes=checked.num_classes, channels=checked.channels, seed=0
                )
        except ValueError as error:
            raise TicketError(f"the ticket's architecture cannot be built: {error}") from error


def _split_state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a state dict into plain tensors, pruned weights zero, and masks by weight key."""
    masks: dict[str, Tensor] = {}
    extra: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        mask = mask_of(module)
        if mask is not None:
            prefix = f"{name}." if name else ""
            masks[f"{prefix}weight"] = mask.detach().cpu().clone()
            extra |= {f"{prefix}mask", f"{prefix}scores"}
    tensors: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        if key in extra:
            continue
        if not isinstance(value, Tensor):
            raise TicketError(f"{key} of the model is a {type(value).__name__}, not a tensor")
        tensor = value.detach().cpu().contiguous().clone()
        if key in masks:
            # torch.where, not a product: that would leave -0 and NaN in pruned places
            tensor = torch.where(masks[key], tensor, torch.zeros((), dtype=tensor.dtype))
        if not is_finite(tensor):
            raise TicketError(f"{key} of the model holds NaN or infinity; nothing to save")
        tensors[key] = tensor
    return tensors, masks


def _cost(model: nn.Module, architecture: Architecture) -> ModelCost:
    example = example_input(architecture.channels, architecture.image_size)
    first = next((p for p in model.parameters() if p.is_floating_point()), example)
    try:
        return model_cost(model, example.to(first.device, first.dtype))
    except RuntimeError as error:
        raise TicketError(
            f"architecture: the model fails on an input {list(example.shape)}, "
            f"which channels and image_size say: {error}"
        ) from error


def _download(name: str, **options: Any) -> Path:
    """Fetch a ticket's files from the hub, or from its cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(name, allow_patterns=[CONFIG_FILE, TENSOR_FILE, CARD_FILE], **options)
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise TicketError(
            f"ticket {name}: no such folder, and the hub did not give it: {error}"
        ) from error

"""The files of a ticket folder: what is written, and all that is checked on reading.

``config.json`` describes. ``model.safetensors`` holds, for a masked weight ``k``, ``values.k`` (the
kept values in flat order) and ``mask.k`` (bits, lowest first), and ``tensor.k`` for the rest.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from supertickets.errors import RunError, TicketError, did_you_mean
from supertickets.files import atomic_folder
from supertickets.masks import pack_mask, unpack_mask
from supertickets.spaces.weights import is_finite
from supertickets.tasks import TASKS

SCHEMA_VERSION = 1
CONFIG_FILE = "config.json"
TENSOR_FILE = "model.safetensors"
CARD_FILE = "README.md"

_Size = Annotated[int, Field(ge=1, le=2**24, strict=True)]
_Dimension = Annotated[int, Field(ge=0, le=2**31, strict=True)]
_Count = Annotated[int, Field(ge=0, strict=True)]


@dataclass
class TicketContent:
    """What the folder holds, decoded; see :class:`supertickets.ticket.Ticket`."""

    architecture: dict[str, Any]
    tensors: dict[str, Tensor]
    masks: dict[str, Tensor]
    task: str
    class_names: tuple[str, ...]
    metrics: dict[str, Any]
    provenance: dict[str, Any]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Architecture(_Strict):
    """What a network is built from again."""

    space: str
    name: str
    options: dict[str, Any] = {}
    num_classes: _Size | None
    channels: _Size
    image_size: tuple[_Size, _Size]


class _MaskLayout(_Strict):
    key: str
    shape: tuple[_Dimension, ...]
    kept: _Count
    layout: Literal["unstructured"] = "unstructured"


class _TensorFile(_Strict):
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: _Count


class _Config(_Strict):
    schema_version: Literal[1]
    architecture: Architecture
    task: str
    class_names: tuple[str, ...]
    masks: tuple[_MaskLayout, ...]
    metrics: dict[str, Any]
    provenance: dict[str, Any]
    tensor_file: _TensorFile

    @field_validator("task")
    @classmethod
    def _known_task(cls, task: str) -> str:
        if task not in TASKS:
            raise ValueError(f"no such task{did_you_mean(task, TASKS)}")
        return task

    @field_validator("metrics")
    @classmethod
    def _carry_their_cost(cls, metrics: dict[str, Any]) -> dict[str, Any]:
        density, macs = metrics.get("density"), metrics.get("macs")
        if not isinstance(density, (int, float)) or not 0 <= density <= 1:
            raise ValueError("no score goes without its density, a number in [0, 1]")
        if type(macs) is not int or macs < 0:
            raise ValueError("no score goes without its macs, a whole number")
        return metrics


def check_architecture(architecture: Mapping[str, Any]) -> Architecture:
    """Check an architecture's keys and sizes.

    Raises:
        TicketError: A key is missing, unknown or of the wrong kind.
    """
    try:
        return Architecture.model_validate(dict(architecture))
    except ValidationError as error:
        raise TicketError(f"architecture: {_first_complaint(error)}") from error


def write_ticket(folder: Path, content: TicketContent, *, card: str) -> None:
    """Write a ticket folder in one step.

    Args:
        folder: New or empty, or a ticket to replace.
        content: What to write.
        card: Text of the model card.

    Raises:
        TicketError: The content is inconsistent, or the folder holds something else.
        RunError: The folder cannot be written; nothing has changed.
    """
    folder = folder.resolve()
    check_replaceable(folder)
    packed = save_tensors(_pack(content), metadata={"format": "pt"})
    text = _config_text(content, packed)
    try:
        with atomic_folder(folder) as aside:
            (aside / TENSOR_FILE).write_bytes(packed)
            (aside / CONFIG_FILE).write_text(text, encoding="utf-8")
            (aside / CARD_FILE).write_text(card, encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"ticket {folder}: cannot be written ({error.strerror}); what was there is unchanged"
        ) from error


def read_ticket(folder: Path) -> TicketContent:
    """Read and check a ticket folder.

    Args:
        folder: A local folder.

    Returns:
        Its content, every tensor and mask whole.

    Raises:
        TicketError: Anything is missing, damaged, inconsistent or of another version.
    """
    where = f"ticket {folder}"
    config = _read_config(folder / CONFIG_FILE, where)
    stored = _read_tensors(folder / TENSOR_FILE, config.tensor_file, where)
    tensors: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for layout in config.masks:
        if layout.key in masks:
            raise TicketError(f"{where}: {CONFIG_FILE} lists the mask of {layout.key!r} twice")
        values = stored.pop(f"values.{layout.key}", None)
        bits = stored.pop(f"mask.{layout.key}", None)
        if values is None or bits is None:
            raise TicketError(f"{where}: {TENSOR_FILE} lacks the mask or values of {layout.key!r}")
        tensors[layout.key], masks[layout.key] = _unpack(layout, values, bits, where)
    for name, tensor in stored.items():
        kind, _, key = name.partition(".")
        if kind != "tensor" or not key or key in tensors:
            raise TicketError(f"{where}: {TENSOR_FILE} has an unexpected entry {name!r}")
        tensors[key] = tensor
    for key, tensor in tensors.items():
        if not is_finite(tensor):
            raise TicketError(f"{where}: {key} holds NaN or infinity")
    return TicketContent(
        architecture=config.architecture.model_dump(mode="json"),
        tensors=tensors,
        masks=masks,
        task=config.task,
        class_names=config.class_names,
        metrics=config.metrics,
        provenance=config.provenance,
    )


def _config_text(content: TicketContent, packed: bytes) -> str:
    described = {
        "schema_version": SCHEMA_VERSION,
        "architecture": content.architecture,
        "task": content.task,
        "class_names": content.class_names,
        "masks": [
            {"key": key, "shape": list(mask.shape), "kept": int(mask.sum())}
            for key, mask in content.masks.items()
        ],
        "metrics": content.metrics,
        "provenance": content.provenance,
        "tensor_file": {"sha256": hashlib.sha256(packed).hexdigest(), "bytes": len(packed)},
    }
    try:
        config = _Config.model_validate(described)
        return json.dumps(config.model_dump(), indent=2, allow_nan=False) + "\n"
    except ValidationError as error:
        raise TicketError(f"ticket: {_first_complaint(error)}") from error
    except (TypeError, ValueError) as error:
        raise TicketError(f"metrics and provenance must be finite, plain JSON: {error}") from error


def _pack(content: TicketContent) -> dict[str, Tensor]:
    """Spell tensors and masks as they are stored; refuse what could not be read back the same."""
    packed: dict[str, Tensor] = {}
    for key, mask in content.masks.items():
        tensor = content.tensors.get(key)
        if tensor is None or mask.dtype != torch.bool or mask.shape != tensor.shape:
            given = f"{mask.dtype} {list(mask.shape)}"
            expected = "no tensor" if tensor is None else f"a tensor {list(tensor.shape)}"
            raise TicketError(
                f"mask {key!r} must be bool of its tensor's shape: {given}, {expected}"
            )
        if bool(torch.count_nonzero(tensor[~mask])):
            raise TicketError(f"{key}: a pruned weight is not zero")
    for key, tensor in content.tensors.items():
        if not is_finite(tensor):
            raise TicketError(f"{key} holds NaN or infinity; nothing was written")
        if key in content.masks:
            mask = content.masks[key]
            packed[f"values.{key}"] = tensor.detach()[mask].cpu()
            packed[f"mask.{key}"] = pack_mask(mask)
        else:
            # a copy, because the file format refuses tensors that share memory
            packed[f"tensor.{key}"] = tensor.detach().cpu().contiguous().clone()
    return packed


def _unpack(layout: _MaskLayout, values: Tensor, bits: Tensor, where: str) -> tuple[Tensor, Tensor]:
    """Rebuild a weight and its mask; sizes are compared with the file before memory is taken."""
    numel = math.prod(layout.shape)
    named = f"{where}: mask of {layout.key!r}"
    if bits.dtype != torch.uint8 or bits.dim() != 1 or len(bits) != (numel + 7) // 8:
        raise TicketError(
            f"{named} is declared {list(layout.shape)}, which needs {(numel + 7) // 8} bytes; "
            f"the file has {bits.dtype} {list(bits.shape)}"
        )
    if values.dim() != 1 or len(values) != layout.kept or not values.is_floating_point():
        raise TicketError(
            f"{named} is declared to keep {layout.kept} weights; "
            f"the file has values {values.dtype} {list(values.shape)}"
        )
    try:
        mask = unpack_mask(bits, layout.shape)
        weight = torch.zeros(layout.shape, dtype=values.dtype)
    except RuntimeError as error:  # sizes that overflow beside a zero
        raise TicketError(f"{named}: no tensor can be {list(layout.shape)}") from error
    if not torch.equal(pack_mask(mask), bits):
        raise TicketError(f"{named} has bits set beyond its {numel} weights")
    kept = int(mask.sum())
    if kept != layout.kept:
        raise TicketError(f"{named} is declared to keep {layout.kept} weights, but has {kept} ones")
    weight[mask] = values
    return weight, mask


def _read_config(path: Path, where: str) -> _Config:
    raw = _json_object(_read_bytes(path, where), where)
    version = raw.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise TicketError(
            f"{where}: {CONFIG_FILE} has schema_version {version!r}, this version of supertickets "
            f"reads {SCHEMA_VERSION}" + _upgrade_hint(version)
        )
    try:
        return _Config.model_validate(raw)
    except ValidationError as error:
        raise TicketError(f"{where}: {CONFIG_FILE}: {_first_complaint(error)}") from error


def _json_object(data: bytes, where: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    try:
        raw = json.loads(data.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise TicketError(f"{where}: {CONFIG_FILE} is damaged, not valid JSON ({error})") from error
    if not isinstance(raw, dict):
        raise TicketError(f"{where}: {CONFIG_FILE} holds a {type(raw).__name__}, not an object")
    return raw


def _read_tensors(path: Path, declared: _TensorFile, where: str) -> dict[str, Tensor]:
    data = _read_bytes(path, where)
    if len(data) != declared.bytes:
        raise TicketError(
            f"{where}: {TENSOR_FILE} has {len(data)} bytes, expected {declared.bytes}: it is "
            "truncated or belongs to another ticket"
        )
    if hashlib.sha256(data).hexdigest() != declared.sha256:
        raise TicketError(
            f"{where}: the SHA-256 of {TENSOR_FILE} is not the one in {CONFIG_FILE}: it is damaged "
            "or belongs to another ticket"
        )
    try:
        return load_tensors(data)
    except (SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise TicketError(f"{where}: {TENSOR_FILE} is not a safetensors file ({error})") from error


def _read_bytes(path: Path, where: str) -> bytes:
    if not path.is_file():
        raise TicketError(f"{where}: {path.name} is missing")
    try:
        return path.read_bytes()
    except OSError as error:
        raise TicketError(f"{where}: {path.name} cannot be read ({error.strerror})") from error


def check_replaceable(folder: Path) -> None:
    """Refuse a folder that holds more than a ticket: writing one replaces the whole folder.

    Args:
        folder: Where a ticket is to be written; it may not be there yet.

    Raises:
        TicketError: It is a file, or holds other things.
    """
    if folder.exists() and not folder.is_dir():
        raise TicketError(f"ticket {folder}: expected a folder, found a file")
    if folder.is_dir():
        own = {CONFIG_FILE, TENSOR_FILE, CARD_FILE}
        others = sorted(entry.name for entry in folder.iterdir() if entry.name not in own)
        if others:
            raise TicketError(
                f"ticket {folder}: the folder holds other things ({', '.join(others[:5])}); "
                "give a new folder, or one that holds a ticket"
            )


def _first_complaint(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {str(first['input'])[:80]!r}"


def _upgrade_hint(version: Any) -> str:
    newer = isinstance(version, int) and version > SCHEMA_VERSION
    return "; upgrade supertickets to read it" if newer else ""

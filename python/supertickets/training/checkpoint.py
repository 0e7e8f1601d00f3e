"""The file a killed training goes on from: plain data, written atomically, refused when foreign."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supertickets.errors import InputError, RunError
from supertickets.files import atomic_file

CHECKPOINT_NAME = "last.pt"
_FORMAT = "supertickets-training-1"
_SHOWN_DIFFERENCES = 3


def snapshot(value: Any, where: str = "state") -> Any:
    """Copy nested plain data, with every tensor detached and on the CPU.

    Args:
        value: Dicts, lists and tuples of tensors, numbers, strings and None.
        where: What the data is, for the error message.

    Returns:
        The copy; it shares nothing with ``value``.

    Raises:
        InputError: Something else is in it; a checkpoint could not be loaded safely with it.
    """
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: snapshot(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        copies = [snapshot(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return tuple(copies) if isinstance(value, tuple) else copies
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise InputError(
        f"checkpoint: {where} must hold tensors, plain numbers, strings, lists and dicts, "
        f"got {type(value).__module__}.{type(value).__qualname__}"
    )


def digest(value: Any) -> str:
    """Give the SHA-256 of nested plain data: every key, type, shape and byte counts."""
    sha = hashlib.sha256()
    _feed(sha, value)
    return sha.hexdigest()


def model_layout(tensors: Mapping[str, Any]) -> dict[str, str]:
    """Describe a state dict by the dtype and shape of each tensor, such as ``float32[8, 3]``."""
    return {
        name: f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        for name, value in tensors.items()
        if isinstance(value, Tensor)
    }


def write_checkpoint(folder: Path, identity: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Write ``folder/last.pt`` in one step.

    Args:
        folder: Created if missing.
        identity: Plain data that says which training this is (config, seed, model layout, ...).
        content: The state, as :func:`snapshot` takes it.

    Raises:
        InputError: Something in it is not plain data.
        RunError: The file cannot be written; the one before is kept.
    """
    path = folder / CHECKPOINT_NAME
    body = {"identity": snapshot(identity, "identity"), "content": snapshot(content, "content")}
    try:
        with atomic_file(path) as aside:
            torch.save({"format": _FORMAT, "sha256": digest(body), **body}, aside)
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError to torch.save
        raise RunError(
            f"checkpoint {path} cannot be written ({error}); is the disk full?"
        ) from error


def read_checkpoint(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read ``folder/last.pt`` if it is there; no pickled code is ever run.

    Args:
        folder: Where :func:`write_checkpoint` wrote.
        identity: What the training at hand is.

    Returns:
        The content, or None when there is no checkpoint yet.

    Raises:
        InputError: The file is damaged, or belongs to another training.
    """
    path = folder / CHECKPOINT_NAME
    for stale in folder.glob(f".{CHECKPOINT_NAME}.*.part"):
        stale.unlink(missing_ok=True)  # left by a run that was killed while writing
    if not path.exists():
        return None
    saved = _load(path)
    found = _flat(saved["identity"])
    wanted = _flat(snapshot(identity, "identity"))
    if found != wanted:
        raise InputError(
            f"checkpoint {path} belongs to another training: "
            f"{_differences(found, wanted)}. Delete it to start anew, or use another folder"
        )
    return saved["content"]


def _load(path: Path) -> dict[str, Any]:
    remedy = "Delete it to start anew"
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load fails with whatever its parsers stumble over
        raise InputError(
            f"checkpoint {path} is damaged or no checkpoint at all. {remedy}"
        ) from error
    if not isinstance(saved, dict) or saved.get("format") != _FORMAT:
        raise InputError(f"checkpoint {path} is not of the format {_FORMAT!r}. {remedy}")
    body = {"identity": saved.get("identity"), "content": saved.get("content")}
    if digest(body) != saved.get("sha256"):
        raise InputError(f"checkpoint {path} is damaged: its SHA-256 does not match. {remedy}")
    return body


def _feed(sha: Any, value: Any) -> None:
    """Feed an unambiguous byte form of ``value``."""
    if isinstance(value, Tensor):
        sha.update(f"tensor {value.dtype} {list(value.shape)} ".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        sha.update(flat.view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        sha.update(f"dict {len(value)} ".encode())
        for key, item in value.items():
            sha.update(f"{key!r}: ".encode())
            _feed(sha, item)
    elif isinstance(value, (list, tuple)):
        sha.update(f"list {len(value)} ".encode())
        for item in value:
            _feed(sha, item)
    else:
        sha.update(f"{type(value).__name__} {value!r} ".encode())


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Turn nested dicts into one with dotted names; lists stay whole."""
    if not isinstance(value, Mapping):
        return {name: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(_flat(item, f"{name}.{key}" if name else str(key)))
    return flat


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    names = [name for name in _union(found, wanted) if found.get(name) != wanted.get(name)]
    shown = [
        f"{name} is {_brief(found.get(name))} there and {_brief(wanted.get(name))} here"
        for name in names[:_SHOWN_DIFFERENCES]
    ]
    more = len(names) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _union(first: Iterable[str], second: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*first, *second]))


def _brief(value: Any) -> str:
    text = "absent" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

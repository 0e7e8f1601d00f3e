"""State dicts from files, with words for everything that does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from supertickets.errors import InputError

_SHOWN = 5
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fill ``model`` from a state-dict file.

    A dict under ``"state_dict"``, ``"model_state_dict"`` or ``"model"`` is unwrapped, and so is the
    ``"module."`` that ``DistributedDataParallel`` puts before every key.

    Args:
        model: Filled in place; unchanged if anything is wrong.
        path: ``*.safetensors``, or a file that ``torch.load(weights_only=True)`` reads.

    Raises:
        InputError: The file is missing, damaged or a pickle of more than tensors; a key is missing
            or unexpected, a shape differs, or a value is not finite.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"weights {file}: no such file")
    load_state(model, _unwrap(_read(file), file), what=f"weights {file}")


def load_state(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    what: str,
    assign: bool = False,
    error: type[InputError] = InputError,
) -> None:
    """Load a state dict strictly; all that does not fit is said in one message.

    Args:
        model: Filled in place; unchanged if anything is wrong.
        tensors: The state dict. ``num_batches_tracked`` may be absent: old files lack it.
        what: Names the source in the message.
        assign: Put the tensors themselves in place, with their dtype and device, not their values.
        error: Class to raise.

    Raises:
        InputError: A key is missing or unexpected, a shape or a kind of dtype differs, or a value
            is not finite.
    """
    expected = model.state_dict()
    missing = [
        key for key in expected if key not in tensors and not key.endswith("num_batches_tracked")
    ]
    unexpected = [key for key in tensors if key not in expected]
    both = [key for key in expected if key in tensors]
    mismatched = [
        f"{key} is {list(tensors[key].shape)}, expected {list(expected[key].shape)}"
        for key in both
        if tensors[key].shape != expected[key].shape
    ]
    of_other_kind = [
        f"{key} is {tensors[key].dtype}, expected {expected[key].dtype}"
        for key in both
        if tensors[key].is_floating_point() != expected[key].is_floating_point()
    ]
    not_finite = [key for key in both if not is_finite(tensors[key])]
    complaints = {
        "missing": missing,
        "unexpected": unexpected,
        "of another shape": mismatched,
        "of another kind": of_other_kind,
        "holding NaN or infinity": not_finite,
    }
    found = [f"{len(keys)} {kind} ({_few(keys)})" for kind, keys in complaints.items() if keys]
    if found:
        raise error(f"{what} does not fit the model: tensors {'; '.join(found)}")
    model.load_state_dict(dict(tensors), assign=assign)


def is_finite(tensor: Tensor) -> bool:
    """Say whether no value is NaN or infinite."""
    if not tensor.is_floating_point():
        return True
    wide = tensor.float() if tensor.element_size() == 1 else tensor  # float8 knows no isfinite
    return bool(torch.isfinite(wide).all())


def _read(file: Path) -> Any:
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise InputError(f"weights {file}: damaged safetensors file ({error})") from error
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise InputError(
            f"weights {file}: damaged, or not a plain state dict of tensors. A pickle that holds "
            "more could run code, so it is refused; save model.state_dict() instead"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        what = str(error) or "it ends too early"  # an EOFError says nothing
        raise InputError(f"weights {file}: damaged file ({what})") from error


def _unwrap(loaded: Any, file: Path) -> dict[str, Tensor]:
    if isinstance(loaded, Mapping):
        inner = [loaded[name] for name in _WRAPPERS if isinstance(loaded.get(name), Mapping)]
        if len(inner) == 1:
            loaded = inner[0]
    if not isinstance(loaded, Mapping):
        raise InputError(
            f"weights {file}: expected a dict of tensors, found type {type(loaded).__name__}"
        )
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(
                f"weights {file}: expected a dict of tensors, "
                f"{key!r} is of type {type(value).__name__}"
            )
    prefix = "module."
    if loaded and all(key.startswith(prefix) for key in loaded):
        return {key.removeprefix(prefix): value for key, value in loaded.items()}
    return dict(loaded)


def _few(keys: list[str]) -> str:
    more = f", and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more

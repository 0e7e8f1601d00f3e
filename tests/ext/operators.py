"""Which raw operators the library registers, and sample arguments for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

NAMESPACE = "supertickets"


def registered_operators() -> dict[str, Callable[..., Any]]:
    """Every operator under ``torch.ops.supertickets``, by its name."""
    prefix = f"{NAMESPACE}::"
    names = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith(prefix)}
    namespace = getattr(torch.ops, NAMESPACE)
    operators = {}
    for qualified in sorted(names):
        name, _, overload = qualified.removeprefix(prefix).partition(".")
        operators[qualified.removeprefix(prefix)] = getattr(
            getattr(namespace, name), overload or "default"
        )
    return operators

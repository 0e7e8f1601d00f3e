"""A user's own network, by import path."""

from __future__ import annotations

import copy
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from supertickets.errors import ConfigError, did_you_mean

_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def check_import_path(path: str) -> None:
    """Refuse anything but ``package.module:factory``; nothing is imported here.

    Raises:
        ConfigError: ``path`` has another form.
    """
    if not _IMPORT_PATH.fullmatch(path):
        raise ConfigError(
            "model.name: expected an import path 'package.module:factory' because space is "
            f"'import', got {path!r}"
        )


def import_factory(path: str) -> Any:
    """Import what a path names; the working folder is searched last.

    Args:
        path: ``"package.module:factory"``.

    Returns:
        The object.

    Raises:
        ConfigError: The module cannot be imported, or lacks the attribute.
    """
    check_import_path(path)
    module_name, _, attributes = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # importing runs a user's code, which may raise anything
        raise ConfigError(f"cannot import {module_name!r} of {path!r}: {error!r}") from error
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            known = [name for name in vars(found) if not name.startswith("_")]
            raise ConfigError(f"{path!r} has no {attribute!r}{did_you_mean(attribute, known)}")
        found = getattr(found, attribute)
    return found


def call_factory(
    factory: Any,
    path: str,
    options: Mapping[str, Any],
    *,
    num_classes: int | None,
    channels: int | None,
) -> nn.Module:
    """Build a network from what :func:`import_factory` gave.

    Args:
        factory: A class, a function, or a module instance (copied).
        path: Its import path, for messages.
        options: Keyword arguments.
        num_classes: Passed on if the factory has a parameter of that name that no option sets.
        channels: The same.

    Returns:
        The network.

    Raises:
        ConfigError: The call fails, or the result is no ``nn.Module``.
    """
    if isinstance(factory, nn.Module):
        if options:
            raise ConfigError(f"{path} is a network already, so it takes no options")
        return copy.deepcopy(factory)
    if not callable(factory):
        raise ConfigError(f"{path} is of type {type(factory).__name__}, expected a callable")
    arguments = dict(options)
    for name, value in {"num_classes": num_classes, "channels": channels}.items():
        if value is not None and name not in arguments and name in _parameters(factory):
            arguments[name] = value
    try:
        model = factory(**arguments)
    except Exception as error:  # a user's code may raise anything; the path names whose it is
        raise ConfigError(f"{path}({_spell(arguments)}) failed: {error!r}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"{path} gave an object of type {type(model).__name__}, expected a torch.nn.Module"
        )
    return model


def _parameters(factory: Callable[..., Any]) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(factory).parameters)
    except ValueError:  # a compiled callable may have no signature
        return frozenset()


def _spell(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())

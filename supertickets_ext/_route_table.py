"""Measured times of routes: kept in the process, and in a file for later runs on this machine."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from supertickets_ext._library import LIBRARY as LIBRARY

CACHE_VARIABLE = "SUPERTICKETS_ROUTE_CACHE"
_SCHEMA = 2  # 1: packed anew at every call; lower quartiles

Times = dict[str, float]
"""Microseconds of one call by route."""


class RouteTable:
    """Times by key; the file is read at the first miss and merged at every measurement."""

    def __init__(self) -> None:
        self._times: dict[str, Times] = {}
        self._read: Path | None = None
        self._warned = False

    def get(self, key: str) -> Times | None:
        """Look a key up, in the process and then in the file."""
        path = cache_file()
        if path is not None and path != self._read:
            self._read = path
            self._times = {**_load(path).get(machine_key(), {}), **self._times}
        return self._times.get(key)

    def add(self, key: str, times: Times) -> Times:
        """Keep a measurement, unless another process kept one of the same key before.

        Returns:
            The times that are kept: those of whoever was first.
        """
        path = cache_file()
        if path is not None:
            try:
                times = _merge(path, key, times)
            except OSError as error:
                self._warn(path, error)
        self._times[key] = times
        return times

    def clear(self) -> None:
        """Forget everything, in the process and, of this machine, in the file."""
        self._times = {}
        self._read = None
        path = cache_file()
        if path is not None and path.exists():
            with _locked(path):
                machines = _load(path)
                machines.pop(machine_key(), None)
                _store(path, machines)

    def _warn(self, path: Path, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"routes are kept in memory only, {path} cannot be written ({error}); set "
                f"{CACHE_VARIABLE} to another file, or to nothing",
                stacklevel=2,
            )


def cache_file() -> Path | None:
    """The file of measured times; None if the environment says to keep none."""
    named = os.environ.get(CACHE_VARIABLE)
    if named is not None:
        return Path(named) if named else None
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # this user has no home
        return None
    return home / "supertickets" / "routes.json"


@functools.cache
def machine_key() -> str:
    """What every time depends on: processor, instruction set and versions."""
    from supertickets_ext import _C

    facts = _C.facts()
    parts = (_processor(), facts["instruction_set"], facts["version"], torch.__version__)
    return " | ".join(parts)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _load(path: Path) -> dict[str, dict[str, Times]]:
    """Machines of the file; a file that is missing, damaged or of another schema is empty."""
    try:
        document = json.loads(path.read_text())
        if document["schema"] != _SCHEMA:
            return {}
        return {
            machine: {key: {k: float(v) for k, v in times.items()} for key, times in table.items()}
            for machine, table in document["machines"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _merge(path: Path, key: str, times: Times) -> Times:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        machines = _load(path)
        table = machines.setdefault(machine_key(), {})
        if key not in table:
            table[key] = {name: round(value, 2) for name, value in times.items()}
            _store(path, machines)
        return table[key]


def _store(path: Path, machines: dict[str, dict[str, Times]]) -> None:
    """Write aside, then rename: a reader sees the old file or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump({"schema": _SCHEMA, "machines": machines}, file, indent=1)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from merging at the same time, where the system has file locks."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.with_name(path.name + ".lock").open("w") as file:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""Facts of the machine and of the installed packages, as they are written beside every figure."""

from __future__ import annotations

import os
import platform
import resource
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import supertickets
from supertickets.errors import InputError

_VERSIONED = ("numpy", "torch", "onnx", "onnxruntime", "scikit-learn")


def versions() -> dict[str, str]:
    """Give the versions of Python, this package and what decides its results."""
    found = {"python": platform.python_version(), "supertickets": supertickets.__version__}
    for name in _VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found["torch"] = torch.__version__  # with the build tag that the metadata may lack
    return found


def extension_facts() -> dict[str, Any]:
    """Give what the compiled extension says of itself.

    Returns:
        The build, instruction sets, threads and CUDA targets.

    Raises:
        ImportError: The extension is missing or does not fit; the message gives the remedy.
    """
    from supertickets_ext import _C

    return _C.facts()


def machine() -> dict[str, Any]:
    """Name the machine: processor, cores, threads in use, instruction set of the kernels."""
    facts = extension_facts()
    found: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "instruction_set": facts["instruction_set"],
        "system": f"{platform.system()} {platform.machine()}",
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def check_device(device: str) -> None:
    """Refuse a device that this machine or this build of torch does not have.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:<index>``.

    Raises:
        InputError: There is no such device.
    """
    if not device.startswith("cuda"):
        return
    if not torch.cuda.is_available():
        raise InputError(f"device: torch {torch.__version__} finds no CUDA device; use cpu")
    index = torch.device(device).index
    if index is not None and index >= torch.cuda.device_count():
        raise InputError(
            f"device: expected an index below {torch.cuda.device_count()}, got {device}"
        )


def usable_cores() -> int:
    """Count the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def reset_peak_memory() -> None:
    """Start a new measurement of the peak; only Linux can, elsewhere the peak is the process's."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory_bytes() -> int:
    """Give the largest resident memory since :func:`reset_peak_memory`, in bytes."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

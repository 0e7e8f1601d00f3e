"""Loads the compiled operator library; every other module imports this one first."""

from __future__ import annotations

from pathlib import Path

import torch

TORCH_FLOOR = (2, 10)
_REMEDY = (
    "build it with `pip install --no-build-isolation .` in the repository (needs a C++20 compiler, "
    "cmake, ninja and pybind11), or install a wheel for this Python and platform"
)


def _torch_version() -> tuple[int, int]:
    major, minor = torch.__version__.split("+")[0].split(".")[:2]
    return int(major), int(minor)


def load_library() -> Path:
    """Register the operators under ``torch.ops.supertickets``.

    Returns:
        The file that was loaded.

    Raises:
        ImportError: torch is too old, or the library is missing or does not load; with the remedy.
    """
    if _torch_version() < TORCH_FLOOR:
        raise ImportError(
            f"supertickets_ext needs torch >= {TORCH_FLOOR[0]}.{TORCH_FLOOR[1]}, "
            f"found {torch.__version__}; remedy: pip install -U torch"
        )
    folder = Path(__file__).parent
    files = [f for f in folder.glob("libsupertickets_ops.*") if f.suffix in (".so", ".dylib")]
    if not files:
        raise ImportError(
            f"supertickets_ext: the compiled library libsupertickets_ops is missing in {folder}; "
            f"remedy: {_REMEDY}"
        )
    try:
        torch.ops.load_library(str(files[0]))
        from supertickets_ext import _C
    except (OSError, ImportError) as error:
        raise ImportError(
            f"supertickets_ext: the compiled library does not fit this Python, torch "
            f"{torch.__version__} or processor ({error}); remedy: {_REMEDY}"
        ) from error
    _C.facts()  # raises if SUPERTICKETS_ISA names an instruction set that is not here
    return files[0]


LIBRARY = load_library()


def check_device(op: str, name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor on a device for which this build has no kernel of ``op``.

    Raises:
        ValueError: Names the operator, the argument and its device.
    """
    device = tensor.device.type
    if device in ("cpu", "meta") or (device == "cuda" and op in _ON_CUDA):
        return
    kernels = "the CPU and CUDA" if op in _ON_CUDA else "the CPU"
    raise ValueError(
        f"{op}: this build has kernels for {kernels} only, got {name} on {tensor.device}"
    )


def has_cuda_kernel(op: str) -> bool:
    """Whether this build has a CUDA kernel of an operator."""
    return op in _ON_CUDA


def _ops_on_cuda() -> frozenset[str]:
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    raw = {name.split("::")[1].split(".")[0] for name in torch._C._dispatch_get_all_op_names()
           if name.startswith("supertickets::")}  # fmt: skip
    found = {name for name in raw if has_kernel(f"supertickets::{name}", "CUDA")}
    packed = {"activation_patterns", "pack_signs"} if "pack_signs_" in found else set()
    return frozenset(found | packed)


_ON_CUDA = _ops_on_cuda()  # read once: compiled code cannot ask the dispatcher

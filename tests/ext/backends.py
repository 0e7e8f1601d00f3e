"""Run the operator tests on other back ends: CUDA kernels on the CPU, or on a GPU.

On the CPU the threads of a block run in three orders. A test runs in one of them, which its name
decides, so that each file meets all three; SUPERTICKETS_CUDA_ORDER=forward|reverse|random chooses.
"""

from __future__ import annotations

import importlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

LIBRARY = Path(__file__).resolve().parents[2] / "build/cuda_on_cpu/libsupertickets_cuda_on_cpu.so"
ORDERS = ("forward", "reverse", "random")
BACKENDS = ["cpu", "cuda_on_cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
_MODULES = (
    "_jacobian_rows",
    "_kept",
    "_lane_tensor",
    "_masked_conv2d_autograd",
    "_masked_weight",
    "_region_trace",
    "activation_patterns",
    "mask_update",
    "pack_mask",
    "regions",
    "sparse",
    "topk_mask",
)


class OnCuda:
    """``torch.ops.supertickets`` for CPU tensors, run by the CUDA kernels of a GPU."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Wrap the operator: arguments go to the GPU, results and changes come back."""
        operator = getattr(torch.ops.supertickets, name)

        def run(*args: Any) -> Any:
            copies: list[tuple[Tensor, Tensor]] = []

            def to_gpu(value: Any) -> Any:
                if not isinstance(value, Tensor):
                    return value
                copies.append((value, value.cuda()))
                return copies[-1][1]

            stay = 3 if name == "region_patterns" else 0  # its table is read by the host
            result = operator(*args[:stay], *pytree.tree_map(to_gpu, args[stay:]))
            changed = pytree.tree_leaves(args[0]) if name.endswith("_") else []
            for own, copy in copies:
                if any(own is tensor for tensor in changed):
                    own.copy_(copy)
            return pytree.tree_map(lambda v: v.cpu() if isinstance(v, Tensor) else v, result)

        return run


def use_backend(name: str, test: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the public functions call another back end's operators, or skip the test."""
    if name == "cpu":
        return
    ops: Any
    if name == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no GPU")
        ops = OnCuda()
    else:
        if not LIBRARY.exists():
            pytest.skip(f"{LIBRARY.name} is not built: make cuda-on-cpu")
        torch.ops.load_library(str(LIBRARY))
        ops = torch.ops.supertickets_cuda_on_cpu
        chosen = os.environ.get("SUPERTICKETS_CUDA_ORDER")
        order = ORDERS.index(chosen) if chosen else zlib.crc32(test.encode()) % len(ORDERS)
        ops.set_order(order, 1, 1)
    for module in _MODULES:
        monkeypatch.setattr(importlib.import_module(f"supertickets_ext.{module}"), "_ops", ops)
    for module in ("_kept", "_masked_conv2d_autograd"):  # CUDA needs no patterns
        imported = importlib.import_module(f"supertickets_ext.{module}")
        monkeypatch.setattr(imported, "kept_pattern", lambda *_, **__: None)
    dense = importlib.import_module("supertickets_ext._dense")
    monkeypatch.setattr(dense, "has_masked_weight", lambda _: True)

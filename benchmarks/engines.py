"""The engines that run a whole network, each in the setting its users would choose."""

from __future__ import annotations

import copy
import json
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.networks import in_format

PEER = Path(__file__).with_name("deepsparse_peer.py")
OPSET = 17
DEEPSPARSE_OPSET, DEEPSPARSE_IR = 11, 7  # the newest that DeepSparse 1.8.0 reads


class TorchEngine:
    """A module called in this process, without gradients.

    Args:
        module: In evaluation mode.
        images: ``[N, C, H, W]``.
    """

    def __init__(self, module: Callable[[Tensor], Tensor], images: Tensor) -> None:
        self._module, self._images = module, images

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        """Give the logits."""
        return self._module(self._images)

    def output(self) -> Tensor:
        """Give the logits to be checked."""
        return self().float()


def eager(model: nn.Module, images: Tensor, dtype: torch.dtype = torch.float32) -> TorchEngine:
    """Run torch's own convolutions in channels_last, in float32 or in a smaller type.

    Args:
        model: In evaluation mode; not changed.
        images: ``[N, C, H, W]``.
        dtype: Of weights and activations.
    """
    module = in_format(copy.deepcopy(model).to(dtype), torch.channels_last)
    return TorchEngine(module, images.to(dtype).contiguous(memory_format=torch.channels_last))


def compiled(model: nn.Module, images: Tensor, dtype: torch.dtype = torch.float32) -> TorchEngine:
    """Run ``torch.compile`` with frozen weights, which folds batch norm and packs the weights.

    Args:
        model: In evaluation mode; not changed.
        images: ``[N, C, H, W]``.
        dtype: Of weights and activations.

    Raises:
        RuntimeError: This machine cannot compile (no C++ compiler, say).
    """
    plain = eager(model, images, dtype)
    module = torch.compile(plain._module, dynamic=False, options={"freezing": True})
    engine = TorchEngine(module, plain._images)
    engine()
    return engine


class OnnxRuntimeEngine:
    """onnxruntime with all graph optimisations.

    Args:
        path: The ONNX file.
        images: ``[N, C, H, W]``.
    """

    def __init__(self, path: Path, images: Tensor) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # its threads spin while it runs, as they do by default, but not while others are timed
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._feed = {self._session.get_inputs()[0].name: images.contiguous().numpy()}

    def __call__(self) -> Any:
        """Give the outputs."""
        return self._session.run(None, self._feed)

    def output(self) -> Tensor:
        """Give the logits to be checked."""
        return torch.from_numpy(self()[0])


class DeepSparseEngine:
    """DeepSparse in a process of its own, which times itself.

    Args:
        python: Interpreter of an environment with deepsparse 1.8.0.
        path: The ONNX file.
        images: ``[N, C, H, W]``.
        folder: For the arrays that go to and fro.

    Raises:
        RuntimeError: The process ended before it had an answer.
    """

    def __init__(self, python: Path, path: Path, images: Tensor, folder: Path) -> None:
        source, self._target = folder / "input.npy", folder / "output.npy"
        np.save(source, images.contiguous().numpy())
        threads = str(torch.get_num_threads())
        self._process = subprocess.Popen(
            [python, PEER, path, source, self._target, threads],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        self.version: str = self._answer()["version"]

    def seconds(self, calls: int) -> float:
        """Make so many calls and give the time they took there."""
        self._pipe(self._process.stdin).write(f"{calls}\n")
        return float(self._answer()["seconds"])

    def output(self) -> Tensor:
        """Give the logits to be checked."""
        return torch.from_numpy(np.load(self._target))

    def close(self) -> None:
        """End the process."""
        self._pipe(self._process.stdin).close()
        self._process.wait(timeout=60)
        self._pipe(self._process.stdout).close()

    def _answer(self) -> dict[str, Any]:
        line = self._pipe(self._process.stdout).readline()
        if not line:
            raise RuntimeError(f"deepsparse_peer.py ended with code {self._process.wait()}")
        return json.loads(line)

    @staticmethod
    def _pipe(stream: IO[str] | None) -> IO[str]:
        assert stream is not None
        return stream


def export(model: nn.Module, images: Tensor, path: Path, *, for_deepsparse: bool = False) -> Path:
    """Write the network as ONNX with a fixed batch.

    Args:
        model: In evaluation mode.
        images: ``[N, C, H, W]``.
        path: Where to.
        for_deepsparse: Use the old file version that DeepSparse reads.

    Returns:
        ``path``.
    """
    import onnx

    opset = DEEPSPARSE_OPSET if for_deepsparse else OPSET
    with warnings.catch_warnings():  # of the two exporters only the older one writes opset 11
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (images,), str(path), opset_version=opset, dynamo=False)
    if for_deepsparse:
        stored = onnx.load(path)
        stored.ir_version = DEEPSPARSE_IR
        onnx.save(stored, path)
    return path

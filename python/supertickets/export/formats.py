"""The export formats: how a file is written, and how it is run again."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram

from supertickets.errors import InputError, RunError
from supertickets.spaces import load_state

_TORCH_OPERATORS = {"aten", "prims"}


@dataclass
class Source:
    """What is exported.

    Attributes:
        dense: The plain network in evaluation mode, without gradients.
        example: Input ``[N, C, H, W]``.
    """

    dense: nn.Module
    example: Tensor

    @cached_property
    def program(self) -> ExportedProgram:
        """The traced graph, batch size free, without custom operators or paths of this machine."""
        # a batch of one would be traced as a constant
        traced = torch.cat([self.example, self.example])
        try:
            program = torch.export.export(
                self.dense, (traced,), dynamic_shapes=({0: Dim("batch", min=1)},)
            )
        except Exception as error:  # a user's network may break the tracer in any way
            raise RunError(f"export: torch.export cannot trace the network: {error}") from error
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)
            target = node.target
            if isinstance(target, OpOverload) and target.namespace not in _TORCH_OPERATORS:
                raise RunError(
                    f"export: the network uses the custom operator {target.name()}, "
                    "which a process without its package could not run"
                )
        return program

    @cached_property
    def probe(self) -> Tensor:
        """Another batch than the traced one."""
        return torch.cat([self.example, 0.5 * self.example, -self.example])

    @cached_property
    def expected(self) -> Tensor:
        """The dense network's output for the probe."""
        with torch.no_grad():
            output = self.dense(self.probe)
        if not isinstance(output, Tensor):
            raise InputError(
                f"export: the network must give one tensor, it gave a {type(output).__name__}"
            )
        return output


class Exporter(ABC):
    """One format.

    Attributes:
        file_name: Name of the written file.
        packages: What must be installed besides torch.
    """

    file_name: str
    packages: tuple[str, ...] = ()

    @abstractmethod
    def write(self, source: Source, path: Path) -> str:
        """Write the file and give a note about it."""

    @abstractmethod
    def run(self, source: Source, path: Path) -> Tensor:
        """Load the file and give its output for the probe."""


class StateDict(Exporter):
    """Ordinary keys and dense tensors as safetensors."""

    file_name = "state_dict.safetensors"

    def write(self, source: Source, path: Path) -> str:
        """Write the state dict."""
        # copies, because the file format refuses tensors that share memory
        tensors = {k: v.contiguous().clone() for k, v in source.dense.state_dict().items()}
        path.write_bytes(save_tensors(tensors, metadata={"format": "pt"}))
        return f"{len(tensors)} tensors, keys of the plain network"

    def run(self, source: Source, path: Path) -> Tensor:
        """Load it into a copy whose own values were wiped."""
        twin = copy.deepcopy(source.dense)
        for value in twin.state_dict().values():
            value.zero_()
        load_state(twin, load_tensors(path.read_bytes()), what="the exported state dict")
        with torch.no_grad():
            output: Tensor = twin(source.probe)
        return output


class TorchExport(Exporter):
    """A graph of torch's own operators with its weights, for ``torch.export.load``."""

    file_name = "model.pt2"

    def write(self, source: Source, path: Path) -> str:
        """Write the traced graph."""
        buffer = io.BytesIO()
        with _quiet():
            torch.export.save(source.program, buffer)
        path.write_bytes(buffer.getvalue())
        return "batch size is free"

    def run(self, source: Source, path: Path) -> Tensor:
        """Load it with ``torch.export.load``."""
        with _quiet():
            program = torch.export.load(io.BytesIO(path.read_bytes()))
        with torch.no_grad():
            output: Tensor = program.module()(source.probe)
        return output


class OnnxFile(Exporter):
    """One ONNX file with its weights inside, input ``image``, output ``logits``."""

    file_name = "model.onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")

    def write(self, source: Source, path: Path) -> str:
        """Write the graph without the exporter's notes, which hold paths of this machine."""
        import onnx

        with _quiet():
            exported = torch.onnx.export(
                source.program,
                dynamo=True,
                verbose=False,
                input_names=["image"],
                output_names=["logits"],
            )
        if exported is None:
            raise RunError("export onnx: torch.onnx.export gave nothing")
        model = exported.model_proto
        graph = model.graph
        for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
            del part.metadata_props[:]
        custom = {node.domain for node in graph.node} - {"", "ai.onnx"}
        if custom:
            raise RunError(f"export onnx: operators of {sorted(custom)} are not ONNX's own")
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString())
        return f"opset {model.opset_import[0].version}, batch size is free, run in onnxruntime"

    def run(self, source: Source, path: Path) -> Tensor:
        """Run it in onnxruntime on the CPU."""
        import onnxruntime

        session = onnxruntime.InferenceSession(
            path.read_bytes(), providers=["CPUExecutionProvider"]
        )
        (output,) = session.run(["logits"], {"image": source.probe.numpy()})
        return torch.from_numpy(output)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide torch's own deprecations, and its notes on packages that no plain network needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)

"""Write a ticket in other formats, and run each written file before it is believed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor, nn

from supertickets.errors import ConfigError, InputError, RunError, did_you_mean
from supertickets.export.formats import Exporter, OnnxFile, Source, StateDict, TorchExport
from supertickets.files import atomic_file
from supertickets.spaces import example_input
from supertickets.ticket import Ticket

_EXPORTERS: dict[str, Exporter] = {
    "state-dict": StateDict(),
    "torch.export": TorchExport(),
    "onnx": OnnxFile(),
}
FORMATS = tuple(_EXPORTERS)


class ExportRecord(TypedDict):
    """One written file.

    Keys: ``format``; ``path`` relative to the export folder; ``bytes``; ``max_abs_error`` of the
    file's own output against the dense network's; ``note``.
    """

    format: str
    path: str
    bytes: int
    max_abs_error: float
    note: str


def export_ticket(
    ticket: Ticket,
    folder: str | Path,
    formats: Sequence[str] = FORMATS,
    *,
    example: Tensor | None = None,
    model: nn.Module | None = None,
) -> list[ExportRecord]:
    """Write the dense network, pruned weights stored as zeros, in each format.

    Every file is loaded again and run on another batch size than it was traced with; it takes its
    name only if its output agrees. None needs this package or holds a custom operator.

    Args:
        ticket: What to export.
        folder: Where the files go; created.
        formats: Of :data:`FORMATS`. ``"onnx"`` needs the extra ``supertickets[onnx]``.
        example: Input ``[N, C, H, W]`` to trace and compare with; by default noise of the
            architecture's size.
        model: The user's own network, if the ticket is of one.

    Returns:
        A record per file.

    Raises:
        ConfigError: An unknown format.
        InputError: ``example`` does not fit the architecture.
        RunError: A package is missing, a file cannot be written, or its output differs.
    """
    chosen = _choose(formats)
    for name in chosen:
        if missing := missing_packages(name):
            raise RunError(
                f"export {name}: not installed: {', '.join(missing)}; "
                "run: pip install supertickets[onnx]"
            )
    dense = ticket.to_dense(model).requires_grad_(False)
    source = Source(dense, _check_example(ticket, example).to(_dtype(dense)))
    return [
        _export(name, exporter, source, Path(folder), ticket.density)
        for name, exporter in chosen.items()
    ]


def missing_packages(name: str) -> list[str]:
    """Say what a format needs and is not installed.

    Args:
        name: Of :data:`FORMATS`.

    Returns:
        Names of packages, empty if the format can be written.

    Raises:
        ConfigError: An unknown format.
    """
    (exporter,) = _choose([name]).values()
    return [package for package in exporter.packages if importlib.util.find_spec(package) is None]


def _export(
    name: str, exporter: Exporter, source: Source, folder: Path, density: float
) -> ExportRecord:
    target = folder / exporter.file_name
    try:
        with atomic_file(target) as aside:
            note = exporter.write(source, aside)
            output = exporter.run(source, aside)
            error = _compare(name, source, output)
    except OSError as problem:
        raise RunError(f"export {target}: cannot be written ({problem.strerror})") from problem
    return ExportRecord(
        format=name,
        path=exporter.file_name,
        bytes=target.stat().st_size,
        max_abs_error=error,
        note=f"{note}; density {density:.4g}, pruned weights stored as zeros",
    )


def _compare(name: str, source: Source, output: Tensor) -> float:
    expected = source.expected
    if output.shape != expected.shape:
        raise RunError(
            f"export {name}: the file gives {list(output.shape)}, "
            f"the network {list(expected.shape)}"
        )
    error = float((output.double() - expected.double()).abs().max())
    # another runtime may fold batch norm into weights and sum in another order
    limit = max(1e-3, 8 * torch.finfo(expected.dtype).eps) * max(1.0, float(expected.abs().max()))
    if not error <= limit:
        raise RunError(
            f"export {name}: the file's output differs from the network's by {error:.3g}, "
            f"at most {limit:.3g} was expected; nothing was kept"
        )
    return error


def _choose(formats: Sequence[str]) -> dict[str, Exporter]:
    if isinstance(formats, str):
        formats = (formats,)
    for name in formats:
        if name not in _EXPORTERS:
            raise ConfigError(f"no export format {name!r}{did_you_mean(name, FORMATS)}")
    return {name: _EXPORTERS[name] for name in formats}


def _check_example(ticket: Ticket, example: Tensor | None) -> Tensor:
    channels = int(ticket.architecture["channels"])
    height, width = ticket.architecture["image_size"]
    if example is None:
        return example_input(channels, (height, width))
    if example.dim() != 4 or len(example) < 1 or example.shape[1] != channels:
        raise InputError(
            f"export: example must be [N, {channels}, H, W] with N >= 1, got {list(example.shape)}"
        )
    return example.detach().cpu()


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

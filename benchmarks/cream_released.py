"""Exact costs of the released Cream architectures beside the published figures.

python -m benchmarks.cream_released        # counts, no timing; a minute
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import ROOT, parser, write_results
from supertickets.evaluate import model_cost
from supertickets.spaces import MBConvNet, path_space
from supertickets.spaces.mbconv_released import RELEASED

CLASSES = 1000


def counted_by_the_authors(net: MBConvNet, example: Tensor) -> int:
    """Count as the authors' counter does: MACs, and batch norms, pooling and convolutions' biases.

    A batch norm counts two for each value, pooling one for each value in and out, a bias one for
    each value; the layers of the squeeze are convolutions in the authors' code, so theirs count.
    """
    others = 0

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal others
        if isinstance(module, nn.BatchNorm2d):
            others += 2 * output.numel()
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            others += inputs[0].numel() + output.numel()
        elif isinstance(module, nn.Linear) and module.out_features != CLASSES:
            others += output.numel()

    handles = [module.register_forward_hook(count) for module in net.modules()]
    macs = model_cost(net, example).macs
    for handle in handles:
        handle.remove()
    return macs + others


def row(name: str) -> dict[str, Any]:
    """Count one architecture: as its indices are listed, and as the authors' code builds it."""
    released = RELEASED[name]
    size = (released.resolution, released.resolution)
    figures: dict[str, Any] = {
        "name": name,
        "indices": released.indices,
        "resolution": released.resolution,
        "published_millions": released.published_mmacs,
    }
    for kind, text in (("listed", released.listed), ("built", released.built)):
        space, path = path_space(text, num_classes=CLASSES, channels=3, image_size=size)
        net, example = space.network(path), torch.zeros(1, 3, *size)
        figures[kind] = {
            "architecture": text,
            "macs": space.macs(path),
            "parameters": space.parameters(path),
            "counted_by_the_authors": counted_by_the_authors(net, example),
        }
    return figures


def main() -> None:
    options = parser(__doc__ or "")
    options.set_defaults(out=ROOT / "benchmarks" / "results" / "cream_released.json")
    arguments = options.parse_args()
    rows = [row(name) for name in RELEASED]
    for figures in rows:
        built = figures["built"]
        print(
            f"{figures['name']:10s} published {figures['published_millions']:4d}M  built "
            f"{built['macs'] / 1e6:7.2f}M MACs, {built['counted_by_the_authors'] / 1e6:7.2f}M "
            f"as counted there, {built['parameters'] / 1e6:.2f}M parameters"
        )
    write_results(Path(arguments.out), "cream_released", rows, {})


if __name__ == "__main__":
    main()

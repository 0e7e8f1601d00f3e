"""Steps of a supernet on one path after the other, in one process or in several."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from supertickets.seeds import generator
from supertickets.spaces import ChoiceSupernet, initialise_for_training_
from supertickets.training import join_group, rank, world_size

STEPS, BATCH = 6, 12


def supernet() -> ChoiceSupernet:
    """Six paths, without batch norm: its statistics would differ between half and whole batches."""

    def conv(inputs: int, outputs: int, kernel: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.ReLU())

    layers = [[conv(4, 4, 1), conv(4, 4, 3)], [conv(4, 8, 1), conv(4, 8, 3), conv(4, 8, 5)]]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    net = ChoiceSupernet(conv(1, 4, 3), layers, head)
    initialise_for_training_(net, generator(0, "weights"))
    return net


def paths() -> list[tuple[int, ...]]:
    """One for each step, the same in every process; the last operation is never taken."""
    return [(step % 2, step // 2 % 2) for step in range(STEPS)]


def steps(net: ChoiceSupernet, model: nn.Module, share: slice) -> None:
    """Train on a share of every batch."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for step, path in enumerate(paths()):
        net.set_path(path)
        x, y = batch(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[share]), y[share]).backward()
        with_gradient = {id(p) for p in net.parameters() if p.grad is not None}
        assert with_gradient == {id(p) for p in net.path_parameters()}, "off the path: None"
        optimizer.step()


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Give the whole batch of a step."""
    drawer = generator(0, "batch", step)
    return torch.randn(BATCH, 1, 8, 8, generator=drawer), torch.arange(BATCH) % 10


def main(folder: Path) -> None:
    """Take the steps as torchrun asks, and write down the weights."""
    join_group("cpu")
    net = supernet()
    model = DistributedDataParallel(net, find_unused_parameters=True)
    size = BATCH // world_size()
    steps(net, model, slice(rank() * size, (rank() + 1) * size))
    torch.save(net.state_dict(), folder / f"supernet-{rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

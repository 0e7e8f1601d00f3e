"""Training ResNet-20 at 90 % sparsity: sparse kernels against masked dense convolutions.

    python -m benchmarks.study_sparse_training --out benchmarks/results/study_sparse_training.json

Both arms start from the same weights and masks (random, uniform over the layers, the stem dense)
and see the same batches of Fashion-MNIST at 32 x 32 pixels, or of the digits where that is not on
the machine. The sparse arm keeps the lanes layout through the whole net; the dense arm multiplies
its weights by the masks in each step (``torch.nn.utils.prune``) and is timed in channels_last and
in NCHW, of which the faster one counts.

Two runs that differ in roundings alone drift apart, the more the longer they train. So the losses
are compared twice: over all steps in float32, with the distance of the two dense runs as the bar,
and over a few steps in float64, where equal computations stay equal.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from benchmarks.harness import parser, timing_of, write_results
from benchmarks.networks import in_format
from supertickets.data import DataConfig, ImageData, load_data
from supertickets.errors import DataError
from supertickets.masked_modules import put_masks_
from supertickets.spaces import ModelConfig, build_model
from supertickets_ext import topk_mask
from supertickets_ext.lanes import keep_lanes, left_lanes
from supertickets_ext.nn import MaskedConv2d

DENSITY = 0.1
BATCH = 128
LEARNING_RATE = 0.01
STEPS, QUICK_STEPS = 200, 10
EXACT_STEPS, QUICK_EXACT_STEPS = 20, 2
LAST = 20  # steps whose mean loss is given as the last
WARM_UP = 3  # steps that are not timed: the first ones choose routes and fill caches
EXACT_TOLERANCE = 1e-9  # float64 has 16 digits; twenty steps at this rate lose less than 6
DRIFT = 10  # times the distance of two dense runs, plus FLOOR
FLOOR = 1e-5
SPARSE, DENSE, DENSE_NCHW = "sparse", "dense channels_last", "dense NCHW"

Masks = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]


class Arm:
    """One way to train the net.

    Args:
        model: A net of its own, in training mode.
        memory_format: Of the images.
    """

    def __init__(self, model: nn.Module, memory_format: torch.memory_format) -> None:
        self.model = model
        self.losses: list[float] = []
        self.times_us: list[float] = []
        self._memory_format = memory_format
        self._optimizer = torch.optim.SGD(
            model.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=5e-4
        )

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Train on one batch; keep loss and time."""
        images = images.contiguous(memory_format=self._memory_format)
        start = time.perf_counter()
        loss = F.cross_entropy(self.model(images), labels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self.times_us.append((time.perf_counter() - start) * 1e6)
        self.losses.append(loss.item())


def images_of_this_machine() -> ImageData:
    """Load Fashion-MNIST, or else the digits, both at the size that ResNet-20 is made for."""
    try:
        return load_data(DataConfig(name="idx", image_size=32, augment="none"))
    except DataError:
        return load_data(DataConfig(name="digits", image_size=32, augment="none"))


def draw_masks(model: nn.Module) -> Masks:
    """Keep a random tenth of every convolution; all of the stem, which is the first."""
    generator = torch.Generator().manual_seed(0)
    masks: Masks = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            size = module.weight.numel()
            scores = torch.rand(size, generator=generator)
            keep = round(DENSITY * size) if masks else size
            masks[f"{name}.weight"] = topk_mask(scores, keep).view_as(module.weight)
    return masks


def sparse_arm(model: nn.Module, masks: Masks, route: str) -> Arm:
    """Masked modules that pass lanes on."""
    model = put_masks_(copy.deepcopy(model), masks)
    for module in model.modules():
        if isinstance(module, MaskedConv2d):
            module.route = route
    keep_lanes(model)
    return Arm(model, torch.channels_last)


def dense_arm(model: nn.Module, masks: Masks, memory_format: torch.memory_format) -> Arm:
    """Torch's own pruning: the weights are multiplied by the masks in each step."""
    model = in_format(copy.deepcopy(model), memory_format)
    modules = dict(model.named_modules())
    for key, mask in masks.items():
        prune.custom_from_mask(modules[key.removesuffix(".weight")], "weight", mask)
    return Arm(model, memory_format)


def batches(data: ImageData, dtype: torch.dtype) -> Iterator[Batch]:
    """Give full batches, epoch after epoch."""
    loader = data.loader("train", batch_size=BATCH, seed=0)
    for epoch in itertools.count():
        loader.set_epoch(epoch)
        for images, labels in loader:
            if len(labels) == BATCH:
                yield images.to(dtype), labels


def train(arms: dict[str, Arm], data: ImageData, dtype: torch.dtype, steps: int) -> None:
    """Train all arms side by side, a step of each in turn."""
    for images, labels in itertools.islice(batches(data, dtype), steps):
        for arm in arms.values():
            arm.step(images, labels)


def distance(a: Arm, b: Arm) -> float:
    """Give the largest difference of two arms' losses in any step."""
    return max(abs(x - y) for x, y in zip(a.losses, b.losses, strict=True))


def exact_distance(
    model: nn.Module, masks: Masks, data: ImageData, steps: int, route: str
) -> float:
    """Train both ways in float64.

    Raises:
        SystemExit: The losses differ by more than roundings.
    """
    double = copy.deepcopy(model).double()
    arms = {
        SPARSE: sparse_arm(double, masks, route),
        DENSE: dense_arm(double, masks, torch.contiguous_format),
    }
    train(arms, data, torch.float64, steps)
    found = distance(arms[SPARSE], arms[DENSE])
    print(f"float64, {steps} steps: losses differ by at most {found:.1e}", flush=True)
    if not found <= EXACT_TOLERANCE:
        raise SystemExit(f"the sparse arm computes something else: {found:.1e} in float64")
    return found


def study(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Train every arm, compare the losses, and give rows and summary."""
    data = images_of_this_machine()
    model = build_model(
        ModelConfig(name="resnet20"), num_classes=data.num_classes, channels=data.channels, seed=0
    )
    masks = draw_masks(model)
    exact_steps = QUICK_EXACT_STEPS if arguments.quick else EXACT_STEPS
    exact = exact_distance(model, masks, data, exact_steps, arguments.route)
    arms = {
        SPARSE: sparse_arm(model, masks, arguments.route),
        DENSE: dense_arm(model, masks, torch.channels_last),
        DENSE_NCHW: dense_arm(model, masks, torch.contiguous_format),
    }
    left_lanes(clear=True)
    train(arms, data, torch.float32, QUICK_STEPS if arguments.quick else STEPS)
    drift, bar = distance(arms[SPARSE], arms[DENSE]), distance(arms[DENSE], arms[DENSE_NCHW])
    print(f"float32: losses differ by at most {drift:.1e}; two dense runs by {bar:.1e}")
    if not drift <= DRIFT * bar + FLOOR:
        raise SystemExit(f"the sparse arm drifts away: {drift:.1e}")
    times = {name: timing_of(arm.times_us[WARM_UP:]) for name, arm in arms.items()}
    best = min((DENSE, DENSE_NCHW), key=lambda name: times[name].median_us)
    rows = [
        {
            "arm": name,
            "step": times[name],
            "last_loss": statistics.fmean(arm.losses[-LAST:]),
            "losses": arm.losses,
        }
        for name, arm in arms.items()
    ]
    steps = len(arms[SPARSE].losses)
    summary = {
        "data": data.name, "net": "resnet20", "density": DENSITY, "batch": BATCH, "steps": steps,
        "last_loss_over_steps": min(LAST, steps),
        "route": arguments.route, "left_lanes_per_step": {
            name: count / steps for name, count in left_lanes().items()
        },
        "loss_difference": drift, "loss_difference_of_dense_runs": bar,
        "loss_difference_float64": exact, "float64_steps": exact_steps, "best_dense": best,
        "speedup": times[best].median_us / times[SPARSE].median_us,
    }  # fmt: skip
    return rows, summary


def main() -> None:
    options = parser((__doc__ or "").splitlines()[0])
    options.add_argument(
        "--route",
        choices=["auto", "sparse"],
        default="sparse",
        help="of the masked modules: sparse everywhere, or what they choose by measuring",
    )
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, summary = study(arguments)
    for row in rows:
        print(f"{row['arm']:<20}{row['step'].median_us / 1e3:>8.1f} ms a step, "
              f"loss {row['losses'][0]:.4f} -> {row['last_loss']:.4f}")  # fmt: skip
    print(f"conversions per step on the way: {summary['left_lanes_per_step']}")
    print(f"sparse against {summary['best_dense']}: x{summary['speedup']:.2f}")
    if arguments.out:
        write_results(arguments.out, "study_sparse_training", rows, summary)


if __name__ == "__main__":
    main()

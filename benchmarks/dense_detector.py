"""A path of the mbconv space as the backbone of a small dense detector, on generated scenes.

    python -m benchmarks.dense_detector        # some minutes; trains, then scores unseen scenes

At every pixel of stride 4 the detector says how likely an object of each class has its centre
there, and the object's size (Zhou et al. 2019, "Objects as Points"). Maps of strides 4 to 32 are
joined from coarse to fine. The same detector on a backbone that stays at its random weights is the
control.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.detection_scenes import CLASSES, SIZE, Scene, average_precision, scene
from benchmarks.harness import ROOT, parser, write_results
from supertickets.evaluate import eval_mode
from supertickets.seeds import generator
from supertickets.spaces import Backbone, initialise_for_training_, path_space
from supertickets.training import recalibrate_bn

PATH = "k3e4|k5e4,k3e4|k5e6,k3e4|k3e6|k5e6"
STRIDE, WIDTH, TOP = 4, 32, 10
BATCH, STEPS, TEST_SCENES, LR = 8, 400, 200, 2e-3


class Detector(nn.Module):
    """Backbone, one map of stride 4 made of all of its maps, and a prediction at every pixel."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.lateral = nn.ModuleList(nn.Conv2d(c, WIDTH, 1) for c in backbone.channels)
        self.join = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()
        )
        self.predict = nn.Conv2d(WIDTH, len(CLASSES) + 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give centre logits ``[N, classes, H / 4, W / 4]`` and boxes ``[N, 4, H / 4, W / 4]``.

        A box is the centre's place within its pixel, and the logarithm of the sides over 16 pixels.
        """
        maps = self.backbone(x)
        joined = self.lateral[-1](maps[-1])
        for lateral, finer in zip(reversed(self.lateral[:-1]), reversed(maps[:-1]), strict=True):
            joined = lateral(finer) + F.interpolate(joined, size=finer.shape[-2:])
        out = self.predict(self.join(joined))
        return out[:, : len(CLASSES)], out[:, len(CLASSES) :]


def loss(centres: Tensor, boxes: Tensor, scenes: list[Scene]) -> Tensor:
    """Focal loss of the centres, softened around each, and absolute error of its box."""
    heat, sizes = torch.zeros_like(centres), torch.zeros_like(boxes)
    at = torch.zeros_like(centres[:, 0], dtype=torch.bool)
    grid = torch.arange(SIZE // STRIDE, dtype=torch.float32)
    for n, one in enumerate(scenes):
        for box, label in zip(one.boxes, one.labels.tolist(), strict=True):
            column, row = (box[:2] / STRIDE).long().tolist()
            near = torch.exp(-0.5 * (grid - column).square())[None]
            bump = torch.exp(-0.5 * (grid - row).square())[:, None] * near
            heat[n, label] = torch.maximum(heat[n, label], bump)
            place = box[:2] / STRIDE - torch.tensor([column, row])
            sizes[n, :, row, column] = torch.cat([place, (box[2:] / 16).log()])
            at[n, row, column] = True
    p = centres.sigmoid()
    hit = -F.logsigmoid(centres) * (1 - p).square() * (heat == 1)
    miss = -F.logsigmoid(-centres) * p.square() * (1 - heat).pow(4) * (heat < 1)
    error = (boxes - sizes).abs().sum(1)[at].sum()
    return ((hit + miss).sum() + error) / at.sum()


@torch.no_grad()
def detect(model: nn.Module, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give the boxes, scores and labels of the ten strongest local maxima of an image."""
    centres, boxes = model(image[None])
    scores = centres.sigmoid()
    scores = scores * (scores == F.max_pool2d(scores, 3, stride=1, padding=1))
    best, index = scores.flatten().topk(TOP)
    side = SIZE // STRIDE
    label, row, column = index // side**2, index // side % side, index % side
    box = boxes[0, :, row, column].T
    centre = (torch.stack([column, row], dim=1) + box[:, :2]) * STRIDE
    return torch.cat([centre, 16 * box[:, 2:].exp()], dim=1), best, label


def trained(seed: int, *, frozen: bool, steps: int) -> Detector:
    """Train a detector; ``frozen``: its backbone stays at its random weights."""
    space, path = path_space(
        PATH, num_classes=2, channels=3, image_size=(SIZE, SIZE), options={"width": 0.5}
    )
    with torch.random.fork_rng(devices=()):
        model = Detector(space.network(path).backbone())
    initialise_for_training_(model, generator(seed, "weights"))
    nn.init.constant_(model.predict.bias[: len(CLASSES)], -3.0)  # few pixels are centres
    model.backbone.requires_grad_(not frozen)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LR, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    for step in range(steps):
        scenes = batch(seed, step)
        optimizer.zero_grad()
        value = loss(*model(torch.stack([s.image for s in scenes])), scenes)
        value.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"  step {step:4d}  loss {value.item():.3f}", flush=True)
    batches = [(torch.stack([s.image for s in batch(seed, i)]), torch.zeros(0)) for i in range(20)]
    recalibrate_bn(model, batches, batches=len(batches))
    return model


def batch(seed: int, step: int) -> list[Scene]:
    """Draw the scenes of a step."""
    drawer = generator(seed, "train", step)
    return [scene(drawer) for _ in range(BATCH)]


def main() -> None:
    options = parser(__doc__ or "")
    options.set_defaults(out=ROOT / "benchmarks" / "results" / "dense_detector.json")
    options.add_argument("--steps", type=int, default=STEPS)
    options.add_argument("--seeds", type=int, default=2)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    drawer = generator(0, "test")
    scenes = [scene(drawer) for _ in range(TEST_SCENES)]
    rows = []
    for seed in range(arguments.seeds):
        for frozen in (False, True):
            print(f"seed {seed}, backbone {'frozen' if frozen else 'trained'}", flush=True)
            start = time.perf_counter()
            model = trained(seed, frozen=frozen, steps=arguments.steps)
            seconds = time.perf_counter() - start
            with eval_mode(model):
                found = [detect(model, one.image) for one in scenes]
            scores = average_precision(found, scenes)
            print("  " + ", ".join(f"AP50 {k} {v:.3f}" for k, v in scores.items()), flush=True)
            rows.append({"seed": seed, "backbone": "frozen" if frozen else "trained",
                         "ap50": scores, "train_s": seconds})  # fmt: skip
    summary = {"path": PATH, "steps": arguments.steps, "batch": BATCH, "test_scenes": TEST_SCENES}
    write_results(Path(arguments.out), "dense_detector", rows, summary)


if __name__ == "__main__":
    main()

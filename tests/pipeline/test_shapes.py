"""Images of shapes: one seed, three tasks, no files."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from supertickets.data import DataConfig, load_data
from supertickets.data.augment import mirror_joints
from supertickets.data.shapes import JOINTS, SHAPES, ShapesConfig, read_shapes
from supertickets.errors import ConfigError, InputError
from supertickets.evaluate import measure_split
from supertickets.tasks import IGNORED, TASKS, get_task
from supertickets.training import TrainConfig, train

FEW = ShapesConfig(count=300)
SPLITS = ("train", "validation", "test")


def shapes(task: str, **options: object) -> object:
    return load_data(DataConfig(name="shapes", task=task, shapes=FEW, **options))


def test_the_three_tasks_share_images_and_labels() -> None:
    cls, seg, pose = (shapes(task) for task in TASKS)
    for split in SPLITS:
        one = getattr(cls, split)
        for other in (getattr(seg, split), getattr(pose, split)):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)
    assert (cls.num_classes, seg.num_classes, pose.num_classes) == (6, 7, 5)
    assert cls.class_names == SHAPES
    assert seg.class_names == ("background", *SHAPES)
    assert pose.class_names == JOINTS


def test_no_image_is_in_two_splits_and_none_is_twice() -> None:
    data = shapes("classification")
    rows = [image.numpy().tobytes() for name in SPLITS for image in getattr(data, name).images]
    assert len(rows) == 300
    assert len(set(rows)) == 300


def test_an_image_depends_on_the_seed_and_its_number_alone() -> None:
    many = read_shapes(ShapesConfig(count=400), size=32, task="keypoints").train
    few = read_shapes(ShapesConfig(count=300), size=32, task="keypoints").train
    other = read_shapes(ShapesConfig(count=300, seed=1), size=32, task="keypoints").train
    assert torch.equal(many.images[:300], few.images)
    assert torch.equal(many.targets[:300], few.targets)
    assert not (many.images[:300] == other.images).flatten(1).all(1).any()


def test_the_main_shape_is_in_the_mask_around_its_centre() -> None:
    plain = ShapesConfig(count=200, clutter=0, occlusion=0.0, noise=0.0)
    seg = read_shapes(plain, size=64, task="segmentation").train
    pose = read_shapes(plain, size=64, task="keypoints").train
    for label, mask, joints in zip(seg.labels, seg.targets, pose.targets, strict=True):
        assert set(mask.unique().tolist()) == {0, int(label) + 1}
        x, y = joints[0, :2].round().long().tolist()
        assert mask[y, x] == label + 1
        # half a pixel's edge inside and outside each outline joint, along the ray from the centre
        ray = joints[1:, :2] - joints[0, :2]
        unit = ray / ray.norm(dim=1, keepdim=True)
        inner = (joints[1:, :2] - 1.5 * unit).round().long()
        outer = (joints[1:, :2] + 1.5 * unit).round().long()
        for (inner_x, inner_y), (outer_x, outer_y) in zip(inner, outer, strict=True):
            thin = int(label) in (0, 3)  # a triangle's and a star's tips are thinner than a pixel
            assert mask[inner_y, inner_x] == label + 1 or thin
            if 0 <= outer_x < 64 and 0 <= outer_y < 64:
                assert mask[outer_y, outer_x] == 0


def test_difficulty_does_what_it_says() -> None:
    def one(**options: object) -> torch.Tensor:
        config = ShapesConfig(count=256, **options)
        return read_shapes(config, size=48, task="keypoints").train

    def masks(**options: object) -> torch.Tensor:
        return read_shapes(ShapesConfig(count=256, **options), size=48, task="segmentation").train

    assert (one(occlusion=0.0).targets[:, :, 2] == 2).all()
    hidden = (one(occlusion=1.0).targets[:, :, 2] == 1).any(1).float().mean()
    assert hidden > 0.4
    rough = one(noise=0.2).images.float() - one(noise=0.0).images.float()
    assert rough.std() / 255 == pytest.approx(0.2, abs=0.04)  # clipping at black and white
    near, far = (one(joint_sigma=sigma).targets[:, :, 3] for sigma in (0.05, 0.1))
    assert torch.allclose(far, 2 * near)
    kinds = [len(mask.unique()) for mask in masks(clutter=8).targets]
    assert sum(kinds) > sum(len(mask.unique()) for mask in masks(clutter=0).targets)
    share = (masks(clutter=0, occlusion=0.0, min_radius=0.3).targets > 0).float().mean()
    assert share > 2 * (masks(clutter=0, occlusion=0.0, max_radius=0.2).targets > 0).float().mean()


def test_a_mirror_moves_masks_and_joints_with_the_image() -> None:
    seg, pose = shapes("segmentation"), shapes("keypoints")
    still, varied = (
        [
            torch.cat(parts)
            for parts in zip(
                *data.loader("train", batch_size=64, augment=augment, shuffle=False), strict=True
            )
        ]
        for data, augment in ((pose, False), (pose, True))
    )
    _, masks = (
        torch.cat(parts)
        for parts in zip(*seg.loader("train", batch_size=64, shuffle=False), strict=True)
    )
    assert masks.dtype == torch.int64
    images, joints = varied
    found = {"mirrored": 0, "kept": 0}
    for number in range(len(images)):
        for mirrored in (False, True):
            before = still[0][number].flip(2) if mirrored else still[0][number]
            points = still[1][number]
            points = mirror_joints(points, 64, pose.mirrored) if mirrored else points
            move = joints[number, 0, :2] - points[0, :2]
            if (move - move.round()).abs().max() > 1e-3 or move.abs().max() > 8:
                continue
            dx, dy = move.round().int().tolist()
            inside = images[number][:, max(dy, 0) : 64 + min(dy, 0), max(dx, 0) : 64 + min(dx, 0)]
            source = before[:, max(-dy, 0) : 64 + min(-dy, 0), max(-dx, 0) : 64 + min(-dx, 0)]
            if not torch.equal(inside, source):
                continue
            found["mirrored" if mirrored else "kept"] += 1
            mask = seg.train.targets[number].long()
            mask = mask.flip(1) if mirrored else mask
            shifted = F.pad(mask, (8, 8, 8, 8), value=IGNORED)[8 - dy : 72 - dy, 8 - dx : 72 - dx]
            assert torch.equal(masks[number], shifted)
            seen = joints[number, :, 2] > 0
            assert torch.allclose(joints[number, seen, :2], (points[:, :2] + move)[seen], atol=1e-3)
            break
        else:
            pytest.fail(f"image {number} is neither a shift nor a mirrored shift")
    assert min(found.values()) > len(images) // 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_radius": 0.3, "max_radius": 0.2}, "min_radius"),
        ({"noise": -1}, "noise"),
        ({"clutter": 99}, "clutter"),
        ({"difficulty": 3}, "difficulty"),
    ],
)
def test_bad_difficulty_is_named(options, words) -> None:
    with pytest.raises(ValidationError, match=words):
        ShapesConfig(**options)


def test_a_task_that_the_data_lacks_is_refused() -> None:
    with pytest.raises(ValidationError, match="'digits' has targets for classification"):
        DataConfig(task="segmentation")
    with pytest.raises(ConfigError, match="did you mean 'segmentation'"):
        get_task("segmentatoin")
    assert get_task("seg").name == "segmentation"


class Maps(nn.Module):
    """A small network that gives maps at half the size, or logits from their largest values."""

    def __init__(self, outputs: int, task: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 5, 2, 2), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 24, 5, 1, 2), nn.BatchNorm2d(24), nn.ReLU(),
            nn.Conv2d(24, outputs, 5, 1, 2),
        )  # fmt: skip
        self.task = task

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.body(x)
        return maps.mean((2, 3)) if self.task == "classification" else maps


@pytest.mark.parametrize("task", list(TASKS))
def test_each_task_trains_in_the_one_loop_and_is_scored_by_its_metric(task) -> None:
    data = shapes(task)
    torch.manual_seed(0)
    net = Maps(data.num_classes, task)
    metric = TASKS[task].metric

    def judge(model: nn.Module) -> dict[str, float]:
        found = measure_split(model, data, "validation", batch_size=64)
        return {f"validation_{name}": value for name, value in found.items()}

    config = TrainConfig(epochs=3, batch_size=32, optimizer="adamw", lr=0.01, weight_decay=0.0)
    loader = data.loader("train", batch_size=32)
    result = train(net, loader, config, task=task, evaluate=judge, metric=f"validation_{metric}")
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert 0 <= result.history[-1][f"validation_{metric}"] <= 1
    assert result.best_epoch is not None


def test_the_loss_does_not_depend_on_how_images_are_grouped() -> None:
    for task in TASKS:
        data = shapes(task)
        torch.manual_seed(0)
        net = Maps(data.num_classes, task).eval().double()
        images, targets = next(iter(data.loader("train", batch_size=12)))
        images = images.double()
        rules = TASKS[task]
        whole = rules.losses(net(images), targets, image_size=(64, 64))
        parts = [
            rules.losses(net(x), y, image_size=(64, 64))
            for x, y in zip(images.split(5), targets.split(5), strict=True)
        ]
        assert whole.shape == (12,)
        assert torch.allclose(whole, torch.cat(parts), rtol=1e-6)
        mean = rules.loss(net(images), targets, image_size=(64, 64))
        assert torch.allclose(mean, whole.mean())


def test_label_smoothing_belongs_to_classes() -> None:
    data = shapes("keypoints")
    config = TrainConfig(epochs=1, label_smoothing=0.1)
    net = Maps(data.num_classes, "keypoints")
    with pytest.raises(InputError, match=r"label_smoothing is for classes, got 0\.1"):
        train(net, data.loader("train", batch_size=32), config, task="keypoints")

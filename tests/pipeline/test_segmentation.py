"""Segmentation sets in their real folders, and their figures against slow twins."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from supertickets.data import DataConfig, load_data
from supertickets.errors import DataError, InputError, RunError
from supertickets.evaluate import measure_split, segmentation
from supertickets.evaluate.segmentation import confusion
from supertickets.tasks import IGNORED, TASKS
from tests.pipeline.task_data import (
    CITYSCAPES_IDS,
    save,
    write_ade20k,
    write_camvid,
    write_cityscapes,
    write_masks,
)


def target_of(file: Path, table: dict[int, int]) -> torch.Tensor:
    """What a mask file means, pixel by pixel."""
    values = np.asarray(Image.open(file))
    return torch.tensor([[table.get(int(value), IGNORED) for value in row] for row in values])


def test_cityscapes_becomes_19_classes(tmp_path) -> None:
    write_cityscapes(tmp_path)
    data = load_data(DataConfig(name="cityscapes", path=tmp_path, image_size=(16, 32)))
    assert (data.task, data.num_classes, data.image_size) == ("segmentation", 19, (16, 32))
    assert (data.class_names[0], data.class_names[18]) == ("road", "bicycle")
    table = {label: number for number, label in enumerate(CITYSCAPES_IDS)}
    batches = list(data.loader("test", batch_size=8))
    assert [tuple(images.shape) for images, _ in batches] == [(1, 3, 32, 64)] * 2  # whole images
    files = sorted((tmp_path / "gtFine" / "val").rglob("*labelIds.png"))
    for (_, mask), file in zip(batches, files, strict=True):
        assert torch.equal(mask[0], target_of(file, table))
    images, masks = next(iter(data.loader("train", batch_size=2)))
    assert images.shape == (2, 3, 16, 32)
    assert masks.shape == (2, 16, 32)
    assert set(masks.unique().tolist()) <= {*range(19), IGNORED}


def test_ade20k_ignores_0_and_reads_images_of_any_size(tmp_path) -> None:
    write_ade20k(tmp_path)
    data = load_data(DataConfig(name="ade20k", path=tmp_path, image_size=32))
    assert (data.num_classes, data.image_size) == (150, (32, 32))
    batches = list(data.loader("test", batch_size=4))
    assert [tuple(images.shape[2:]) for images, _ in batches] == [(30, 50), (37, 45)]
    files = sorted((tmp_path / "annotations" / "validation").iterdir())
    table = {value: value - 1 for value in range(1, 151)}
    for (_, mask), file in zip(batches, files, strict=True):
        assert torch.equal(mask[0], target_of(file, table))
    names = [f"{number}\t0.1\t10\t2\t1\tname {number}, other" for number in range(150)]
    (tmp_path / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n" + "\n".join(names)
    )
    assert load_data(DataConfig(name="ade20k", path=tmp_path)).class_names[7] == "name 7"


def test_camvid_keeps_its_splits_and_ignores_11(tmp_path) -> None:
    write_camvid(tmp_path)
    data = load_data(DataConfig(name="camvid", path=tmp_path))
    assert (len(data.train), len(data.validation), len(data.test)) == (4, 2, 2)
    assert (data.num_classes, data.image_size, data.augmentation) == (11, (24, 32), "crop-flip")
    _, masks = next(iter(data.loader("validation", batch_size=2)))
    files = sorted((tmp_path / "valannot").iterdir())
    expected = [target_of(file, {value: value for value in range(11)}) for file in files]
    assert torch.equal(masks, torch.stack(expected))


def test_a_random_part_keeps_image_and_mask_together(tmp_path) -> None:
    """Where the image is an enlarged copy of its mask, every part of it still is."""
    rng = np.random.default_rng(5)
    for split in ("train", "val"):
        for number in range(2):
            mask = np.kron(rng.integers(0, 19, (5, 7)), np.ones((16, 16))).astype(np.uint8)
            ids = np.array(CITYSCAPES_IDS, dtype=np.uint8)[mask]
            stem = f"a_{number:06}_000019"
            grey = np.repeat((mask * 10 + 40)[:, :, None], 3, axis=2)
            save(tmp_path / "leftImg8bit" / split / "a" / f"{stem}_leftImg8bit.png", grey)
            save(tmp_path / "gtFine" / split / "a" / f"{stem}_gtFine_labelIds.png", ids)
    config = DataConfig(
        name="cityscapes", path=tmp_path, image_size=(96, 120), mean=(0, 0, 0), std=(1, 1, 1)
    )
    loader = load_data(config).loader("train", batch_size=1)
    outside, inside = 0, 0
    for epoch in range(12):
        loader.set_epoch(epoch)
        for images, masks in loader:
            levels = (images[:, 0] * 255).round()
            padding = masks == IGNORED
            assert (levels[padding] == 0).all()
            wanted = torch.where(padding, 0, masks * 10 + 40)
            # bilinear pixels beside a border of two classes lie between them
            assert ((levels - wanted).abs() < 5).float().mean() > 0.6
            outside += int(padding.sum())
            inside += int((~padding).sum())
    assert outside > 0
    assert inside > outside


def slow_figures(answers: torch.Tensor, masks: torch.Tensor, classes: int) -> tuple[float, ...]:
    """The figures, class by class and set by set."""
    counted = masks != IGNORED
    unions, shares = [], []
    for number in range(classes):
        true, told = (masks == number) & counted, (answers == number) & counted
        if (true | told).any():
            unions.append(int((true & told).sum()) / int((true | told).sum()))
        if true.any():
            shares.append(int((true & told).sum()) / int(true.sum()))
    right = int(((answers == masks) & counted).sum()) / int(counted.sum())
    return sum(unions) / len(unions), sum(shares) / len(shares), right


@pytest.mark.parametrize("classes", [2, 5, 19])
def test_figures_equal_the_slow_twin(classes) -> None:
    rng = torch.Generator().manual_seed(classes)
    logits = torch.randn(7, classes, 6, 10, generator=rng)
    masks = torch.randint(0, max(2, classes - 1), (7, 12, 20), generator=rng)  # the last is missing
    masks[torch.rand(masks.shape, generator=rng) < 0.2] = IGNORED
    batches = [(logits[:4], masks[:4]), (logits[4:], masks[4:])]
    found = segmentation(nn.Identity(), batches)
    answers = F.interpolate(logits, (12, 20), mode="bilinear").argmax(1)
    expected = slow_figures(answers, masks, classes)
    assert (found.miou, found.macc, found.aacc) == pytest.approx(expected, rel=1e-12)
    assert found.pixels == int((masks != IGNORED).sum())
    per_image = [
        F.cross_entropy(
            F.interpolate(x[None], (12, 20), mode="bilinear"), y[None], ignore_index=IGNORED
        )
        for x, y in zip(logits, masks, strict=True)
    ]
    assert found.loss == pytest.approx(float(torch.stack(per_image).mean()), rel=1e-6)


def test_confusion_counts_every_pair() -> None:
    answers = torch.tensor([[0, 1, 2], [2, 2, 0]])
    masks = torch.tensor([[0, 2, 2], [IGNORED, 1, 0]])
    assert confusion(answers, masks, 3).tolist() == [[2, 0, 0], [0, 0, 1], [0, 1, 1]]


def test_a_class_that_occurs_nowhere_is_left_out_of_the_mean() -> None:
    logits = torch.zeros(1, 4, 2, 2)
    logits[0, 1] = 1
    found = segmentation(nn.Identity(), [(logits, torch.tensor([[[1, 1], [0, 1]]]))])
    assert found.miou == pytest.approx((3 / 4 + 0) / 2)
    assert [math.isnan(value) for value in found.iou] == [False, False, True, True]


def test_ignored_pixels_give_no_gradient() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    masks = torch.randint(0, 3, (2, 4, 4))
    masks[0, :2] = IGNORED
    masks[1] = IGNORED
    losses = TASKS["segmentation"].losses(logits, masks, image_size=(4, 4))
    losses.sum().backward()
    assert losses[1] == 0
    assert (logits.grad[0, :, :2] == 0).all()
    assert (logits.grad[0, :, 2:] != 0).all()
    assert (logits.grad[1] == 0).all()


@pytest.mark.parametrize(
    ("batches", "error", "words"),
    [
        ([], InputError, "no image"),
        ([(torch.zeros(1, 2, 2, 2), torch.full((1, 2, 2), IGNORED))], InputError, "no pixel"),
        ([(torch.zeros(1, 2, 2, 2), torch.full((1, 2, 2), 2))], InputError, "class 2, beyond"),
        ([(torch.zeros(1, 2), torch.zeros(1, 2, 2).long())], Exception, "logits"),
        ([(torch.full((1, 2, 2, 2), math.nan), torch.zeros(1, 2, 2).long())], RunError, "NaN"),
    ],
)
def test_unusable_answers_are_named(batches, error, words) -> None:
    class Flat(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    batches = [
        (x if x.dim() == 4 else x[:, :, None, None].expand(1, 2, 1, 1), y) for x, y in batches
    ]
    if words == "logits":
        model: nn.Module = nn.Flatten()
    else:
        model = Flat()
    with pytest.raises(error, match=words):
        segmentation(model, batches)


# --- bad input --------------------------------------------------------------------------


def small_masks() -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    masks = [rng.integers(0, 3, (8, 12), dtype=np.uint8) for _ in range(6)]
    masks[0][0, 0] = IGNORED
    return masks


def folder(
    path: Path, masks: list[np.ndarray], names: tuple[str, ...] = ("a", "b", "c")
) -> DataConfig:
    write_masks(path, masks, names)
    return DataConfig(name="masks", path=path)


def test_a_plain_folder_of_masks_is_divided(tmp_path) -> None:
    data = load_data(folder(tmp_path, small_masks()))
    assert len(data.train) + len(data.validation) + len(data.test) == 6
    assert data.class_names == ("a", "b", "c")
    figures = measure_split(nn.Conv2d(3, 3, 1), data, "test", batch_size=4)
    assert {"miou", "macc", "aacc", "loss", "count"} == set(figures)


def test_a_value_beyond_the_classes_names_file_and_value(tmp_path) -> None:
    masks = small_masks()
    masks[4][3, 3] = 9
    with pytest.raises(DataError, match=r"4\.png: the mask holds 9, expected numbers from 0 to 2"):
        load_data(folder(tmp_path, masks))


def test_a_class_in_no_mask_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match=r"class 'd' \(3\) is named in classes\.txt but occurs in"):
        load_data(folder(tmp_path, small_masks(), ("a", "b", "c", "d")))


def test_a_mask_of_another_size_names_both_files(tmp_path) -> None:
    config = folder(tmp_path, small_masks())
    save(tmp_path / "masks" / "train" / "2.png", np.zeros((8, 11), dtype=np.uint8))
    with pytest.raises(
        DataError, match=r"masks.train.2\.png: 8 x 11 pixels, expected 8 x 12 as its"
    ):
        load_data(config)


def test_images_of_other_sizes_need_an_image_size(tmp_path) -> None:
    masks = small_masks()
    masks[5] = np.zeros((9, 12), dtype=np.uint8)
    config = folder(tmp_path, masks)
    with pytest.raises(DataError, match=r"9 x 12 pixels, expected 8 x 12.*set data\.image_size"):
        load_data(config)
    sized = load_data(config.model_copy(update={"image_size": 8}))
    images, targets = next(iter(sized.loader("train", batch_size=3)))
    assert images.shape[2:] == targets.shape[1:] == (8, 8)


def test_missing_and_damaged_files_are_named(tmp_path) -> None:
    config = folder(tmp_path, small_masks())
    mask = tmp_path / "masks" / "train" / "1.png"
    whole = mask.read_bytes()
    mask.write_bytes(whole[:40])
    with pytest.raises(DataError, match=r"masks.train.1\.png: no readable image"):
        load_data(config)
    save(mask, np.zeros((8, 12, 3), dtype=np.uint8))
    with pytest.raises(DataError, match="one class number per pixel is expected"):
        load_data(config)
    mask.unlink()
    with pytest.raises(DataError, match=r"images.train.1\.png: its mask is expected at"):
        load_data(config)
    (tmp_path / "classes.txt").unlink()
    mask.write_bytes(whole)
    with pytest.raises(DataError, match=r"no file 'classes\.txt' with a class name per line"):
        load_data(config)


def test_a_foreign_value_in_a_lazy_set_is_named_when_it_is_read(tmp_path) -> None:
    write_cityscapes(tmp_path)
    file = next(iter(sorted((tmp_path / "gtFine" / "val").rglob("*labelIds.png"))))
    save(file, np.full((32, 64), 40, dtype=np.uint8))
    data = load_data(DataConfig(name="cityscapes", path=tmp_path))
    with pytest.raises(DataError, match=r"labelIds\.png: the mask holds 40, expected label ids"):
        list(data.loader("test", batch_size=1))


@pytest.mark.parametrize("name", ["cityscapes", "ade20k", "camvid", "masks", "coco"])
def test_an_empty_folder_is_no_data_set(tmp_path, name) -> None:
    with pytest.raises(DataError, match=r"no f(older|ile)"):
        load_data(DataConfig(name=name, path=tmp_path))
    with pytest.raises(DataError, match=r"data\.path: no folder"):
        load_data(DataConfig(name=name, path=tmp_path / "nowhere"))

"""What augmentation may and may not do to an image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from supertickets.data.augment import crop_boxes, draw, resized_crop, vary


@pytest.fixture
def images() -> torch.Tensor:
    # No zeros, so that padding can be told from pixels.
    shape = (200, 3, 16, 12)
    return torch.randint(1, 256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def _shifts(image: torch.Tensor, down: int, across: int) -> list[torch.Tensor]:
    padded = F.pad(image, (across, across, down, down))
    return [
        padded[:, top : top + image.shape[1], left : left + image.shape[2]]
        for top in range(2 * down + 1)
        for left in range(2 * across + 1)
    ]


def test_crop_gives_each_image_shifted_by_at_most_an_eighth(images) -> None:
    varied, _ = vary(images, torch.zeros(200), draw(200, 0, 0), "crop")
    seen = set()
    for image, result in zip(images, varied, strict=True):
        same = [torch.equal(result, shift) for shift in _shifts(image, 2, 2)]
        assert any(same)
        seen.add(same.index(True))
    assert len(seen) == 25


def test_flip_mirrors_half_of_the_images_and_changes_no_other(images) -> None:
    draws = draw(200, 0, 0)
    draws[:, :2] = 0.5  # the middle of the padding: not shifted
    varied, _ = vary(images, torch.zeros(200), draws, "crop-flip")
    mirrored = [torch.equal(a.flip(2), b) for a, b in zip(images, varied, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(images, varied, strict=True)]
    assert all(one != other for one, other in zip(mirrored, kept, strict=True))
    assert 70 <= sum(mirrored) <= 130


def test_crop_boxes_are_inside_the_image_and_keep_area_and_aspect_in_range() -> None:
    top, left, tall, wide = crop_boxes(300, 400, draw(5000, 0, 0)).unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + tall <= 300 + 1e-9).all()
    assert (left + wide <= 400 + 1e-9).all()
    area, aspect = tall * wide / (300 * 400), wide / tall
    assert (area <= 1 + 1e-9).all()
    whole = (tall < 300) & (wide < 400)
    assert area[whole].min() >= 0.08 - 1e-9
    assert aspect[whole].min() >= 3 / 4 - 1e-9
    assert aspect[whole].max() <= 4 / 3 + 1e-9
    assert area.mean() == pytest.approx(0.54, abs=0.03)  # uniform in [0.08, 1], a little shortened


def test_resized_crop_of_the_whole_image_is_the_image(images) -> None:
    draws = torch.tensor([[0.3, 0.3, 0.9, 1.0, 0.5]]).expand(200, 5)
    square = images[:, :, :12]
    assert torch.equal(resized_crop(square, draws), square)


def test_resized_crop_follows_its_box() -> None:
    ramp = torch.arange(0, 256, 4).to(torch.uint8).expand(1, 1, 64, 64)
    draws = torch.tensor([[0.0, 1.0, 0.0, 0.184782609, 0.5]])  # a quarter of the area, at the right
    cut = resized_crop(ramp, draws)[0, 0, 0].float()
    assert cut[0] == pytest.approx(4 * 32, abs=2)
    assert cut[-1] == pytest.approx(4 * 63, abs=2)
    assert (cut.diff() >= 0).all()


def test_draws_of_one_sample_depend_on_seed_and_epoch() -> None:
    assert torch.equal(draw(10, 3, 5), draw(10, 3, 5))
    assert not torch.equal(draw(10, 3, 5), draw(10, 3, 6))
    assert not torch.equal(draw(10, 3, 5), draw(10, 4, 5))

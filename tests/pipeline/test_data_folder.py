"""Folders of image files: layouts, modes, damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from supertickets.data import DataConfig, ImageData, load_data
from supertickets.errors import DataError


def _write(
    folder: Path,
    *,
    classes: tuple[str, ...] = ("cat", "dog"),
    count: int = 6,
    size: tuple[int, int] = (10, 8),
    mode: str = "RGB",
    suffix: str = "png",
) -> None:
    """Write ``count`` images of ``size`` (width, height) per class."""
    random = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            image = Image.fromarray(pixels).convert(mode)
            image.save(folder / name / f"{number}.{suffix}")


def _load(path: Path, name: str = "folder", **values: Any) -> ImageData:
    return load_data(DataConfig(name=name, path=path, **values))


def _sizes(data: ImageData) -> tuple[int, int, int]:
    return len(data.train), len(data.validation), len(data.test)


def test_one_folder_per_class_is_divided_in_three(tmp_path) -> None:
    _write(tmp_path, count=10)
    data = _load(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert (data.channels, data.image_size) == (3, (8, 10))
    assert _sizes(data) == (14, 2, 4)
    for split in (data.train, data.validation, data.test):
        assert torch.bincount(split.labels).unique().numel() == 1  # both classes alike


def test_pixels_are_those_of_the_file(tmp_path) -> None:
    _write(tmp_path / "train")
    _write(tmp_path / "test", count=1)
    data = _load(tmp_path)
    with Image.open(tmp_path / "test" / "dog" / "0.png") as image:
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(data.test.images[1], expected)


@pytest.mark.parametrize(
    ("folders", "sizes"),
    [
        ({"train": 8, "val": 3, "test": 4}, (16, 6, 8)),
        ({"train": 8, "validation": 3, "test": 4}, (16, 6, 8)),
        ({"train": 8, "test": 4}, (14, 2, 8)),
        ({"train": 8, "val": 3}, (14, 2, 6)),  # val is kept for the final figures
        ({"train": 8}, (10, 2, 4)),
    ],
)
def test_splits_of_the_folders_are_kept_and_missing_ones_cut_off_train(
    tmp_path, folders, sizes
) -> None:
    for name, count in folders.items():
        _write(tmp_path / name, count=count)
    assert _sizes(_load(tmp_path)) == sizes


def test_files_are_found_at_any_depth_and_others_passed_over(tmp_path) -> None:
    _write(tmp_path)
    (tmp_path / "cat" / "more").mkdir()
    (tmp_path / "cat" / "0.png").rename(tmp_path / "cat" / "more" / "a.PNG")
    (tmp_path / "cat" / "boxes.txt").write_text("0 0 1 1")
    (tmp_path / "cat" / ".cache").mkdir()
    (tmp_path / "cat" / ".cache" / "0.png").write_bytes(b"no image")
    (tmp_path / ".hidden").mkdir()
    assert sum(_sizes(_load(tmp_path))) == 12


@pytest.mark.parametrize(
    ("modes", "channels"),
    [
        (("L", "L"), 1),
        (("L", "RGB"), 3),
        (("RGB", "RGB"), 3),
        (("RGBA", "RGBA"), 3),
        (("P", "P"), 3),
        (("L", "P"), 3),
        (("1", "1"), 3),
    ],
)
def test_channels_are_one_only_if_all_files_are_grey(tmp_path, modes, channels) -> None:
    for name, mode in zip(("cat", "dog"), modes, strict=True):
        _write(tmp_path, classes=(name,), mode=mode)
    data = _load(tmp_path)
    assert data.channels == channels
    images, _ = next(iter(data.loader("train", batch_size=4)))
    assert images.shape == (4, channels, 8, 10)


def test_transparent_parts_become_white(tmp_path) -> None:
    _write(tmp_path / "train")
    for name in ("cat", "dog"):
        (tmp_path / "test" / name).mkdir(parents=True)
    Image.new("RGBA", (10, 8), (0, 0, 0, 0)).save(tmp_path / "test" / "cat" / "0.png")
    palette = Image.new("P", (10, 8), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "test" / "dog" / "0.png")
    palette.save(tmp_path / "test" / "dog" / "1.png", transparency=1)
    white, red, white_too = _load(tmp_path).test.images
    assert (white == 255).all()
    assert red[:, 0, 0].tolist() == [255, 0, 0]
    assert (white_too == 255).all()


def test_image_size_covers_and_cuts_the_centre(tmp_path) -> None:
    _write(tmp_path / "train", size=(40, 20))
    _write(tmp_path / "test", classes=("dog",), count=1, size=(20, 50))
    stripes = np.zeros((20, 40, 3), dtype=np.uint8)
    stripes[:, 10:30] = 255  # exactly the central square
    (tmp_path / "test" / "cat").mkdir()
    Image.fromarray(stripes).save(tmp_path / "test" / "cat" / "0.png")
    data = _load(tmp_path, image_size=10)
    assert data.image_size == (10, 10)
    assert data.test.images[0, :, :, 1:-1].min() == 255


def test_reading_when_needed_gives_what_reading_at_once_gives(tmp_path) -> None:
    _write(tmp_path, count=12)
    eager, lazy = (_load(tmp_path, lazy=choice, augment="crop-flip") for choice in (False, True))
    assert eager.normalisation == lazy.normalisation
    for split in ("train", "validation", "test"):
        pairs = zip(
            eager.loader(split, batch_size=5), lazy.loader(split, batch_size=5), strict=True
        )
        for (images, labels), (images2, labels2) in pairs:
            assert torch.equal(images, images2)
            assert torch.equal(labels, labels2)


def test_worker_processes_change_nothing(tmp_path) -> None:
    _write(tmp_path, count=12, size=(20, 30), suffix="jpg")
    loaders = [
        _load(
            tmp_path, lazy=True, image_size=16, augment="resized-crop-flip", workers=workers
        ).loader("train", batch_size=4, seed=3)
        for workers in (0, 2)
    ]
    state = torch.get_rng_state()
    alone, helped = (list(loader) for loader in loaders)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(alone) == len(helped) == len(loaders[0])
    for (images, labels), (images2, labels2) in zip(alone, helped, strict=True):
        assert torch.equal(images, images2)
        assert torch.equal(labels, labels2)


def test_resized_crop_of_a_file_depends_on_epoch_and_sample_alone(tmp_path) -> None:
    _write(tmp_path, count=12, size=(20, 30))
    data = _load(tmp_path, lazy=True, image_size=16, augment="resized-crop-flip")

    def epoch(number: int, batch_size: int = 4) -> torch.Tensor:
        loader = data.loader("train", batch_size=batch_size, shuffle=False)
        loader.set_epoch(number)
        return torch.cat([images for images, _ in loader])

    assert not torch.equal(epoch(0), epoch(1))
    assert torch.equal(epoch(0), epoch(0))
    assert torch.equal(epoch(0), epoch(0, batch_size=8))


@pytest.mark.parametrize("workers", [0, 2])
def test_file_that_breaks_when_it_is_needed_is_named(tmp_path, workers) -> None:
    _write(tmp_path, count=12)
    data = _load(tmp_path, lazy=True, workers=workers)
    broken = data.test.files[0]
    with open(broken, "r+b") as stream:  # noqa: PTH123 - the loader keeps paths as text
        stream.truncate(60)
    with pytest.raises(DataError, match=r"\.png: no readable image") as error:
        list(data.loader("test", batch_size=4))
    assert str(error.value).startswith(broken)


def test_imagenet_layout_is_read_when_needed(tmp_path) -> None:
    classes = ("n01440764", "n01443537")
    _write(tmp_path / "train", classes=classes, count=8, size=(60, 40), suffix="JPEG")
    _write(tmp_path / "val", classes=classes, count=2, size=(40, 60), suffix="JPEG")
    data = _load(tmp_path, "imagenet")
    assert (data.channels, data.image_size, data.class_names) == (3, (224, 224), classes)
    assert _sizes(data) == (14, 2, 4)
    assert data.normalisation.source == "ImageNet constants"
    images, labels = next(iter(data.loader("train", batch_size=3)))
    assert images.shape == (3, 3, 224, 224)
    assert labels.shape == (3,)


def test_imagenet_evaluation_leaves_out_a_margin(tmp_path) -> None:
    """Whole images are resized to 256/224 of the cut, so a thin frame is never seen."""
    framed = np.full((64, 64, 3), 255, dtype=np.uint8)
    framed[3:-3, 3:-3] = 0
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(2):
                Image.fromarray(framed).save(tmp_path / split / name / f"{number}.png")
    data = _load(tmp_path, "imagenet", image_size=56)
    ((images, _),) = data.test.read([torch.arange(4)])
    assert images.max() == 0


def _empty_class(root) -> None:
    (root / "bird").mkdir()


def _text_as_image(root) -> None:
    (root / "cat" / "x.png").write_text("this is no image")


def _cut_short(root) -> None:
    file = root / "cat" / "0.png"
    file.write_bytes(file.read_bytes()[:100])


def _other_size(root) -> None:
    Image.new("RGB", (9, 8)).save(root / "dog" / "odd.png")


def _deep(root) -> None:
    Image.fromarray(np.zeros((8, 10), dtype=np.uint16)).save(root / "cat" / "deep.png")


def _one_image(root) -> None:
    _write(root, classes=("rare",), count=1)


def _two_images(root) -> None:
    _write(root, classes=("rare",), count=2)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_empty_class, r"class 'bird' is empty: no image file"),
        (_text_as_image, r"x\.png: no readable image"),
        (_cut_short, r"0\.png: no readable image"),
        (_other_size, r"0\.png is 8 x 10, .*odd\.png is 8 x 9 .*set data\.image_size"),
        (_deep, r"deep\.png: 8 bits per channel are expected, got Pillow mode 'I;16'"),
        (_one_image, r"class 'rare' has 1 image.* test split"),
        (_two_images, r"class 'rare' has 1 image.* validation split"),
    ],
)
def test_damage_is_named(tmp_path, damage, words) -> None:
    _write(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=words):
        _load(tmp_path)


def test_one_class_is_too_few(tmp_path) -> None:
    _write(tmp_path, classes=("cat",))
    with pytest.raises(DataError, match=r"at least 2 classes are needed, got \['cat'\]"):
        _load(tmp_path)


def test_splits_must_have_the_same_classes(tmp_path) -> None:
    _write(tmp_path / "train")
    _write(tmp_path / "test", classes=("cat", "cow", "dog"))
    with pytest.raises(DataError, match="only one of them has 'cow'"):
        _load(tmp_path)


@pytest.mark.parametrize("name", ["folder", "imagenet"])
def test_missing_folders_are_named(tmp_path, name) -> None:
    with pytest.raises(DataError, match=r"data\.path: no folder .*nowhere"):
        _load(tmp_path / "nowhere", name)
    with pytest.raises(DataError, match=r"class folders|no folder .*train"):
        _load(tmp_path, name)

"""A data config is validated whole, before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from supertickets.data import DataConfig


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "digit"}, "digits"),
        ({"nmae": "digits"}, "nmae"),
        ({"validation_fraction": 0.0}, "validation_fraction"),
        ({"test_fraction": 1.0}, "test_fraction"),
        ({"image_size": 0}, "image_size"),
        ({"workers": -1}, "workers"),
        ({"augment": "flip"}, "crop-flip"),
        ({"name": "folder"}, "data.path"),
        ({"name": "imagenet"}, "data.path"),
        ({"name": "digits", "path": "somewhere"}, "data.path"),
        ({"name": "cifar10", "lazy": True}, "data.lazy"),
    ],
)
def test_bad_values_are_named(values, words) -> None:
    with pytest.raises(ValidationError, match=words):
        DataConfig(**values)


@pytest.mark.parametrize(
    ("name", "usual"),
    [("digits", "crop"), ("cifar100", "crop-flip"), ("imagenet", "resized-crop-flip")],
)
def test_augmentation_suits_the_data_unless_it_is_given(name, usual) -> None:
    path = Path("x") if name == "imagenet" else None
    assert DataConfig(name=name, path=path).augmentation == usual
    assert DataConfig(name=name, path=path, augment="none").augmentation == "none"

"""What can be said about a data set in a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, model_validator

from supertickets.data.augment import Augmentation
from supertickets.data.shapes import ShapesConfig
from supertickets.tasks import TaskName

DatasetName = Literal["digits", "shapes", "folder", "cifar10", "cifar100", "imagenet", "idx"]

_USUAL_AUGMENTATION: dict[DatasetName, Augmentation] = {
    "digits": "crop",
    "shapes": "crop-flip",
    "idx": "crop",
    "folder": "crop",  # a mirrored photo may be of another class; the user knows, we do not
    "cifar10": "crop-flip",
    "cifar100": "crop-flip",
    "imagenet": "resized-crop-flip",
}

_TASKS_OF: dict[DatasetName, tuple[TaskName, ...]] = {
    "digits": ("classification",),
    "shapes": ("classification", "segmentation", "keypoints"),
    "idx": ("classification",),
    "folder": ("classification",),
    "cifar10": ("classification",),
    "cifar100": ("classification",),
    "imagenet": ("classification",),
}


class DataConfig(BaseModel, extra="forbid"):
    """Which images are used, how they are divided, and how training images are varied.

    Attributes:
        name: ``digits`` (ships with scikit-learn), ``shapes`` (drawn from a seed), ``folder``
            (``root/class/*.png`` or ``root/train|val|test/class/*.png``), ``cifar10`` and
            ``cifar100`` (published binary version), ``imagenet`` (``root/train|val/class/*.JPEG``,
            read when needed) or ``idx`` (MNIST and its relatives, plain or ``.gz``).
        task: What is asked about the images; ``shapes`` has targets for all three tasks, the others
            for one. ``None``: what the data set is for; for ``shapes``: classification.
        shapes: How many images of shapes there are, and how hard they are.
        path: Folder of the files. Required by ``folder`` and ``imagenet``; without it CIFAR and IDX
            files are looked for in the usual places; ``digits`` takes none.
        image_size: Height and width in pixels: the short side is resized to it (ImageNet: to
            256/224 of it) and the centre is cut out. ``None`` keeps the size of the files, except
            for ``imagenet``: 224.
        validation_fraction: Share of each class's training images that becomes the validation
            split, where the files do not have one.
        test_fraction: Share of each class's images that becomes the test split, where the files do
            not have one. A folder with ``train`` and ``val`` only: ``val`` is the test split.
        augment: How training images are varied. ``crop``: pad by an eighth and crop; ``flip``:
            mirror every second image; ``resized-crop``: a random part, resized. ``auto``: ``crop``
            for ``digits``, ``idx`` and ``folder``, ``crop-flip`` for CIFAR, ``resized-crop-flip``
            for ``imagenet``.
        split_seed: Decides which images go to which split.
        lazy: Whether image files are decoded when needed instead of once into memory. ``None``:
            for ``imagenet``, and for folders of more than 1 GiB of decoded pixels.
        workers: Processes that decode image files; 0 decodes in the calling process.
        mean: Per channel, of pixels in ``[0, 1]``: what the weights were trained with. ``None``:
            measured on the train split, or ImageNet's constants for ``imagenet``.
        std: Per channel, given together with ``mean``.
    """

    name: DatasetName = "digits"
    task: TaskName | None = None
    shapes: ShapesConfig = Field(default_factory=ShapesConfig)
    path: Path | None = None
    image_size: int | None = Field(default=None, ge=1)
    validation_fraction: float = Field(default=0.15, gt=0, lt=1)
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    augment: Literal[Augmentation, "auto"] = "auto"
    split_seed: int = 0
    lazy: bool | None = None
    workers: int = Field(default=0, ge=0)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _path_fits_name(self) -> DataConfig:
        if self.name in ("folder", "imagenet") and self.path is None:
            raise ValueError(f"data.path must name the folder of images for {self.name!r}")
        if self.name in ("digits", "shapes") and self.path is not None:
            raise ValueError(f"data.path must not be set for {self.name!r}, got {str(self.path)!r}")
        if self.name not in ("folder", "imagenet") and self.lazy:
            raise ValueError(f"data.lazy is for image files; {self.name!r} is held in memory")
        return self

    @model_validator(mode="after")
    def _task_fits_name(self) -> DataConfig:
        known = _TASKS_OF[self.name]
        if self.task is not None and self.task not in known:
            raise ValueError(
                f"data.task: {self.name!r} has targets for {' and '.join(known)}, got {self.task!r}"
            )
        if self.task_name != "classification" and self.augmentation == "resized-crop-flip":
            raise ValueError(
                f"data.augment 'resized-crop-flip' is for classification, got it for {self.task!r}"
            )
        return self

    @model_validator(mode="after")
    def _mean_goes_with_std(self) -> DataConfig:
        if (self.mean is None) != (self.std is None):
            raise ValueError("data.mean and data.std must be given together")
        if self.mean is not None and self.std is not None:
            if len(self.mean) != len(self.std) or not self.mean:
                raise ValueError(
                    f"data.mean and data.std must have a number per channel, got {self.mean} "
                    f"and {self.std}"
                )
            if min(self.std) <= 0:
                raise ValueError(f"data.std must be positive, got {self.std}")
        return self

    @property
    def augmentation(self) -> Augmentation:
        """The augmentation that ``augment`` stands for."""
        return _USUAL_AUGMENTATION[self.name] if self.augment == "auto" else self.augment

    @property
    def task_name(self) -> TaskName:
        """The task that ``task`` stands for."""
        return self.task or _TASKS_OF[self.name][0]

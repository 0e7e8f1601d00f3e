"""What can be said about a data set in a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from supertickets.data.augment import Augmentation
from supertickets.data.shapes import ShapesConfig
from supertickets.tasks import TaskName

DatasetName = Literal[
    "digits",
    "shapes",
    "folder",
    "cifar10",
    "cifar100",
    "imagenet",
    "idx",
    "cityscapes",
    "ade20k",
    "camvid",
    "masks",
    "coco",
]

Size = Annotated[int, Field(ge=1)]

_USUAL_AUGMENTATION: dict[DatasetName, Augmentation] = {
    "digits": "crop",
    "shapes": "crop-flip",
    "idx": "crop",
    "folder": "crop",  # a mirrored photo may be of another class; the user knows, we do not
    "cifar10": "crop-flip",
    "cifar100": "crop-flip",
    "imagenet": "resized-crop-flip",
    "cityscapes": "scale-crop-flip",
    "ade20k": "scale-crop-flip",
    "camvid": "crop-flip",
    "masks": "crop-flip",
    "coco": "scale-turn-flip",
}

_TASKS_OF: dict[DatasetName, tuple[TaskName, ...]] = {
    "digits": ("classification",),
    "shapes": ("classification", "segmentation", "keypoints"),
    "idx": ("classification",),
    "folder": ("classification",),
    "cifar10": ("classification",),
    "cifar100": ("classification",),
    "imagenet": ("classification",),
    "cityscapes": ("segmentation",),
    "ade20k": ("segmentation",),
    "camvid": ("segmentation",),
    "masks": ("segmentation",),
    "coco": ("keypoints",),
}
_NEED_PATH = ("folder", "imagenet", "cityscapes", "ade20k", "camvid", "masks", "coco")
_MAYBE_LAZY = ("folder", "imagenet", "camvid", "masks")
_OBLONG = ("cityscapes", "ade20k", "camvid", "masks", "coco")
_SUITED: dict[Augmentation, tuple[TaskName, ...]] = {
    "resized-crop-flip": ("classification",),
    "scale-crop-flip": ("segmentation",),
    "scale-turn-flip": ("keypoints",),
}


class DataConfig(BaseModel, extra="forbid"):
    """Which images are used, how they are divided, and how training images are varied.

    Attributes:
        name: ``digits`` (ships with scikit-learn), ``shapes`` (drawn from a seed), ``folder``
            (``root/class/*.png`` or ``root/train|val|test/class/*.png``), ``cifar10`` and
            ``cifar100`` (published binary version), ``imagenet`` (``root/train|val/class/*.JPEG``,
            read when needed) or ``idx`` (MNIST and its relatives, plain or ``.gz``); for
            segmentation ``cityscapes``, ``ade20k``, ``camvid`` and ``masks`` (folders of images and
            of index masks); for keypoints ``coco``.
        task: What is asked about the images; ``shapes`` has targets for all three tasks, the others
            for one. ``None``: what the data set is for; for ``shapes``: classification.
        shapes: How many images of shapes there are, and how hard they are.
        path: Folder of the files. Without it CIFAR and IDX files are looked for in the usual
            places; ``digits`` and ``shapes`` take none, all others need it.
        classes: Names of the classes to take, in this order; the others' images are left out. For
            classification; ``None``: all.
        shuffled_labels: Put the training targets in disorder, for a control; the other splits keep
            theirs.
        image_size: Height and width in pixels, one number for both: the short side is resized to it
            (ImageNet: to 256/224 of it) and the centre is cut out. ``None`` keeps the size of the
            files, except for ``imagenet``: 224, and ``shapes``: 64. For segmentation and keypoints
            also ``[height, width]``: what a training image is cut to, while the other splits have
            whole images; ``None``: 512 x 1024 for ``cityscapes``, 512 x 512 for ``ade20k``, 256 x
            192 for ``coco``, the size of the files for the others.
        validation_fraction: Share of each class's training images that becomes the validation
            split, where the files do not have one.
        test_fraction: Share of each class's images that becomes the test split, where the files do
            not have one. A folder with ``train`` and ``val`` only: ``val`` is the test split.
        augment: How training images are varied. ``crop``: pad by an eighth and crop; ``flip``:
            mirror every second image; ``resized-crop``: a random part, resized; ``scale-crop``: a
            part at 0.5 to 2 times the size; ``scale-turn``: persons at 0.65 to 1.35 times the size,
            most of them turned. ``auto``: ``crop`` for ``digits``, ``idx`` and ``folder``,
            ``resized-crop-flip`` for ``imagenet``, ``scale-crop-flip`` for segmentation with an
            ``image_size``, ``scale-turn-flip`` for ``coco``, ``crop-flip`` for the rest.
        split_seed: Decides which images go to which split.
        lazy: Whether image files are decoded when needed instead of once into memory. ``None``:
            for ``imagenet``, and for folders of more than 1 GiB of decoded pixels.
        workers: Processes that decode image files; 0 decodes in the calling process.
        mean: Per channel, of pixels in ``[0, 1]``: what the weights were trained with. ``None``:
            measured on the train split, or ImageNet's constants for ``imagenet`` and for images
            with masks or joints that are not held in memory.
        std: Per channel, given together with ``mean``.
    """

    name: DatasetName = "digits"
    task: TaskName | None = None
    shapes: ShapesConfig = Field(default_factory=ShapesConfig)
    path: Path | None = None
    classes: tuple[str, ...] | None = None
    shuffled_labels: bool = False
    image_size: Size | tuple[Size, Size] | None = None
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
        if self.name in _NEED_PATH and self.path is None:
            raise ValueError(f"data.path must name the folder of images for {self.name!r}")
        if self.name in ("digits", "shapes") and self.path is not None:
            raise ValueError(f"data.path must not be set for {self.name!r}, got {str(self.path)!r}")
        if self.name not in _MAYBE_LAZY and self.lazy:
            raise ValueError(f"data.lazy is for {', '.join(_MAYBE_LAZY)}, got it for {self.name!r}")
        if self.name not in _OBLONG and isinstance(self.image_size, tuple):
            raise ValueError(
                f"data.image_size must be one number for {self.name!r}, got {self.image_size}"
            )
        return self

    @model_validator(mode="after")
    def _task_fits_name(self) -> DataConfig:
        known = _TASKS_OF[self.name]
        if self.task is not None and self.task not in known:
            raise ValueError(
                f"data.task: {self.name!r} has targets for {' and '.join(known)}, got {self.task!r}"
            )
        suited = _SUITED.get(self.augmentation)
        if suited is not None and self.task_name not in suited:
            raise ValueError(
                f"data.augment {self.augmentation!r} is for {' and '.join(suited)}, got it for "
                f"{self.task_name}"
            )
        if self.classes is not None and self.task_name != "classification":
            raise ValueError(f"data.classes is for classification, got it for {self.task_name}")
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
        if self.augment != "auto":
            return self.augment
        if self.name in ("camvid", "masks") and self.image_size is not None:
            return "scale-crop-flip"
        return _USUAL_AUGMENTATION[self.name]

    @property
    def size_pair(self) -> tuple[int, int] | None:
        """Height and width, if a size is given."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size

    @property
    def task_name(self) -> TaskName:
        """The task that ``task`` stands for."""
        return self.task or _TASKS_OF[self.name][0]

    def serves(self, task: TaskName) -> bool:
        """Say whether the data set has targets for a task."""
        return task in _TASKS_OF[self.name]

"""Segmentation sets in their published folders: Cityscapes, ADE20K, CamVid, and plain folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from supertickets.data.decode import image_facts
from supertickets.data.folder import IMAGE_SUFFIXES, existing, image_files
from supertickets.data.masks import UNKNOWN, MaskDecoder, MaskPair
from supertickets.data.source import Source
from supertickets.data.splits import MemorySplit, SampleSplit, Split
from supertickets.errors import DataError
from supertickets.tasks import IGNORED

ImageSize = tuple[int, int]

CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_CITYSCAPES_LAST_ID = 33
CAMVID = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car",
    "pedestrian", "bicyclist",
)  # fmt: skip
_ADE_CLASSES = 150
_NAMES_FILE = "classes.txt"
_MEMORY_LIMIT_BYTES = 2**30


def read_cityscapes(path: Path, *, image_size: ImageSize | None) -> Source:
    """Read ``leftImg8bit`` and ``gtFine`` (labelIds); the 19 classes of the benchmark.

    Args:
        path: The folder of both.
        image_size: Height and width of a training image; ``None``: 512 x 1024.

    Returns:
        Train, and ``val`` as the test split: the masks of the published test split are not public.

    Raises:
        DataError: A folder, or the mask of an image, is missing.

    Source: Cordts et al. 2016, and the labels of its ``cityscapesScripts``.
    """
    root = existing(path)
    splits = {}
    for name, folder in (("train", "train"), ("test", "val")):
        files = _listed(root / "leftImg8bit" / folder, "Cityscapes")
        pairs = []
        for image in (file for file in files if file.endswith("_leftImg8bit.png")):
            city = Path(image).parent.name
            stem = Path(image).name.removesuffix("_leftImg8bit.png")
            mask = root / "gtFine" / folder / city / f"{stem}_gtFine_labelIds.png"
            pairs.append((image, _existing_mask(mask, image)))
        if not pairs:
            raise DataError(
                f"Cityscapes: no file *_leftImg8bit.png below {root / 'leftImg8bit' / folder}"
            )
        splits[name] = pairs
    known = {label: number for number, label in enumerate(_CITYSCAPES_IDS)}
    values = {label: known.get(label, IGNORED) for label in range(_CITYSCAPES_LAST_ID + 1)}
    decoder = _decoder(image_size or (512, 1024), values, "label ids from 0 to 33, or 255")
    return _source(root, CITYSCAPES, splits, decoder)


def read_ade20k(path: Path, *, image_size: ImageSize | None) -> Source:
    """Read ``images`` and ``annotations`` of the scene parsing challenge: 150 classes, 0 ignored.

    Args:
        path: The folder of both.
        image_size: Height and width of a training image; ``None``: 512 x 512.

    Returns:
        Train, and ``validation`` as the test split. Names are those of ``objectInfo150.txt`` where
        it is there, otherwise numbers from 1.

    Raises:
        DataError: A folder, or the mask of an image, is missing.

    Source: Zhou et al. 2017, the release ``ADEChallengeData2016``.
    """
    root = existing(path)
    splits = {
        name: _pairs(root / "images" / folder, root / "annotations" / folder, "ADE20K")
        for name, folder in (("train", "training"), ("test", "validation"))
    }
    values = {0: IGNORED, **{value: value - 1 for value in range(1, _ADE_CLASSES + 1)}}
    decoder = _decoder(image_size or (512, 512), values, "numbers from 0 to 150, or 255")
    return _source(root, _ade_names(root / "objectInfo150.txt"), splits, decoder)


def read_camvid(path: Path, *, image_size: ImageSize | None, lazy: bool | None) -> Source:
    """Read the 11 classes of CamVid as published with SegNet: ``train`` beside ``trainannot``.

    Args:
        path: The folder of ``train``, ``trainannot``, ``val``, ``valannot``, ``test`` and
            ``testannot``.
        image_size: Height and width of a training image, cut out at a random scale; ``None``: that
            of the files.
        lazy: Whether files are decoded when needed; ``None``: if ``image_size`` is given, or they
            exceed 1 GiB.

    Raises:
        DataError: A folder, or the mask of an image, is missing.

    Source: Badrinarayanan et al. 2015; class 11, "unlabelled", is ignored.
    """
    root = existing(path)
    splits = _annotated(root)
    if splits is None:
        raise DataError(f"CamVid: no folders 'train' and 'trainannot' in {str(root)!r}")
    values = {**{value: value for value in range(len(CAMVID))}, len(CAMVID): IGNORED}
    return _of_any_size(
        root, CAMVID, splits, values, "numbers from 0 to 11, or 255", image_size, lazy
    )


def read_masks(path: Path, *, image_size: ImageSize | None, lazy: bool | None) -> Source:
    """Read images with index masks: ``images/<split>`` and ``masks/<split>``, or as CamVid's.

    Args:
        path: The root; ``classes.txt`` in it names the classes, one per line, from 0.
        image_size: As for :func:`read_camvid`.
        lazy: As for :func:`read_camvid`.

    Returns:
        Splits ``train``, ``val`` and ``test``; where one of the latter is missing it is cut off
        ``train``. A pixel of 255 is ignored.

    Raises:
        DataError: A folder, a mask or the names are missing; in memory also a class that occurs in
            no training mask.
    """
    root = existing(path)
    splits = _annotated(root) or {
        name: _pairs(root / "images" / folder, root / "masks" / folder, "folder of masks")
        for name, folder in (("train", "train"), ("validation", "val"), ("test", "test"))
        if name == "train" or (root / "images" / folder).is_dir()
    }
    names_file = root / _NAMES_FILE
    if not names_file.is_file():
        raise DataError(f"{root}: no file {_NAMES_FILE!r} with a class name per line, from class 0")
    names = tuple(filter(None, map(str.strip, names_file.read_text("utf-8").splitlines())))
    if not 2 <= len(names) <= IGNORED:
        raise DataError(f"{names_file}: expected 2 to {IGNORED} class names, got {len(names)}")
    values = {value: value for value in range(len(names))}
    told = f"numbers from 0 to {len(names) - 1}, or {IGNORED}"
    source = _of_any_size(root, names, splits, values, told, image_size, lazy)
    if isinstance(source.train, MemorySplit) and source.train.targets is not None:
        _check_classes_occur(source.train.targets, names, root)
    return source


def _annotated(root: Path) -> dict[str, list[MaskPair]] | None:
    """List ``train`` with ``trainannot``, and the like."""
    if not (root / "trainannot").is_dir():
        return None
    return {
        name: _pairs(root / folder, root / f"{folder}annot", "CamVid")
        for name, folder in (("train", "train"), ("validation", "val"), ("test", "test"))
        if name == "train" or (root / folder).is_dir()
    }


def _pairs(images: Path, masks: Path, what: str) -> list[MaskPair]:
    """Pair each image with the ``.png`` of its name."""
    return [
        (image, _existing_mask(masks / f"{Path(image).stem}.png", image))
        for image in _listed(images, what)
    ]


def _listed(folder: Path, what: str) -> list[str]:
    if not folder.is_dir():
        raise DataError(f"{what}: no folder {str(folder)!r}")
    files = image_files(folder)
    if not files:
        raise DataError(f"{what}: no image file ({', '.join(IMAGE_SUFFIXES)}) in {str(folder)!r}")
    return files


def _existing_mask(mask: Path, image: str) -> str:
    if not mask.is_file():
        raise DataError(f"{image}: its mask is expected at {mask}, where there is no file")
    return str(mask)


def _decoder(
    size: ImageSize, values: Mapping[int, int], told: str, *, files_differ: bool = True
) -> MaskDecoder:
    classes = torch.full((256,), UNKNOWN, dtype=torch.int16)
    for value, number in values.items():
        classes[value] = number
    classes[IGNORED] = IGNORED
    return MaskDecoder(size[0], size[1], classes, told, files_differ)


def _of_any_size(
    root: Path,
    names: Sequence[str],
    splits: Mapping[str, list[MaskPair]],
    values: Mapping[int, int],
    told: str,
    image_size: ImageSize | None,
    lazy: bool | None,
) -> Source:
    """Read into memory where all files have one size that is kept; otherwise when needed."""
    if image_size is not None:
        return _source(root, names, splits, _decoder(image_size, values, told))
    first = image_facts(splits["train"][0][0])
    decoder = _decoder((first.height, first.width), values, told, files_differ=False)
    source = _source(root, names, splits, decoder)
    count = sum(map(len, splits.values()))
    if lazy is None:
        lazy = count * 4 * first.height * first.width > _MEMORY_LIMIT_BYTES
    if lazy:
        return source
    return Source(
        source.where,
        source.class_names,
        train=_in_memory(source.train),
        validation=source.validation and _in_memory(source.validation),
        test=source.test and _in_memory(source.test),
        task=source.task,
        strata=source.strata,
    )


def _in_memory(split: Split) -> MemorySplit:
    return split if isinstance(split, MemorySplit) else split.in_memory()


def _source(
    root: Path,
    names: Sequence[str],
    splits: Mapping[str, list[MaskPair]],
    decoder: MaskDecoder,
) -> Source:
    made = {
        name: SampleSplit(pairs, torch.zeros(len(pairs), dtype=torch.int64), decoder)
        for name, pairs in splits.items()
    }
    return Source(
        str(root),
        tuple(names),
        train=made["train"],
        validation=made.get("validation"),
        test=made.get("test"),
        task="segmentation",
        strata=("all",),
    )


def _ade_names(file: Path) -> tuple[str, ...]:
    """Read the last column of ``objectInfo150.txt``, up to its first synonym."""
    if not file.is_file():
        return tuple(map(str, range(1, _ADE_CLASSES + 1)))
    rows = file.read_text("utf-8").splitlines()[1:]
    names = [row.split("\t")[-1].split(",")[0].strip() for row in rows if row.strip()]
    if len(names) != _ADE_CLASSES:
        raise DataError(f"{file}: expected {_ADE_CLASSES} class names, got {len(names)}")
    # two of them share their first word; a name must tell one output from another
    return tuple(
        name if names.count(name) == 1 else f"{name} ({number})"
        for number, name in enumerate(names, 1)
    )


def _check_classes_occur(masks: Tensor, names: Sequence[str], root: Path) -> None:
    counts = torch.bincount(masks.flatten(), minlength=IGNORED + 1)
    for number, name in enumerate(names):
        if not counts[number]:
            raise DataError(
                f"{root}: class {name!r} ({number}) is named in {_NAMES_FILE} but occurs in none "
                f"of {len(masks)} training masks"
            )

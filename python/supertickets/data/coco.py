"""Persons of COCO's keypoint annotations, each cut out by its box."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from supertickets.data.folder import existing
from supertickets.data.person import Person, PersonDecoder
from supertickets.data.source import Source
from supertickets.data.splits import SampleSplit
from supertickets.errors import DataError
from supertickets.seeds import generator

COCO_JOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee",
    "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
_MIRRORED = tuple((number, number + 1) for number in range(1, 17, 2))
# of the OKS: pycocotools' kpt_oks_sigmas, from the spread among annotators of one person
COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107,
    0.087, 0.087, 0.089, 0.089,
)  # fmt: skip
_OUTSIDE_PIXELS = 1.0  # published annotations round to whole pixels


@dataclass(frozen=True)
class PersonSplit(SampleSplit[Person]):
    """Persons, and the file that they are scored with.

    Attributes:
        annotations: The file that pycocotools reads.
    """

    annotations: Path = Path()

    def take(self, indices: torch.Tensor) -> PersonSplit:
        """Select persons by index."""
        samples = [self.samples[i] for i in indices.tolist()]
        return PersonSplit(samples, self.labels[indices], self.decoder, self.annotations)


def read_coco(
    path: Path, *, image_size: tuple[int, int] | None, validation_fraction: float, seed: int
) -> Source:
    """Read ``annotations/person_keypoints_<split>.json`` and the images of ``<split>``.

    Persons without a labelled joint and crowds are left out. Validation is cut off the training
    *images*, so that no image has persons in two splits.

    Args:
        path: The folder of ``annotations``, ``train2017`` and ``val2017``.
        image_size: Height and width that a person is cut to; ``None``: 256 x 192.
        validation_fraction: Share of the training images.
        seed: Decides which ones.

    Returns:
        Train, validation, and ``val2017`` as the test split.

    Raises:
        DataError: A file is missing or damaged, or an annotation is impossible.

    Source: Lin et al. 2014; https://cocodataset.org/#format-data.
    """
    root = existing(path)
    decoder = PersonDecoder(*(image_size or (256, 192)), COCO_SIGMAS)
    train, test = (_split(root, name, decoder) for name in ("train2017", "val2017"))
    kept, cut = _by_image(train, validation_fraction, seed)
    return Source(
        str(root),
        COCO_JOINTS,
        train=train.take(kept),
        validation=train.take(cut),
        test=test,
        task="keypoints",
        strata=("person",),
        mirrored=_MIRRORED,
    )


def _by_image(split: PersonSplit, fraction: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = sorted({person.image_id for person in split.samples})
    if len(images) < 2:
        raise DataError(
            f"{split.annotations}: {len(images)} image(s) with labelled persons; at least 2 are "
            "needed to cut off the validation split"
        )
    count = min(max(1, round(len(images) * fraction)), len(images) - 1)
    order = torch.randperm(len(images), generator=generator(seed, "split", "validation"))
    chosen = {images[place] for place in order[:count].tolist()}
    in_cut = torch.tensor([person.image_id in chosen for person in split.samples])
    return (~in_cut).nonzero()[:, 0], in_cut.nonzero()[:, 0]


def _split(root: Path, name: str, decoder: PersonDecoder) -> PersonSplit:
    file = root / "annotations" / f"person_keypoints_{name}.json"
    content = _content(file)
    images = {image["id"]: image for image in content["images"]}
    persons = []
    for annotation in content["annotations"]:
        if annotation.get("iscrowd") or not annotation.get("num_keypoints"):
            continue
        image = images.get(annotation["image_id"])
        if image is None:
            raise DataError(
                f"{file}: annotation {annotation['id']} is of image {annotation['image_id']}, "
                "which the file does not list"
            )
        person = _person(file, annotation, image, root / name)
        if person is not None:
            persons.append(person)
    if not persons:
        raise DataError(f"{file}: no person with a labelled joint")
    return PersonSplit(persons, torch.zeros(len(persons), dtype=torch.int64), decoder, file)


def _content(file: Path) -> Mapping[str, Any]:
    """Read an annotation file, and check that it is one of persons."""
    if not file.is_file():
        raise DataError(f"COCO: no file {file}")
    try:
        content = json.loads(file.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"{file}: not readable as JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{file}: a list {key!r} is expected, as in COCO's annotations")
    joints = [tuple(category.get("keypoints", ())) for category in content["categories"]]
    if COCO_JOINTS not in joints:
        raise DataError(
            f"{file}: a category with COCO's {len(COCO_JOINTS)} keypoints is expected, got "
            f"{[len(names) for names in joints]} keypoints"
        )
    return content


def _person(
    file: Path, annotation: Mapping[str, Any], image: Mapping[str, Any], folder: Path
) -> Person | None:
    """Check one annotation; ``None`` where its box, cut to the image, is empty."""
    where = f"{file}: annotation {annotation.get('id')}"
    try:
        height, width = int(image["height"]), int(image["width"])
        left, top, wide, tall = map(float, annotation["bbox"])
        area, name = float(annotation["area"]), str(image["file_name"])
        flat, number = list(map(float, annotation["keypoints"])), int(annotation["id"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: {type(error).__name__}: {error}; expected as COCO's") from error
    if number < 1:
        raise DataError(f"{where}: its id must be positive: COCO's evaluation reads 0 as no match")
    if len(flat) != 3 * len(COCO_JOINTS):
        raise DataError(
            f"{where}: expected {3 * len(COCO_JOINTS)} numbers in 'keypoints' (x, y, v of "
            f"{len(COCO_JOINTS)} joints), got {len(flat)}"
        )
    joints = tuple(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
    for joint, (x, y, visible) in zip(COCO_JOINTS, joints, strict=True):
        if visible not in (0, 1, 2):
            raise DataError(f"{where}: visibility of {joint} must be 0, 1 or 2, got {visible:g}")
        inside = (
            -_OUTSIDE_PIXELS <= x <= width - 1 + _OUTSIDE_PIXELS
            and -_OUTSIDE_PIXELS <= y <= height - 1 + _OUTSIDE_PIXELS
        )
        if visible and not inside:
            raise DataError(
                f"{where}: {joint} is at ({x:g}, {y:g}), outside its image {name} of {width} x "
                f"{height} pixels (width x height)"
            )
    right, bottom = min(left + max(wide - 1, 0), width - 1), min(top + max(tall - 1, 0), height - 1)
    left, top = max(left, 0.0), max(top, 0.0)
    if area <= 0 or right <= left or bottom <= top:
        return None
    return Person(
        file=str(folder / name),
        image_id=int(image["id"]),
        image_size=(height, width),
        box=(left, top, right - left, bottom - top),
        area=area,
        joints=joints,
    )

"""Tiny data sets in their published folders, written for one test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_cityscapes(root: Path, *, size: tuple[int, int] = (32, 64)) -> np.random.Generator:
    """Four training images in two towns and two of validation, with all 34 label ids."""
    rng = np.random.default_rng(0)
    towns = {"train": ("aachen", "aachen", "bochum", "bochum"), "val": ("lindau", "lindau")}
    for split, names in towns.items():
        for number, town in enumerate(names):
            stem = f"{town}_{number:06}_000019"
            folder = root / "leftImg8bit" / split / town
            save(folder / f"{stem}_leftImg8bit.png", picture(rng, *size))
            ids = rng.integers(0, 34, size, dtype=np.uint8)
            folder = root / "gtFine" / split / town
            save(folder / f"{stem}_gtFine_labelIds.png", ids)
            save(folder / f"{stem}_gtFine_color.png", picture(rng, *size))
    return rng


def write_ade20k(root: Path) -> None:
    """Three training and two validation images, all of different sizes."""
    rng = np.random.default_rng(1)
    for split, count in (("training", 3), ("validation", 2)):
        for number in range(count):
            size = (30 + 7 * number, 50 - 5 * number)
            stem = f"ADE_{split[:-3]}_{number:08}"
            save(root / "images" / split / f"{stem}.jpg", picture(rng, *size))
            save(
                root / "annotations" / split / f"{stem}.png",
                rng.integers(0, 151, size, dtype=np.uint8),
            )


def write_camvid(root: Path, *, size: tuple[int, int] = (24, 32)) -> None:
    """The layout that SegNet published: ``train`` beside ``trainannot``."""
    rng = np.random.default_rng(2)
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for number in range(count):
            name = f"0001TP_{number:06}.png"
            save(root / split / name, picture(rng, *size))
            save(root / f"{split}annot" / name, rng.integers(0, 12, size, dtype=np.uint8))


def write_masks(root: Path, masks: list[np.ndarray], names: tuple[str, ...]) -> None:
    """A plain folder with a training split only."""
    rng = np.random.default_rng(3)
    (root / "images" / "train").mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(names) + "\n")
    for number, mask in enumerate(masks):
        save(root / "images" / "train" / f"{number}.png", picture(rng, *mask.shape))
        save(root / "masks" / "train" / f"{number}.png", mask)


def coco_category() -> dict[str, Any]:
    sides = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    joints = ["nose", *(f"{side}_{part}" for part in sides for side in ("left", "right"))]
    return {"id": 1, "name": "person", "keypoints": joints, "skeleton": []}


def write_coco(root: Path, *, persons_per_image: int = 2) -> None:
    """Three training and two validation images; each also has a crowd and an unlabelled person."""
    rng = np.random.default_rng(4)
    for split, count in (("train2017", 3), ("val2017", 2)):
        images, annotations = [], []
        for number in range(count):
            height, width = 120, 160
            name = f"{number:012}.jpg"
            save(root / split / name, picture(rng, height, width))
            images.append({"id": 10 + number, "file_name": name, "height": height, "width": width})
            for place in range(persons_per_image):
                left, top, wide, tall = 10.0 + 75 * place, 15.0, 60.0, 90.0
                points = rng.integers(0, 60, (17, 2)) + np.array([left, top])
                visible = rng.integers(0, 3, 17)
                visible[0] = 2
                points[visible == 0] = 0
                annotations.append(
                    {
                        "id": 100 * number + place + 1,
                        "image_id": 10 + number,
                        "category_id": 1,
                        "bbox": [left, top, wide, tall],
                        "area": 0.6 * wide * tall,
                        "iscrowd": 0,
                        "num_keypoints": int((visible > 0).sum()),
                        "keypoints": np.c_[points, visible].astype(int).flatten().tolist(),
                    }
                )
            for iscrowd in (0, 1):
                annotations.append(
                    {
                        "id": 100 * number + 50 + iscrowd,
                        "image_id": 10 + number,
                        "category_id": 1,
                        "bbox": [0.0, 0.0, 9.0, 9.0],
                        "area": 80.0,
                        "iscrowd": iscrowd,
                        "num_keypoints": 0,
                        "keypoints": [0] * 51,
                        "segmentation": [],
                    }
                )
        file = root / "annotations" / f"person_keypoints_{split}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"images": images, "annotations": annotations, "categories": [coco_category()]}
        file.write_text(json.dumps(content))

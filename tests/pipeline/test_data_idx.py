"""IDX files, as MNIST is published."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from supertickets.data import DataConfig, ImageData, load_data
from supertickets.errors import DataError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def _idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim])
    return head + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


def _write(
    folder: Path, *, suffix: str = "", labels: tuple[int, ...] = (0, 1, 2), count: int = 12
) -> np.ndarray:
    """Write a set of 28 x 20 images; returns the training images."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    pack = gzip.compress if suffix == ".gz" else bytes
    for prefix, number in (("train", count), ("t10k", 6)):
        images = random.integers(0, 256, (number, 28, 20), dtype=np.uint8)
        classes = np.resize(np.array(labels, dtype=np.uint8), number)
        (folder / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(pack(_idx(images)))
        (folder / f"{prefix}-labels-idx1-ubyte{suffix}").write_bytes(pack(_idx(classes)))
        if prefix == "train":
            train = images
    return train


def _load(path: Path, **values: Any) -> ImageData:
    return load_data(DataConfig(name="idx", path=path, **values))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_plain_and_gzipped_files_are_read_exactly(tmp_path, suffix) -> None:
    written = _write(tmp_path, suffix=suffix)
    data = _load(tmp_path)
    assert (data.channels, data.image_size, data.num_classes) == (1, (28, 20), 3)
    assert (len(data.train), len(data.validation), len(data.test)) == (9, 3, 6)
    read = torch.cat([data.train.images, data.validation.images])
    assert sorted(image.numpy().tobytes() for image in read) == sorted(
        image.tobytes() for image in written
    )
    assert data.test.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_folder_above_torchvisions_layout_is_enough(tmp_path) -> None:
    _write(tmp_path / "FashionMNIST" / "raw")
    assert len(_load(tmp_path).test) == 6


def test_labels_need_not_start_at_zero(tmp_path) -> None:
    _write(tmp_path, labels=(1, 5))
    data = _load(tmp_path)
    assert data.class_names == ("1", "5")
    assert set(data.test.labels.tolist()) == {0, 1}


def test_usual_place_is_found_without_a_path(tmp_path, monkeypatch) -> None:
    _write(tmp_path / "data" / "mnist")
    monkeypatch.chdir(tmp_path)
    assert load_data(DataConfig(name="idx")).image_size == (28, 20)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian package dataset-fashion-mnist is missing")
def test_debian_fashion_mnist_is_found_without_a_path(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = load_data(DataConfig(name="idx"))
    assert (len(data.train) + len(data.validation), len(data.test)) == (60000, 10000)
    assert data.normalisation.mean[0] == pytest.approx(0.286, abs=1e-3)
    assert data.normalisation.std[0] == pytest.approx(0.353, abs=1e-3)


def _cut_short(folder) -> None:
    file = folder / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])


def _wrong_magic(folder) -> None:
    file = folder / "t10k-labels-idx1-ubyte"
    file.write_bytes(b"\x00\x00\x0d\x01" + file.read_bytes()[4:])


def _swapped(folder) -> None:
    labels = (folder / "train-labels-idx1-ubyte").read_bytes()
    (folder / "train-images-idx3-ubyte").write_bytes(labels)


def _no_head(folder) -> None:
    (folder / "train-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03\x00")


def _empty(folder) -> None:
    (folder / "train-images-idx3-ubyte").write_bytes(b"")


def _missing(folder) -> None:
    (folder / "t10k-images-idx3-ubyte").unlink()


def _fewer_labels(folder) -> None:
    (folder / "train-labels-idx1-ubyte").write_bytes(_idx(np.zeros(5, dtype=np.uint8)))


def _foreign_label(folder) -> None:
    (folder / "t10k-labels-idx1-ubyte").write_bytes(_idx(np.full(6, 9, dtype=np.uint8)))


def _one_class(folder) -> None:
    _write(folder, labels=(0,))


def _no_images(folder) -> None:
    _write(folder, count=0)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_cut_short, r"train-images.*needs 6720 bytes, got 6719"),
        (_wrong_magic, r"t10k-labels.*magic number 00000d01, expected 00000801"),
        (_swapped, r"magic number 00000801, expected 00000803"),
        (_no_head, r"truncated: 5 bytes, the head alone has 16"),
        (_empty, r"magic number missing"),
        (_missing, r"no file 't10k-images-idx3-ubyte'"),
        (_fewer_labels, r"12 images .* but 5 labels"),
        (_foreign_label, r"label 9 is in t10k but not in train"),
        (_one_class, r"at least 2 classes are needed, got \['0'\]"),
        (_no_images, r"0 images"),
    ],
)
def test_damage_is_named(tmp_path, damage, words) -> None:
    _write(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=words):
        _load(tmp_path)


def test_truncated_gzip_is_named(tmp_path) -> None:
    _write(tmp_path, suffix=".gz")
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: damaged gzip"):
        _load(tmp_path)


def test_missing_folder_and_missing_files_say_what_was_looked_for(tmp_path) -> None:
    with pytest.raises(DataError, match=r"data\.path: no folder .*nowhere"):
        _load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        _load(tmp_path)

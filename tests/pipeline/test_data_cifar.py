"""CIFAR-10 and CIFAR-100 in their published binary version."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from supertickets.data import DataConfig, ImageData, load_data
from supertickets.errors import DataError

WORDS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _records(labels: Sequence[Sequence[int]], seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (len(labels[0]), 3072), dtype=np.uint8)
    return np.concatenate([np.array(labels, dtype=np.uint8).T, pixels], axis=1)


def _write_cifar10(folder) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, 6):
        (folder / f"data_batch_{number}.bin").write_bytes(_records([range(10)], number).tobytes())
    (folder / "test_batch.bin").write_bytes(_records([range(10)], 9).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(WORDS) + "\n\n")


def _write_cifar100(folder) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    fine = [*range(100)] * 2
    coarse = [label // 5 for label in fine]
    (folder / "train.bin").write_bytes(_records([coarse, fine], 0).tobytes())
    (folder / "test.bin").write_bytes(_records([coarse, fine], 1).tobytes())


def _load(path: Path, name: str = "cifar10") -> ImageData:
    return load_data(DataConfig(name=name, path=path))


@pytest.mark.parametrize("below", ["", "cifar-10-batches-bin"])
def test_cifar10_is_read_exactly(tmp_path, below) -> None:
    _write_cifar10(tmp_path / below)
    data = _load(tmp_path)
    assert (data.channels, data.image_size, data.class_names) == (3, (32, 32), WORDS)
    assert (len(data.train), len(data.validation), len(data.test)) == (40, 10, 10)
    expected = _records([range(10)], 9)
    assert np.array_equal(data.test.images.numpy().reshape(10, -1), expected[:, 1:])
    assert data.test.labels.tolist() == list(range(10))


def test_cifar100_takes_the_fine_label(tmp_path) -> None:
    _write_cifar100(tmp_path)
    data = _load(tmp_path, "cifar100")
    assert data.num_classes == 100
    assert data.test.labels.tolist() == [*range(100)] * 2
    assert torch.bincount(data.train.labels).tolist() == [1] * 100
    assert data.normalisation.mean == pytest.approx([0.5] * 3, abs=0.01)


def test_usual_place_is_found_without_a_path(tmp_path, monkeypatch) -> None:
    _write_cifar10(tmp_path / "data" / "cifar-10-batches-bin")
    monkeypatch.chdir(tmp_path)
    assert load_data(DataConfig(name="cifar10")).class_names == WORDS


class _Bomb:
    def __reduce__(self) -> tuple:
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize("below", ["", "cifar-10-batches-py"])
def test_python_version_is_refused_unopened(tmp_path, below) -> None:
    (tmp_path / below).mkdir(exist_ok=True)
    (tmp_path / below / "data_batch_1").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(DataError, match=r"pickle, .*binary version .*cifar-10-binary\.tar\.gz"):
        _load(tmp_path)


@pytest.mark.parametrize("size", [0, 3072, 3073 * 10 - 1])
def test_truncated_file_is_named(tmp_path, size) -> None:
    _write_cifar10(tmp_path)
    file = tmp_path / "data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(DataError, match=rf"data_batch_3\.bin.* multiple of 3073 .*got {size}"):
        _load(tmp_path)


def test_missing_batch_is_named(tmp_path) -> None:
    _write_cifar10(tmp_path)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(DataError, match=r"CIFAR-10: no file .*data_batch_4\.bin"):
        _load(tmp_path)


def test_label_out_of_range_is_named(tmp_path) -> None:
    _write_cifar10(tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(_records([[0, 10]], 0).tobytes())
    with pytest.raises(DataError, match=r"test_batch\.bin: label 10, expected less than 10"):
        _load(tmp_path)


def test_class_without_images_is_named(tmp_path) -> None:
    _write_cifar10(tmp_path)
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(_records([range(9)], 0).tobytes())
    with pytest.raises(DataError, match="class 'truck' has no training image"):
        _load(tmp_path)


def test_wrong_number_of_class_names_is_refused(tmp_path) -> None:
    _write_cifar10(tmp_path)
    (tmp_path / "batches.meta.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"batches\.meta\.txt: expected 10 class names, got 2"):
        _load(tmp_path)


def test_missing_folder_and_missing_files_say_what_was_looked_for(tmp_path) -> None:
    with pytest.raises(DataError, match=r"data\.path: no folder .*nowhere"):
        _load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"CIFAR-100 .*train\.bin"):
        _load(tmp_path, "cifar100")

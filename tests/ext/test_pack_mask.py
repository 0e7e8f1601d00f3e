"""pack_mask and unpack_mask: an entry a bit, the first in the lowest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from supertickets_ext import pack_mask, reference, unpack_mask

pytestmark = pytest.mark.usefixtures("backend")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 63, 64, 65, 1000, 65_536, 200_003])
def test_bits_are_those_of_numpy_and_come_back(count: int, threads: int) -> None:
    torch.set_num_threads(threads)
    mask = torch.rand(count, generator=torch.Generator().manual_seed(count)) < 0.4
    packed = pack_mask(mask)
    assert packed.numpy().tobytes() == np.packbits(mask.numpy(), bitorder="little").tobytes()
    assert torch.equal(packed, reference.pack_mask(mask))
    assert torch.equal(unpack_mask(packed, (count,)), mask)
    assert torch.equal(reference.unpack_mask(packed, (count,)), mask)


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 5), (2, 3, 7, 7)], ids=str)
def test_shapes_and_strides(shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    for view in (mask, mask.movedim(0, -1) if mask.dim() else mask):
        assert torch.equal(unpack_mask(pack_mask(view), view.shape), view)


def test_bits_beyond_the_mask_are_not_read() -> None:
    assert unpack_mask(torch.tensor([255], dtype=torch.uint8), (3,)).tolist() == [True] * 3


def test_vmap() -> None:
    masks = torch.rand(4, 21, generator=torch.Generator().manual_seed(1)) < 0.5
    packed = torch.func.vmap(pack_mask)(masks)
    assert torch.equal(packed, torch.stack([pack_mask(mask) for mask in masks]))
    assert torch.equal(torch.func.vmap(lambda p: unpack_mask(p, (21,)))(packed), masks)


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match=r"^pack_mask: mask must be bool, got torch.uint8"):
        pack_mask(torch.ones(3, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"^unpack_mask: packed must be uint8, got torch.bool"):
        unpack_mask(torch.ones(3, dtype=torch.bool), (3,))
    with pytest.raises(ValueError, match=r"^unpack_mask: packed must have shape \(2,\) for a mask"):
        unpack_mask(torch.ones(1, dtype=torch.uint8), (3, 3))

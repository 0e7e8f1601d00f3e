"""The embedded set: 1,797 handwritten digits of 8 x 8 pixels that ship with scikit-learn."""

from __future__ import annotations

import numpy as np
import torch

from supertickets.data.source import Source
from supertickets.data.splits import MemorySplit

_LEVELS = 16


def read_digits() -> Source:
    """Read the digits, with 16 grey levels spread over ``[0, 255]``.

    Returns:
        All images in ``train``: ``[1797, 1, 8, 8]``.

    Source: Alpaydin and Kaynak 1998, UCI "Optical Recognition of Handwritten Digits".
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images[:, None] * (255 / _LEVELS)).astype(np.uint8)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    names = tuple(str(name) for name in digits.target_names)
    return Source("digits", names, MemorySplit(torch.from_numpy(pixels), labels))

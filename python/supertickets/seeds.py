"""Named, independent random generators derived from one seed."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """Mix ``seed`` and ``names`` into a 63-bit seed, the same on every machine.

    Args:
        seed: The user's seed.
        names: Words and numbers that say what the randomness is for.

    Returns:
        A seed in ``[0, 2**63)``.
    """
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: str | int, device: str = "cpu") -> torch.Generator:
    """Make the generator for one purpose.

    Args:
        seed: The user's seed.
        names: Words and numbers that say what the randomness is for, such as ``"augment", epoch``.
        device: Where the generator draws.

    Returns:
        A fresh generator; equal arguments give equal draws.
    """
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))

"""Image classification data: one reader per file layout, always train, validation and test."""

from __future__ import annotations

from supertickets.data.config import DataConfig
from supertickets.data.load import ImageData, load_data
from supertickets.data.loader import Loader
from supertickets.data.normalise import Normalisation
from supertickets.data.tensors import from_tensors

__all__ = ["DataConfig", "ImageData", "Loader", "Normalisation", "from_tensors", "load_data"]

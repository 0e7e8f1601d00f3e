"""What a model gives and what it costs: scores of each task, exact MACs, bytes, latency."""

from __future__ import annotations

from supertickets.evaluate.classification import Metrics, classification
from supertickets.evaluate.cost import LayerCost, ModelCost, model_cost
from supertickets.evaluate.fingerprint import fingerprint
from supertickets.evaluate.keypoints import KeypointMetrics, keypoints
from supertickets.evaluate.latency import Latency, latency
from supertickets.evaluate.measure import measure, measure_split
from supertickets.evaluate.modes import eval_mode, modes_restored
from supertickets.evaluate.segmentation import SegmentationMetrics, segmentation

__all__ = [
    "KeypointMetrics",
    "Latency",
    "LayerCost",
    "Metrics",
    "ModelCost",
    "SegmentationMetrics",
    "classification",
    "eval_mode",
    "fingerprint",
    "keypoints",
    "latency",
    "measure",
    "measure_split",
    "model_cost",
    "modes_restored",
    "segmentation",
]

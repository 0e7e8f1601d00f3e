"""What a model gives and what it costs: accuracy, exact MACs, bytes, measured latency."""

from __future__ import annotations

from supertickets.evaluate.classification import Metrics, classification
from supertickets.evaluate.cost import LayerCost, ModelCost, model_cost
from supertickets.evaluate.fingerprint import fingerprint
from supertickets.evaluate.latency import Latency, latency
from supertickets.evaluate.modes import eval_mode, modes_restored

__all__ = [
    "Latency",
    "LayerCost",
    "Metrics",
    "ModelCost",
    "classification",
    "eval_mode",
    "fingerprint",
    "latency",
    "model_cost",
    "modes_restored",
]

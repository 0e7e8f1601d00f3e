"""Average precision of keypoints by COCO's own evaluation."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import torch
from torch import nn

from supertickets.data import ImageData
from supertickets.data.coco import PersonSplit
from supertickets.data.load import SplitName
from supertickets.data.person import Person, PersonDecoder, to_image
from supertickets.errors import RunError
from supertickets.evaluate.batches import predictions
from supertickets.tasks import TASKS, decode_heatmaps

_AP, _AP50, _AP75 = 0, 1, 2  # places in pycocotools' list of figures


def coco_keypoints(
    model: nn.Module,
    data: ImageData,
    split: SplitName,
    *,
    batch_size: int,
    device: str | torch.device = "cpu",
) -> dict[str, float]:
    """Score a network on the annotated boxes of persons, with pycocotools.

    Args:
        model: ``[N, C, H, W]`` -> heat-maps ``[N, 17, h, w]``, on ``device`` already.
        data: COCO.
        split: Which part of it.
        batch_size: Persons per batch.
        device: Where the batches are moved.

    Returns:
        ``ap``, ``ap50``, ``ap75`` (over the images of the split; an answer's score is the mean
        height of its peaks), ``loss`` and ``count`` (persons).

    Raises:
        RunError: pycocotools is not installed, or the model gave NaN or infinity.
    """
    persons: PersonSplit = getattr(data, split)
    loader = data.loader(split, batch_size=batch_size, augment=False, shuffle=False)
    decoder = persons.decoder
    assert isinstance(decoder, PersonDecoder)
    rows: list[dict[str, Any]] = []
    loss = 0.0
    _require_pycocotools()
    for heatmaps, joints, size in predictions("keypoints", model, loader, device):
        losses = TASKS["keypoints"].losses(heatmaps, joints, image_size=size)
        loss += float(losses.sum(dtype=torch.float64))
        found = decode_heatmaps(heatmaps, image_size=size).cpu()
        rows += [
            _row(persons.samples[len(rows) + place], one, decoder)
            for place, one in enumerate(found)
        ]
    ap, ap50, ap75 = _evaluate(persons, rows)
    count = len(rows)
    return {"ap": ap, "ap50": ap50, "ap75": ap75, "loss": loss / count, "count": count}


def _row(person: Person, found: torch.Tensor, decoder: PersonDecoder) -> dict[str, Any]:
    """Put one answer into COCO's format of results."""
    places = to_image(found[:, :2], decoder.placement(person))
    scores = found[:, 2].double()
    keypoints = torch.cat([places, scores[:, None]], dim=1)
    return {
        "image_id": person.image_id,
        "category_id": 1,
        "keypoints": keypoints.flatten().tolist(),
        "score": float(scores.mean()),
    }


def _evaluate(persons: PersonSplit, rows: list[dict[str, Any]]) -> tuple[float, float, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(persons.annotations))
        judge = COCOeval(truth, truth.loadRes(rows), "keypoints")
        judge.params.imgIds = sorted({person.image_id for person in persons.samples})
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    figures = judge.stats
    return float(figures[_AP]), float(figures[_AP50]), float(figures[_AP75])


def _require_pycocotools() -> None:
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError as error:
        raise RunError(
            "COCO's average precision needs pycocotools: install supertickets[pose]"
        ) from error

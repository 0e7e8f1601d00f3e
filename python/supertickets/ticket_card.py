"""The model card that lies beside a ticket's files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supertickets.ticket import Ticket

_TASK_TAGS = {
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "keypoints": "keypoint-detection",
}

_USE = """## Use

```python
from supertickets.ticket import Ticket

ticket = Ticket.from_pretrained("path/to/this/folder")
model = ticket.to_dense()    # plain torch modules, ordinary state-dict keys
model = ticket.to_masked()   # the same function on the masked layers of supertickets_ext
```
"""


def model_card(ticket: Ticket) -> str:
    """Write the card: what the network is, its figures, where it came from, how to load it.

    Args:
        ticket: What to describe.

    Returns:
        Markdown with the metadata block that the hub reads.
    """
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        library_name="supertickets",
        pipeline_tag=_TASK_TAGS.get(ticket.task),
        tags=["sparse", "pruning", "supertickets"],
    )
    architecture = ticket.architecture
    height, width = architecture["image_size"]
    lines = [
        "---",
        data.to_yaml(),
        "---",
        "",
        f"# {_inline(architecture['name'])}, a sparse ticket",
        "",
        f"Task: {_inline(ticket.task)}. Input: {architecture['channels']} x {height} x {width}. "
        f"Outputs: {architecture['num_classes']}. Masked layers: {len(ticket.masks)}.",
        "",
        "## Figures",
        "",
        *_table("figure", ticket.metrics),
        "",
        "`density` and the MACs are exact counts over convolutions and linear layers; "
        "`uniform_macs` is dense MACs x density, the figure that papers print.",
        "",
        "## Provenance",
        "",
        *_table("what", ticket.provenance),
        "",
        _USE,
    ]
    return "\n".join(lines)


def _table(head: str, rows: dict[str, object]) -> list[str]:
    body = [f"| {_inline(name)} | {_inline(_value(value))} |" for name, value in rows.items()]
    return [f"| {head} | value |", "|---|---|", *body]


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _inline(value: object) -> str:
    """Keep a value inside its table cell."""
    return str(value).replace("|", "\\|").replace("\n", " ")

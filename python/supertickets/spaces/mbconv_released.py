"""The architectures that were released with Cream, and what was published about them."""

from __future__ import annotations

from dataclasses import dataclass

OPERATIONS = ("k3e4", "k3e6", "k5e4", "k5e6", "k7e4", "k7e6")

# what the released code puts into a stage of a single layer, whatever index is listed for it
_SINGLE = ("k3e4", "k5e4", "k3e6", "k3e6", "k5e6")


@dataclass(frozen=True)
class Released:
    """An architecture of the paper.

    Attributes:
        indices: Of :data:`OPERATIONS`, as listed by the authors.
        resolution: Of the images, in pixels.
        published_mmacs: The authors' count, in millions (they call it FLOPs).
        top1: The authors' ImageNet accuracy, in percent.
    """

    indices: str
    resolution: int
    published_mmacs: int
    top1: float

    @property
    def listed(self) -> str:
        """The architecture as its indices say, operations by name."""
        return _spelled(self.indices)

    @property
    def built(self) -> str:
        """The architecture as the authors' code builds it from the same indices.

        Its builder replaces the operation only in stages of more than one layer; a single layer
        keeps the operation of the stage's template.
        """
        stages = self.listed.split("|")
        return "|".join(
            stage if "," in stage else single for stage, single in zip(stages, _SINGLE, strict=True)
        )


RELEASED = {
    "cream_14": Released("3|3,3|3,3|3|3", 64, 14, 53.8),
    "cream_43": Released("3|3,1|3,1|3,3,3|3,3", 96, 43, 66.3),
    "cream_114": Released("3|3,3|3,3|3,3,3|3,3", 160, 114, 72.8),
    "cream_287": Released("3|3,3|3,1,3|3,3,3,3|3,3,3", 224, 287, 77.6),
    "cream_481": Released("3,4,3,1|3,2,3,0|3,3,3,1,1|3,3,3,3|3,3,3,3", 224, 481, 79.2),
    "cream_604": Released("3,3,2,3,3|3,2,3,2,3|3,2,3,2,3|3,3,2,2,3,3|3,3,2,3,3,3", 224, 604, 80.0),
}


def _spelled(indices: str) -> str:
    return "|".join(
        ",".join(OPERATIONS[int(index)] for index in stage.split(","))
        for stage in indices.split("|")
    )

"""Stride, padding and dilation as the operators take them, and the sizes that follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class ConvOptions(NamedTuple):
    """Normalised options: pairs are (height, width), padding is (top, bottom, left, right)."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int


def _pair(op: str, name: str, value: int | Sequence[int], least: int) -> tuple[int, int]:
    values = (value, value) if isinstance(value, int) else tuple(value)
    if len(values) != 2:
        raise ValueError(f"{op}: {name} must be an int or a pair, got {value!r}")
    if any(v < least for v in values):
        kind = "positive" if least == 1 else "not negative"
        raise ValueError(f"{op}: {name} must be {kind}, got {value!r}")
    return int(values[0]), int(values[1])


def conv_options(
    op: str,
    kernel: tuple[int, int],
    stride: int | Sequence[int],
    padding: int | Sequence[int] | str,
    dilation: int | Sequence[int],
    groups: int,
) -> ConvOptions:
    """Check and normalise what a user passes.

    Args:
        op: Operator name for messages.
        kernel: Height and width of the kernel.
        stride: Int or pair.
        padding: Int, pair, ``"same"`` (stride 1 only) or ``"valid"``.
        dilation: Int or pair.
        groups: Number of groups.

    Returns:
        The options as the raw operators take them.

    Raises:
        ValueError: An option is out of range.
    """
    strides = _pair(op, "stride", stride, 1)
    dilations = _pair(op, "dilation", dilation, 1)
    if groups < 1:
        raise ValueError(f"{op}: groups must be positive, got {groups}")
    if isinstance(padding, str):
        sides = _named_padding(op, padding, kernel, strides, dilations)
    else:
        high, wide = _pair(op, "padding", padding, 0)
        sides = (high, high, wide, wide)
    return ConvOptions(strides, sides, dilations, groups)


def _named_padding(
    op: str, name: str, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    if name == "valid":
        return 0, 0, 0, 0
    if name != "same":
        raise ValueError(f"{op}: padding must be an int, a pair, 'same' or 'valid', got {name!r}")
    if stride != (1, 1):
        raise ValueError(f"{op}: padding 'same' needs stride 1, got stride {stride}")
    total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    top, left = total[0] // 2, total[1] // 2
    return top, total[0] - top, left, total[1] - left


def output_size(op: str, size: Sequence[int], kernel: Sequence[int], o: ConvOptions) -> list[int]:
    """Height and width of the output; ``size`` and ``kernel`` are (height, width).

    Raises:
        ValueError: The dilated kernel does not fit the padded input.
    """
    result = []
    for i in range(2):
        before, after = o.padding[2 * i], o.padding[2 * i + 1]
        span = o.dilation[i] * (kernel[i] - 1) + 1
        if size[i] + before + after < span:
            raise ValueError(
                f"{op}: the dilated kernel must fit the padded input, it spans {span} where the "
                f"input has {size[i] + before + after}"
            )
        result.append((size[i] + before + after - span) // o.stride[i] + 1)
    return result


def check_channels(op: str, x: Sequence[int], weight: Sequence[int], o: ConvOptions) -> None:
    """Check that the shapes of input and weight fit.

    Raises:
        ValueError: The kernel is empty, or channels, filters and groups do not fit.
    """
    if weight[2] < 1 or weight[3] < 1:
        raise ValueError(f"{op}: weight must have a kernel of at least 1x1, got {tuple(weight)}")
    if weight[1] * o.groups != x[1]:
        raise ValueError(
            f"{op}: x must have {weight[1] * o.groups} channels (weight's {weight[1]} in each "
            f"of groups={o.groups}), got {x[1]}"
        )
    if weight[0] % o.groups != 0:
        raise ValueError(f"{op}: groups must divide weight's {weight[0]} filters, got {o.groups}")

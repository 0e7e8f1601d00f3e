"""Line and dot charts as inline SVG; colours come from the page's style sheet.

An element carries the class ``s-<series>``, which sets its colour in both colour schemes. Series
differ by marker and dash as well, so that no reader needs to tell colours apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from supertickets.report import marks

_CHAR = 6.4  # mean width of a letter at the charts' 12 px, for margins only
_TICK_ROOM = 6 * _CHAR  # at least, so that charts side by side have one left edge
_MANY_ROWS = 24
_LINE = 15.0  # least distance of two labels at the line ends


@dataclass(frozen=True)
class Axis:
    """One axis: its range, its ticks as (value, text), and what it measures."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Point:
    """One value; ``low`` and ``high`` are the ends of its interval, ``text`` shows on hover."""

    x: float
    y: float
    text: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """One line, or a cloud of points that are not ``joined``.

    ``key`` chooses colour, dash and marker, ``label`` stands at its end.
    """

    key: str
    label: str
    points: Sequence[Point]
    markers: bool = True
    strong: bool = False
    joined: bool = True


@dataclass(frozen=True)
class Dot:
    """One dot of a dot chart."""

    key: str
    x: float
    text: str = ""


@dataclass(frozen=True)
class DotRow:
    """One row of a dot chart; ``joined`` draws a bar between its outermost dots."""

    label: str
    dots: Sequence[Dot]
    joined: bool = False
    note: str = ""
    strong: bool = False


@dataclass(frozen=True)
class _Box:
    """The plot area and the way from values to positions."""

    left: float
    top: float
    right: float
    bottom: float
    x_axis: Axis
    y_axis: Axis | None = None

    def x(self, value: float) -> float:
        return _place(value, self.x_axis, self.left, self.right)

    def y(self, value: float) -> float:
        assert self.y_axis is not None
        return _place(value, self.y_axis, self.bottom, self.top)


def sizes(draw: Callable[[int], Markup]) -> tuple[Markup, ...]:
    """Draw a chart that spans the page for a desk, a tablet and a phone.

    A drawing that shrinks takes its text along; three drawings keep it readable everywhere.

    Args:
        draw: Gives the chart of a width in CSS pixels.

    Returns:
        The wide, the medium and the narrow drawing.
    """
    return tuple(draw(width) for width in (1040, 680, 360))


def line_chart(
    series: Sequence[Series],
    x_axis: Axis,
    y_axis: Axis,
    *,
    label: str,
    width: int,
    height: int,
    name_lines: bool = True,
) -> Markup:
    """Draw lines with markers, intervals, and a name at the end of each line.

    Args:
        series: The lines, drawn in order: the last lies on top. Points outside the axes are left
            out of view, the line to them is cut at the frame.
        x_axis: Horizontal axis.
        y_axis: Vertical axis.
        label: What the chart shows, for a reader who cannot see it.
        width: Width in CSS pixels at scale 1.
        height: Height in CSS pixels at scale 1.
        name_lines: Write the names at the line ends; otherwise a legend has to tell them.

    Returns:
        One ``svg`` element.
    """
    widest = max((len(one.label) + 2 for one in series if one.points), default=0)
    right = width - (widest * _CHAR + 10 if name_lines else 12)
    tick_room = max([_TICK_ROOM, *(len(text) * _CHAR for _, text in y_axis.ticks)])
    box = _Box(tick_room + 10, 26, right, height - 40, x_axis, y_axis)
    svg = marks.svg_root(width, height, label)
    _draw_axes(svg, box)
    lines = marks.node(svg, "svg", **_frame(box, 7), overflow="hidden", cls="plot")
    for one in series:
        _draw_line(lines, one, box)
    for one in series:
        _draw_points(svg, one, box)
    if name_lines:
        _draw_names(svg, series, box)
    return marks.markup(svg)


def dot_chart(rows: Sequence[DotRow], x_axis: Axis, *, label: str, width: int) -> Markup:
    """Draw one row of dots per label, such as one row per layer.

    Args:
        rows: The rows from top to bottom; a dot without a place on the axis is cut to its end.
        x_axis: Horizontal axis, shared by all rows.
        label: What the chart shows, for a reader who cannot see it.
        width: Width in CSS pixels at scale 1.

    Returns:
        One ``svg`` element.
    """
    many = len(rows) > _MANY_ROWS
    row_height = 16 if many else 23
    names = [_shorten(row.label, max(22, width // 26)) for row in rows]
    left = max((len(name) for name in names), default=0) * _CHAR + 14
    notes = max((len(row.note) for row in rows), default=0) * _CHAR
    top = 22 if many else 6
    bottom = top + row_height * max(len(rows), 1)
    box = _Box(left, top, width - max(notes + 10, 20), bottom, x_axis)
    svg = marks.svg_root(width, math.ceil(bottom + 40), label)
    _draw_axes(svg, box)
    if many:  # the ticks below are out of sight
        for value, text in x_axis.ticks:
            marks.text(svg, box.x(value), 14, text, "tick middle")
    for index, (row, name) in enumerate(zip(rows, names, strict=True)):
        y = top + row_height * (index + 0.5)
        marks.line(svg, box.left, y, box.right, y, "grid")
        cls = "tick end strong" if row.strong else "tick end"
        marks.title(marks.text(svg, left - 8, y + 4, name, cls), row.label)
        if row.note:
            marks.text(svg, width - 2, y + 4, row.note, "tick end")
        _draw_dots(svg, row, y, box)
    return marks.markup(svg)


def legend(entries: Sequence[tuple[str, str]], lines: bool = True) -> Markup:
    """Draw markers with their names, for charts without names at the line ends.

    Args:
        entries: Pairs of series key and name.
        lines: Show the dash of the series behind its marker.

    Returns:
        A list in HTML whose items carry one small ``svg`` each.
    """
    items = []
    for key, name in entries:
        width = 34 if lines else 14
        svg = marks.Element("svg", {"viewBox": f"0 0 {width} 14", "aria-hidden": "true"})
        svg.set("width", str(width))
        if lines:
            marks.dash(marks.line(svg, 1, 7, 33, 7, f"line {marks.style_class(key)}"), key)
        marks.marker(svg, key, width / 2, 7)
        items.append(Markup("<li>{}{}</li>").format(marks.markup(svg), name))
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move label positions apart, as little as possible, and keep them in a range.

    Args:
        wanted: Positions in any order.
        gap: Least distance of two labels.
        low: Least position.
        high: Largest position; exceeded only if the labels do not fit.

    Returns:
        New positions, in the order of ``wanted``.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    groups: list[tuple[float, int]] = []  # (centre, members): labels that touch move as one
    for index in order:
        groups.append((wanted[index], 1))
        while len(groups) > 1 and _touch(groups[-2], groups[-1], gap):
            (one, few), (other, more) = groups[-2:]
            groups[-2:] = [((one * few + other * more) / (few + more), few + more)]
    places = [
        centre + gap * (member - (members - 1) / 2)
        for centre, members in groups
        for member in range(members)
    ]
    # Two sweeps push what a range end squeezes back into the others.
    for index in range(len(places) - 1, -1, -1):
        limit = high if index == len(places) - 1 else places[index + 1] - gap
        places[index] = min(places[index], limit)
    for index in range(len(places)):
        limit = low if index == 0 else places[index - 1] + gap
        places[index] = max(places[index], limit)
    result = [0.0] * len(wanted)
    for index, place in zip(order, places, strict=True):
        result[index] = place
    return result


def _touch(one: tuple[float, int], other: tuple[float, int], gap: float) -> bool:
    return other[0] - one[0] < gap * (one[1] + other[1]) / 2


def _draw_axes(svg: marks.Element, box: _Box) -> None:
    for value, text in box.x_axis.ticks:
        x = box.x(value)
        if box.y_axis is None:
            marks.line(svg, x, box.top, x, box.bottom, "grid")
        else:
            marks.line(svg, x, box.bottom, x, box.bottom + 4, "axis")
        marks.text(svg, x, box.bottom + 17, text, "tick middle")
    marks.text(svg, (box.left + box.right) / 2, box.bottom + 35, box.x_axis.label, "name middle")
    if box.y_axis is None:
        return
    for value, text in box.y_axis.ticks:
        y = box.y(value)
        marks.line(svg, box.left, y, box.right, y, "grid")
        marks.text(svg, box.left - 7, y + 4, text, "tick end")
    marks.line(svg, box.left, box.bottom, box.right, box.bottom, "axis")
    # Beside the axis a turned name would be read with a tilted head; above it is plain text.
    marks.text(svg, 0, 12, box.y_axis.label, "name")


def _frame(box: _Box, spill: float) -> dict[str, str]:
    """The plot area as an inner viewport that keeps the outer coordinates."""
    x, y = box.left - spill, box.top - spill
    width, height = box.right - box.left + 2 * spill, box.bottom - box.top + spill
    view = f"{marks.number(x)} {marks.number(y)} {marks.number(width)} {marks.number(height)}"
    ends = {"x": x, "y": y, "width": width, "height": height}
    return {key: marks.number(value) for key, value in ends.items()} | {"viewBox": view}


def _draw_line(parent: marks.Element, one: Series, box: _Box) -> None:
    if len(one.points) < 2 or not one.joined:
        return
    path = " ".join(
        f"{'L' if index else 'M'}{marks.number(box.x(point.x))} {marks.number(box.y(point.y))}"
        for index, point in enumerate(one.points)
    )
    cls = f"line {marks.style_class(one.key)}{' strong' if one.strong else ''}"
    marks.dash(marks.node(parent, "path", d=path, cls=cls), one.key)


def _draw_points(svg: marks.Element, one: Series, box: _Box) -> None:
    assert box.y_axis is not None
    for point in one.points:
        if not box.y_axis.low - 1e-9 <= point.y <= box.y_axis.high + 1e-9:
            continue
        x, y = box.x(point.x), box.y(point.y)
        group = marks.node(svg, "g", cls="point")
        if point.low is not None and point.high is not None:
            low, high = (
                box.y(min(max(end, box.y_axis.low), box.y_axis.high))
                for end in (point.low, point.high)
            )
            marks.line(group, x, low, x, high, f"whisker {marks.style_class(one.key)}")
        if one.markers:
            marks.marker(group, one.key, x, y)
        marks.hover(group, x, y, point.text)


def _draw_names(svg: marks.Element, series: Sequence[Series], box: _Box) -> None:
    """Name each line at its end; an arrow says that a line ends outside the frame."""
    assert box.y_axis is not None
    named = [one for one in series if one.points]
    ends = [one.points[-1].y for one in named]
    seen = [box.y_axis.low - 1e-9 <= end <= box.y_axis.high + 1e-9 for end in ends]
    wanted = [box.y(min(max(end, box.y_axis.low), box.y_axis.high)) for end in ends]
    places = spread(wanted, _LINE, 12, box.bottom - 2)
    for one, end, place, inside in zip(named, wanted, places, seen, strict=True):
        cls = marks.style_class(one.key)
        if inside and abs(place - end) > 3:
            start = box.x(one.points[-1].x) + 6
            marks.line(svg, start, end, box.right + 6, place, f"leader {cls}")
        name = one.label if inside else f"{one.label} \N{DOWNWARDS ARROW}"
        strong = " strong" if one.strong else ""
        marks.text(svg, box.right + 9, place + 4, name, f"series {cls}{strong}")


def _draw_dots(svg: marks.Element, row: DotRow, y: float, box: _Box) -> None:
    axis = box.x_axis
    placed = [replace(dot, x=box.x(min(max(dot.x, axis.low), axis.high))) for dot in row.dots]
    if row.joined and len(placed) > 1:
        xs = [dot.x for dot in placed]
        marks.line(svg, min(xs), y, max(xs), y, "bar")
    for dot in placed:
        group = marks.node(svg, "g", cls="point")
        marks.marker(group, dot.key, dot.x, y)
        marks.hover(group, dot.x, y, dot.text)


def _place(value: float, axis: Axis, start: float, end: float) -> float:
    return start + (value - axis.low) / (axis.high - axis.low) * (end - start)


def _shorten(text: str, most: int) -> str:
    """Cut in the middle: layer names differ at both ends."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[-half:]}"

"""The strokes charts are drawn with: markers, dashes, lines and text as SVG elements."""

from __future__ import annotations

from xml.etree import ElementTree

from markupsafe import Markup

Element = ElementTree.Element

_HOVER_RADIUS = "9"
_GROWTH = 1.25

# Key of a series: (marker, dash). Colours are the style sheet's.
_STYLES = {
    "dense": ("none", "7 4"),
    "jackpot": ("circle", ""),
    "jackpot-tuned": ("ring", "6 2"),
    "random-start": ("square", "8 3"),
    "magnitude-bn": ("triangle", "3 3"),
    "magnitude": ("diamond", "9 3 2 3"),
    "random": ("cross", "1 3"),
    "chance": ("ring", ""),
    "level-0": ("circle", ""),
    "level-1": ("square", ""),
    "level-2": ("triangle", ""),
    "level-3": ("diamond", ""),
    "level-4": ("cross", ""),
    "level-5": ("ring", ""),
    "other": ("plus", "5 2 1 2"),
}

_OUTLINES = {
    "square": "M-3.8-3.8h7.6v7.6h-7.6z",
    "triangle": "M0-5L4.6 3.6h-9.2z",
    "diamond": "M0-5.4L5 0 0 5.4-5 0z",
    "cross": "M-3.6-3.6L3.6 3.6M-3.6 3.6L3.6-3.6",
    "plus": "M-4.4 0h8.8M0-4.4v8.8",
}


def style_class(key: str) -> str:
    """Give the class that colours a series; unknown keys share one."""
    return f"s-{key if key in _STYLES else 'other'}"


def dash(element: Element, key: str) -> None:
    """Give a line the dash of its series."""
    pattern = _STYLES.get(key, _STYLES["other"])[1]
    if pattern:
        element.set("stroke-dasharray", pattern)


def marker(parent: Element, key: str, x: float, y: float) -> None:
    """Draw the marker of a series."""
    shape = _STYLES.get(key, _STYLES["other"])[0]
    cls = f"mark {style_class(key)}"
    if shape in {"circle", "ring"}:
        hollow = " hollow" if shape == "ring" else ""
        node(parent, "circle", cx=number(x), cy=number(y), r="4.2", cls=cls + hollow)
    elif shape != "none":
        stroke = " stroke" if shape in {"cross", "plus"} else ""
        place = f"translate({number(x)} {number(y)})"
        node(parent, "path", d=_OUTLINES[shape], transform=place, cls=cls + stroke)


def hover(group: Element, x: float, y: float, words: str) -> None:
    """Let a group show ``words`` under the pointer, with room around a small marker."""
    if words:
        node(group, "circle", cx=number(x), cy=number(y), r=_HOVER_RADIUS, cls="hover")
        title(group, words)


def title(parent: Element, words: str) -> None:
    """Attach text that shows on hover; it has to be the first child."""
    element = ElementTree.Element("title")
    element.text = words
    element.tail, parent.text = parent.text, None
    parent.insert(0, element)


def svg_root(width: int, height: int, label: str) -> Element:
    """Start a chart that scales with the page, up to a little more than its own size."""
    return ElementTree.Element(
        "svg",
        {
            "viewBox": f"0 0 {width} {height}",
            "role": "img",
            "aria-label": label,
            "class": "chart",
            "style": f"max-width:{round(_GROWTH * width)}px",
        },
    )


def node(parent: Element, tag: str, **attributes: str) -> Element:
    """Add an element; ``cls`` is its class."""
    named = {"class" if key == "cls" else key: value for key, value in attributes.items()}
    return ElementTree.SubElement(parent, tag, named)


def line(parent: Element, x1: float, y1: float, x2: float, y2: float, cls: str) -> Element:
    """Add a straight line."""
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return node(parent, "line", cls=cls, **{key: number(end) for key, end in ends.items()})


def text(parent: Element, x: float, y: float, words: str, cls: str) -> Element:
    """Add a line of text."""
    element = node(parent, "text", x=number(x), y=number(y), cls=cls)
    element.text = words
    return element


def number(value: float) -> str:
    """Print a coordinate with two decimals at most: small, and the same on every machine."""
    digits = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if digits == "-0" else digits


def markup(svg: Element) -> Markup:
    """Turn an element into text; ElementTree escapes every text and attribute."""
    return Markup(ElementTree.tostring(svg, encoding="unicode"))

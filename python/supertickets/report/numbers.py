"""Numbers as text: one way to print each unit."""

from __future__ import annotations

import math

MISSING = "\N{EN DASH}"
NBSP = "\N{NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"


def percent(share: float | None, digits: int = 1) -> str:
    """Print a share in [0, 1] as percent, such as ``97.8 %``."""
    return MISSING if share is None else f"{100 * share:.{digits}f}{NBSP}%"


def bare_percent(share: float | None, digits: int = 1) -> str:
    """Print a share in percent without the sign, for a column whose head bears it."""
    return percent(share, digits).removesuffix(f"{NBSP}%")


def brief_percent(share: float) -> str:
    """Print a share with the digits it has: ``90 %``, ``99.5 %``, ``98 %``."""
    return f"{100 * share:.4g}{NBSP}%"


def brief_share(density: float) -> str:
    """Print the share of weights kept: ``10 %``, ``2.4 %``."""
    return percent(density, 1 if density < 0.995 else 0).replace(f".0{NBSP}", NBSP)


def points(difference: float) -> str:
    """Print the size of a difference of two shares in percentage points, without its sign."""
    size = f"{abs(100 * difference):.1f}"
    return f"{size}{NBSP}{'point' if size == '1.0' else 'points'}"


def signed_points(difference: float | None) -> str:
    """Print a difference of two shares in percentage points, with its sign."""
    if difference is None:
        return MISSING
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in {"+0.0", "-0.0"} else text.replace("-", _MINUS)


def count(number: float | None) -> str:
    """Print a whole number with its digits grouped."""
    return MISSING if number is None else f"{round(number):,}"


def short_count(number: float | None) -> str:
    """Print a large number with three digits and a letter, such as ``1.23 M``."""
    return MISSING if number is None else _scaled(number, ("", "k", "M", "G", "T"), "")


def short_tick(number: float) -> str:
    """Print a tick of a count, such as ``1.5 k``, without trailing zeros."""
    return f"{number / 1000:.3g}{NBSP}k" if number >= 1000 else f"{number:.3g}"


def size(number: float | None) -> str:
    """Print bytes with decimal units, such as ``312 kB``."""
    return MISSING if number is None else _scaled(number, ("", "k", "M", "G", "T"), "B")


def duration(seconds: float | None) -> str:
    """Print a duration, such as ``0.42 s``, ``38 s`` or ``2 min 05 s``."""
    if seconds is None:
        return MISSING
    if seconds < 10:
        return f"{seconds:.2g}{NBSP}s" if seconds < 1 else f"{seconds:.1f}{NBSP}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{NBSP}s"
    if whole < 3600:
        return f"{whole // 60}{NBSP}min {whole % 60:02d}{NBSP}s"
    return f"{whole // 3600}{NBSP}h {whole % 3600 // 60:02d}{NBSP}min"


def error_size(error: float | None) -> str:
    """Print a largest absolute error: ``0`` or two digits with an exponent."""
    if error is None:
        return MISSING
    if error == 0:
        return "0 (identical)"
    mantissa, exponent = f"{error:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", _MINUS)


def yes_no(answer: bool | None) -> str:
    """Print a truth value."""
    return MISSING if answer is None else ("yes" if answer else "no")


def interval(share: float | None, number: int | None) -> tuple[float, float] | None:
    """Give the 95 % interval of a share of ``number`` independent trials.

    Args:
        share: Share of successes in [0, 1].
        number: Number of trials.

    Returns:
        Lower and upper end in [0, 1], or ``None`` if a figure is missing.

    Source: the exact interval of Clopper and Pearson, 1934.
    """
    if share is None or not number or not 0 <= share <= 1:
        return None
    from scipy.stats import binomtest

    found = binomtest(round(share * number), number).proportion_ci(0.95, method="exact")
    return float(found.low), float(found.high)


def interval_text(ends: tuple[float, float] | None) -> str:
    """Print an interval of shares in percent, such as ``95.7 - 98.9`` with an en dash."""
    if ends is None:
        return MISSING
    return f"{100 * ends[0]:.1f}{NBSP}{MISSING}{NBSP}{100 * ends[1]:.1f}"


def _scaled(number: float, letters: tuple[str, ...], unit: str) -> str:
    step = 0
    while step + 1 < len(letters) and abs(number) >= 999.5:
        number /= 1000
        step += 1
    digits = 0 if step == 0 or abs(number) >= 99.95 else 1 if abs(number) >= 9.995 else 2
    suffix = letters[step] + unit
    return f"{number:.{digits}f}" + (f"{NBSP}{suffix}" if suffix else "")


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Choose round tick values that lie within an interval.

    Args:
        low: Lower end.
        high: Upper end, above ``low``.
        most: Number of ticks not to be exceeded.

    Returns:
        Multiples of 1, 2 or 5 times a power of ten within ``[low, high]``, ascending.
    """
    raw = (high - low) / max(most - 1, 1)
    base = 10.0 ** math.floor(math.log10(raw))
    for factor in (1, 2, 5, 10, 20):
        step = factor * base
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            break
    return [index * step for index in range(first, last + 1)]

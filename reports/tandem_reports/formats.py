"""Numbers as text. None is a dash: a missing number never becomes 0."""

from __future__ import annotations

import math
import re

MISSING = "–"


def significant(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits, thousands apart: 0.1235, 812.4, 12,346."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4:
        return f"{value:.{max(digits - 2, 1)}e}"
    return f"{value:,.{max(digits - 1 - exponent, 0)}f}"


def micros(value: float | None) -> str:
    """Microseconds."""
    return significant(value)


def ratio(value: float | None) -> str:
    """A ratio such as 3.12×; over 10,000× says no more than that."""
    if value is not None and value > 1e4:
        return "> 10,000×"
    return MISSING if value is None else f"{significant(value, 3)}×"


def percent(value: float | None, decimals: int = 0) -> str:
    """A fraction as a percentage."""
    return MISSING if value is None else f"{100 * value:.{decimals}f} %"


def share(value: float | None) -> str:
    """A fraction of a whole as a percentage; what is not nothing is never 0 %."""
    return "< 1 %" if value is not None and 0 < value < 0.005 else percent(value)


def change(value: float) -> str:
    """A ratio as a signed change: +1.93 %."""
    return f"{100 * (value - 1):+.2f} %".replace("-", "−")


def scaled(value: float | None, unit: str) -> str:
    """A number with a decimal prefix: 241.7 MB, 1.23 TFLOP."""
    if value is None:
        return MISSING
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{significant(value / factor)} {prefix}{unit}"
    return f"{significant(value)} {unit}"


def launches(value: float | None) -> str:
    """A mean count: 6, or 6.25 where replays differ."""
    return f"{value:,.0f}" if value is not None and float(value).is_integer() else significant(value)


def count(value: float | None) -> str:
    """A count: digits up to a million, then millions."""
    if value is None:
        return MISSING
    return f"{significant(value / 1e6)} M" if abs(value) >= 1e6 else significant(value)


def error(value: float | None) -> str:
    """A relative error with two digits: 0.0061, 2.4e-7."""
    return MISSING if value is None else re.sub(r"e([+-])0+(?=\d)", r"e\1", f"{value:.2g}")


def plural(number: int, noun: str) -> str:
    """1 worker, 2 workers."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"

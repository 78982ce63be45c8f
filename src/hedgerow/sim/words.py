"""Amounts in words: bytes, seconds and joules in the unit a reader would choose."""

from __future__ import annotations

_BYTES = ("B", "kB", "MB", "GB", "TB", "PB")
_TIMES = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))


def bytes_in_words(amount: float) -> str:
    """`1.2 MB`; powers of 1,000."""
    return _scaled(amount, _BYTES)


def joules_in_words(amount: float) -> str:
    """`3.4 kJ`."""
    return _scaled(amount, ("J", "kJ", "MJ", "GJ", "TJ"))


def seconds_in_words(amount: float) -> str:
    """`2.5 h`."""
    size, unit = time_unit(amount)
    return f"{_short(amount / size)} {unit}"


def time_unit(amount: float) -> tuple[float, str]:
    """The largest unit of which there are at least two, and its seconds."""
    return next(((size, unit) for size, unit in _TIMES if amount >= 2 * size), _TIMES[-1])


def _scaled(amount: float, units: tuple[str, ...]) -> str:
    place = 0
    while amount >= 999.5 and place + 1 < len(units):
        amount, place = amount / 1000, place + 1
    return f"{_short(amount)} {units[place]}"


def _short(amount: float) -> str:
    """Three digits at most, without trailing zeros."""
    digits = 0 if amount >= 100 else 1 if amount >= 10 else 2
    text = f"{amount:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

"""Rational numbers of libav as Python's own."""

from __future__ import annotations

from fractions import Fraction
from typing import Any


def known(value: Any) -> Fraction | None:
    """Return a rate, ratio or unit of time as a `Fraction`; None where it is not set.

    PyAV below 19 says so by None, newer ones by 0/1 or 0/0 of a class of their own, which has
    less than `Fraction`.
    """
    if value is None or not value.denominator or not value:
        return None
    return Fraction(value.numerator, value.denominator)

"""Checks of a sampler's settings, which come from the command line."""

import math
from typing import Any

from perturb.errors import UserError


def needs(sampler: object, *names: str) -> tuple[Any, ...]:
    """The settings of these names; UserError when one is still open."""
    values = tuple(getattr(sampler, name) for name in names)
    if any(value is None for value in values):
        raise UserError(f"{sampler} leaves settings open; call .resolved(spec.sampling) before sampling")
    return values


def check_whole(name: str, value: object, low: int = 1, high: int | None = None) -> None:
    """Raise UserError unless ``value`` is a whole number from ``low`` (to ``high``)."""
    if type(value) is not int or value < low or (high is not None and value > high):
        to = "" if high is None else f" to {high}"
        raise UserError(f"{name} is {value!r}; allowed: a whole number from {low}{to}")


def check_number(name: str, value: object) -> None:
    """Raise UserError unless ``value`` is a finite number."""
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise UserError(f"{name} is {value!r}; allowed: a finite number")

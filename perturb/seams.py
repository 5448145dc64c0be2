"""Where a configuration names a class: hydra's `instantiate`, with errors that say what is wrong."""

from __future__ import annotations

import inspect
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException

from perturb.command import MISSING
from perturb.errors import UserError
from perturb.structured import unknown_key

Seam = dict[str, Any]
"""``_target_`` (a class or function) and its arguments; `build` makes the object."""


def build(key: str, seam: Seam) -> Any:
    """The object a seam describes. UserError for an unknown target, unknown or missing arguments, and bad values."""
    try:
        target = hydra.utils.get_object(seam["_target_"])
    except KeyError:
        raise UserError(f"{key} lacks _target_: name the class to build, for example in conf/{key}/mine.yaml") from None
    except Exception as error:
        raise UserError(f"{key}._target_ is {seam['_target_']!r}, which cannot be imported: {error}") from error
    parameters = inspect.signature(target).parameters
    given = [name for name in seam if name != "_target_"]
    for name in given:
        if name not in parameters:
            raise UserError(unknown_key(f"{key}.{name}", parameters))
    given = [name for name in given if seam[name] != MISSING]
    if missing := [n for n, p in parameters.items() if p.default is p.empty and n not in given]:
        raise UserError(f"{', '.join(f'{key}.{name}' for name in missing)}: missing for {seam['_target_']}")
    try:
        return hydra.utils.instantiate(seam, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        raise

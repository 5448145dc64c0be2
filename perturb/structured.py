"""Plain mappings (from yaml or json) to dataclasses and to objects, every key and every type checked."""

import difflib
import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar

import hydra.utils
from hydra.errors import InstantiationException

from perturb.errors import UserError

T = TypeVar("T")
MISSING_VALUE = "???"
"""OmegaConf's mark of a value that the user has to give."""

Target = dict[str, Any]
"""``_target_`` (a class or function) and its arguments; `build` makes the object."""

MOVED = {
    "perturb.data.shapes.HighGradeStills": "perturb.world.GradeStills",
    "perturb.data.shapes": "perturb.world",
    "perturb.videocrafter": "perturb.models.videocrafter",
    "perturb.metrics.shapes": "perturb.metrics.embedded.shapes",
    "perturb.stages.trained": "perturb.training.trained",
}
"""Old names, of classes and of modules, in the configurations that runs of schema 1 recorded."""


def read(cls: type[T], data: object, where: str = "") -> T:
    """``data`` as dataclass ``cls``; lists become tuples, whole numbers become floats where a float is wanted.

    Raises UserError naming the key, what was given and what is allowed: for an unknown or missing key and for a value
    of the wrong type. Ranges are the business of the dataclass's own ``__post_init__``.
    """
    if not isinstance(data, Mapping):
        raise UserError(f"{where or cls.__name__}: expected a mapping, got {data!r}")
    known = {field.name: field for field in fields(typing.cast(Any, cls))}
    for key in data:
        if key not in known:
            raise UserError(unknown_key(_join(where, str(key)), known))
    required = [f.name for f in known.values() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [_join(where, name) for name in required if name not in data]:
        raise UserError(f"{', '.join(missing)}: missing; give {' '.join(f'{name}=…' for name in missing)}")
    hints = typing.get_type_hints(cls)
    return cls(**{key: convert(value, hints[key], _join(where, key)) for key, value in data.items()})


def unknown_key(key: str, allowed: Iterable[str]) -> str:
    """The message for a key that does not exist, with the nearest one that does."""
    allowed = sorted(allowed)
    parent, _, name = key.rpartition(".")
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f" Did you mean {_join(parent, close[0])!r}?" if close else ""
    return f"{key}: unknown key.{hint} Allowed{f' under {parent}' if parent else ''}: {', '.join(allowed)}."


def convert(value: Any, kind: Any, where: str) -> Any:
    """``value`` as type ``kind`` (a class, dataclass, X | None, Literal, tuple[X, ...], dict), or a UserError."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _convert_union(value, options, where)
    if is_dataclass(kind):
        return value if isinstance(value, typing.cast(Any, kind)) else read(typing.cast(Any, kind), value, where)
    if origin is Literal:
        if value not in options:
            raise UserError(f"{where} is {value!r}; allowed: {', '.join(map(str, options))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where} is {value!r}; allowed: a list, for example [1,2]")
        return tuple(convert(item, options[0], f"{where}[{i}]") for i, item in enumerate(value))
    return _convert_plain(value, origin or kind, where)


def _convert_union(value: Any, options: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in options:
        return None
    errors = []
    for option in options:
        if option is not type(None):
            try:
                return convert(value, option, where)
            except UserError as error:
                errors.append(str(error))
    suffix = " or null" if type(None) in options else ""
    raise UserError(f"{errors[0]}{suffix}")


def _convert_plain(value: Any, kind: Any, where: str) -> Any:
    if kind is Any:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind is dict or kind is Mapping:
        kind = Mapping
    if not isinstance(value, kind) or (type(value) is bool and kind is not bool):
        raise UserError(f"{where} is {value!r}; allowed: {_NAMES.get(kind, kind.__name__)}")
    return value


_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Mapping: "a mapping"}


def _join(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name


def check_range(where: str, value: float | None, *, low: float = float("-inf"), high: float = float("inf")) -> None:
    """Raise UserError unless ``low ≤ value ≤ high`` (None passes: it means the model's default)."""
    if value is not None and not low <= value <= high:
        allowed = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
        raise UserError(f"{where} is {value!r}; allowed: {allowed}")


def build(key: str, target: Target) -> Any:
    """The object a configuration names. UserError for an unknown target, unknown or missing arguments, bad values."""
    try:
        target = target | {"_target_": _today(target["_target_"])}
        made = hydra.utils.get_object(target["_target_"])
    except KeyError:
        raise UserError(f"{key} lacks _target_: name the class to build, for example in conf/{key}/mine.yaml") from None
    except Exception as error:
        raise UserError(f"{key}._target_ is {target['_target_']!r}, which cannot be imported: {error}") from error
    parameters = inspect.signature(made).parameters
    given = [name for name in target if name != "_target_"]
    for name in given:
        if name not in parameters:
            raise UserError(unknown_key(f"{key}.{name}", parameters))
    given = [name for name in given if target[name] != MISSING_VALUE]
    if missing := [n for n, p in parameters.items() if p.default is p.empty and n not in given]:
        raise UserError(f"{', '.join(f'{key}.{name}' for name in missing)}: missing for {target['_target_']}")
    try:
        return hydra.utils.instantiate(target, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        raise


def _today(name: str) -> str:
    """The name of a class as it is now.

    >>> _today("perturb.data.shapes.HighGradeStills"), _today("mine.Images")
    ('perturb.world.GradeStills', 'mine.Images')
    """
    old = next((old for old in MOVED if f"{name}.".startswith(f"{old}.")), None)
    return name if old is None else MOVED[old] + name.removeprefix(old)

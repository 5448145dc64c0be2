"""The parameters of a network by what they model: space (θ_S), time (θ_T), conditioning, or the image branch.

A parameter belongs to the nearest block above it whose class names a group. Classes, not names: a published checkpoint
misspells its temporal convolutions, and an index says nothing about what is inside. A user may give patterns of names
instead, for other groups or another network.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from perturb.errors import UserError

GROUPS = ("spatial", "temporal", "conditioning", "image")
ALL = "all"
"""Stands for every group together, wherever a group is asked for."""
Rules = Mapping[type[nn.Module] | tuple[type[nn.Module], str], str]
"""The group of a class; (class, name): that of what a module of the class calls so, where its own class has none."""
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
SHOWN = 10  # parameters in a message


@dataclass(frozen=True)
class Partition:
    """Every parameter of a network in exactly one group (a group may be empty).

    Build it before an adapter is attached: wrappers would add parameters of their own.

    ``groups``: group → parameter names, in the network's order. ``shapes``: parameter name → shape.
    ``modules``: group → names of its layers with a weight matrix (``LAYERS``), in the network's order.
    """

    groups: Mapping[str, tuple[str, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    modules: Mapping[str, tuple[str, ...]]

    @staticmethod
    def of(network: nn.Module, rules: Rules = MappingProxyType({})) -> "Partition":
        """By block classes, into `GROUPS`: ``rules`` (`Rules`) or a class's own ``group`` say which.

        Raises UserError where a module lies under no such class.
        """
        owner = {}
        for path, module, group in _walk(network, rules, "", None):
            owner |= {f"{path}.{name}".lstrip("."): group for name, _ in module.named_parameters(recurse=False)}
        return Partition._assigned(network, GROUPS, owner)

    @staticmethod
    def named(network: nn.Module, patterns: Mapping[str, str]) -> "Partition":
        """By name: group → regular expression, searched for in the full names of the parameters.

        Raises UserError for an expression that is none or fits no parameter, and lists the parameters that fit none of
        them or several.
        """
        names = [name for name, _ in network.named_parameters()]
        fitting = {group: _fitting(group, pattern, names) for group, pattern in patterns.items()}
        groups = {name: [group for group, found in fitting.items() if name in found] for name in names}
        problems = [f"{name} is in none of them" for name, found in groups.items() if not found]
        problems += [f"{name} is in {' and '.join(found)}" for name, found in groups.items() if len(found) > 1]
        if problems:
            more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
            raise UserError(
                "\n  ".join(["partition.groups must hold every parameter exactly once:", *problems[:SHOWN]]) + more
            )
        return Partition._assigned(network, tuple(patterns), {name: found for name, (found,) in groups.items()})

    @staticmethod
    def _assigned(network: nn.Module, groups: Sequence[str], owner: Mapping[str, str]) -> "Partition":
        """From parameter name → group; a layer is where its weight is."""
        shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
        assert owner.keys() == shapes.keys(), "a parameter is in no group, or shared between two modules"
        layers = {name: owner[f"{name}.weight"] for name, m in network.named_modules() if isinstance(m, LAYERS)}
        return Partition(_by_group(groups, owner), MappingProxyType(shapes), _by_group(groups, layers))

    def names(self, group: str) -> tuple[str, ...]:
        """Parameter names of ``group``; of all groups where it is "all"."""
        if group == ALL:
            return tuple(self.shapes)
        if group not in self.groups:
            raise UserError(
                f"group is {group!r}; allowed: {', '.join(self.groups)}, both for spatial and temporal, and {ALL}"
            )
        return self.groups[group]

    def count(self, group: str) -> int:
        """Number of parameters (scalars) in ``group``."""
        return sum(math.prod(self.shapes[name]) for name in self.names(group))

    def layers(self, group: str) -> tuple[str, ...]:
        """Exact names of the Linear and convolution modules of ``group``: what a low-rank adapter can reach."""
        self.names(group)
        return tuple(name for own, names in self.modules.items() if group in (own, ALL) for name in names)

    def touched(self, layers: Iterable[str]) -> dict[str, int]:
        """Group → how many of these layers or parameters are in it; groups without any are left out."""
        owner = {name: group for group, names in (*self.groups.items(), *self.modules.items()) for name in names}
        return dict(Counter(owner[layer] for layer in layers))

    def unreachable(self, group: str) -> tuple[str, ...]:
        """Parameters of ``group`` with two or more axes that are in none of ``layers``: relative-position tables.

        One-axis parameters (biases, norms) are not listed: no low-rank adapter is meant for them.
        """
        reached = set(self.layers(group))
        return tuple(
            name for name in self.names(group) if len(self.shapes[name]) >= 2 and name.rpartition(".")[0] not in reached
        )

    def counts(self) -> dict[str, int]:
        """Group → number of parameters, for records."""
        return {group: self.count(group) for group in self.groups}


def _walk(module: nn.Module, rules: Rules, path: str, inherited: str | None) -> Iterator[tuple[str, nn.Module, str]]:
    """Every module below ``module`` with its path and the group of the nearest class that names one."""
    group = rules.get(type(module), getattr(type(module), "group", inherited))
    if group not in GROUPS:
        allowed = ", ".join(GROUPS)
        raise UserError(f"{type(module).__name__} at {path or 'the top'} names group {group!r}; allowed: {allowed}")
    yield path, module, group
    for name, child in module.named_children():
        inner = rules.get((type(module), name), group)
        yield from _walk(child, rules, f"{path}.{name}" if path else name, inner)


def _fitting(group: str, pattern: str, names: Sequence[str]) -> set[str]:
    try:
        found = {name for name in names if re.search(pattern, name)}
    except re.error as error:
        raise UserError(f"partition.groups.{group} is {pattern!r}, which is no regular expression: {error}") from None
    if not found:
        raise UserError(f"partition.groups.{group} is {pattern!r}, which fits no parameter, e.g. not {names[0]}")
    return found


def _by_group(groups: Sequence[str], owner: Mapping[str, str]) -> Mapping[str, tuple[str, ...]]:
    return MappingProxyType({group: tuple(name for name, own in owner.items() if own == group) for group in groups})

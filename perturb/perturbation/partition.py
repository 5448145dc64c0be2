"""The parameters of a network by what they model: space (θ_S), time (θ_T), conditioning, or the image branch.

A parameter belongs to the nearest block above it whose class names a group. Classes, not names: a published checkpoint
misspells its temporal convolutions, and an index says nothing about what is inside.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from perturb.errors import UserError

GROUPS = ("spatial", "temporal", "conditioning", "image")
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Partition:
    """Every parameter of a network in exactly one of ``GROUPS`` (a group may be empty).

    Build it before an adapter is attached: wrappers would add parameters of their own.

    ``groups``: group → parameter names, in the network's order. ``shapes``: parameter name → shape.
    ``modules``: group → names of its layers with a weight matrix (``LAYERS``), in the network's order.
    """

    groups: Mapping[str, tuple[str, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    modules: Mapping[str, tuple[str, ...]]

    @staticmethod
    def of(network: nn.Module) -> Partition:
        """The partition of ``network``, whose outermost class must itself name a group (as ``VideoUNet`` does)."""
        groups: dict[str, list[str]] = {group: [] for group in GROUPS}
        modules: dict[str, list[str]] = {group: [] for group in GROUPS}
        for path, module, group in _walk(network, "", None):
            prefix = f"{path}." if path else ""
            groups[group] += [prefix + name for name, _ in module.named_parameters(recurse=False)]
            if isinstance(module, LAYERS):
                modules[group].append(path)
        shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
        named = [name for names in groups.values() for name in names]
        assert len(named) == len(set(named)), "a parameter is in two groups"
        assert set(named) == set(shapes), "a parameter is in no group, or shared between two modules"
        return Partition(_frozen(groups), MappingProxyType(shapes), _frozen(modules))

    def names(self, group: str) -> tuple[str, ...]:
        """Parameter names of ``group``."""
        if group not in self.groups:
            raise UserError(f"unknown parameter group {group!r}; allowed: {', '.join(self.groups)}")
        return self.groups[group]

    def count(self, group: str) -> int:
        """Number of parameters (scalars) in ``group``."""
        return sum(math.prod(self.shapes[name]) for name in self.names(group))

    def layers(self, group: str) -> tuple[str, ...]:
        """Exact names of the Linear and convolution modules of ``group``: what a low-rank adapter can reach."""
        self.names(group)
        return self.modules[group]

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


def _walk(module: nn.Module, path: str, inherited: str | None) -> Iterator[tuple[str, nn.Module, str]]:
    """Every module below ``module`` with its path and the group of the nearest class that names one."""
    group = getattr(type(module), "group", inherited)
    if group not in GROUPS:
        allowed = ", ".join(GROUPS)
        raise UserError(f"{type(module).__name__} at {path or 'the top'} names group {group!r}; allowed: {allowed}")
    yield path, module, group
    for name, child in module.named_children():
        yield from _walk(child, f"{path}.{name}" if path else name, group)


def _frozen(groups: Mapping[str, list[str]]) -> Mapping[str, tuple[str, ...]]:
    return MappingProxyType({group: tuple(names) for group, names in groups.items()})

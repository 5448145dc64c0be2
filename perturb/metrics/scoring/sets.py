"""Measures of whole sets, from what was kept of each clip; nothing here reads a clip."""

from collections.abc import Mapping, Sequence
from typing import overload

import numpy as np

from perturb.metrics.base import Gathered, Metric, SetMetric, Sets, Value
from perturb.metrics.scoring.measure import ClipSource, Feature, Format, Measured

Survey = Sequence[tuple[ClipSource, Measured]]
"""A set of clips, and what is known of each by itself."""


class Features(Sequence[np.ndarray]):
    """Arrays that lie on disk and are read when they are asked for: those of a large set do not fit into memory."""

    def __init__(self, files: Sequence[Feature]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> "Features": ...
    def __getitem__(self, index: int | slice) -> "np.ndarray | Features":
        if isinstance(index, slice):
            return Features(self.files[index])
        found = self.files[index]
        return found if isinstance(found, np.ndarray) else np.load(found)


def combine(
    metric: SetMetric, key: str, *, own: Survey, reference: Survey | None, images: Survey | None
) -> Mapping[str, Value | Sequence[Value]]:
    """The values of a measure of sets; a clip of which nothing was kept is left out and has its reason as value.

    Where nothing was kept of any clip, the set has the reason of the first.
    """
    kept = [measured.features.get(key, Value.failed(measured.problem)) for _, measured in own]
    reasons = [feature for feature in kept if isinstance(feature, Value)]
    if reasons and len(reasons) == len(kept):
        return {info.name: reasons[0] if info.scope == "set" else reasons for info in metric.infos}
    others = (_gathered(survey or (), key) for survey in (reference, images))
    found = metric.combine(Sets(_gathered(own, key), *(other if other.samples else None for other in others)))
    outcome: dict[str, Value | Sequence[Value]] = {}
    for info in metric.infos:
        values = found[info.name]
        if not isinstance(values, Value):
            numbers = iter(values)
            values = [feature if isinstance(feature, Value) else next(numbers) for feature in kept]
        outcome[info.name] = values
    return outcome


def _gathered(survey: Survey, key: str) -> Gathered:
    """What was kept of a set."""
    kept = [
        (source.sample, found)
        for source, measured in survey
        if isinstance(found := measured.features.get(key), Feature)
    ]
    return Gathered([sample for sample, _ in kept], Features([found for _, found in kept]))


def refusals(metrics: Sequence[Metric | SetMetric], formats: Sequence[Format | None]) -> dict[str, Value]:
    """By name of a measure: unavailable, where the clips differ in something it depends on."""
    sound = [one for one in formats if one is not None]
    found = {"fps": sorted({f"{one.fps:g}" for one in sound}), "size": sorted({one.size for one in sound})}
    refused: dict[str, Value] = {}
    for info in (info for metric in metrics for info in metric.infos):
        differing = [_listed(name, found[name]) for name in info.depends if len(found[name]) > 1]
        if differing:
            reason = f"depends on {' and '.join(info.depends)}, and the clips differ in {' and '.join(differing)}"
            refused[info.name] = Value.unavailable(f"{reason}; mixed=true compares them all the same")
    return refused


def _listed(name: str, values: Sequence[str]) -> str:
    """A few of the values, for a message.

    >>> _listed("fps", ["8", "24"])
    'fps (8, 24)'
    """
    return f"{name} ({', '.join(values[:4])}{', …' if len(values) > 4 else ''})"

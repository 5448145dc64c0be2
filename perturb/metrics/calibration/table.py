"""The calibration table: how every embedded metric answers to every distortion."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import pandas as pd

from perturb.metrics import Clip, Context, Metric, MetricInfo, SetMetric, Value, Watermark, embedded_metrics
from perturb.metrics.base import Gathered, Sets
from perturb.metrics.calibration.cases import FEW, Case, cases, clean_clips, few_cases, marked_clips, originals, stills

NOTHING = 1e-3
"""A metric that is below this on some clean clip has no relative change; its change is a difference."""


@dataclass(frozen=True)
class Row:
    """One metric under one distortion.

    ``clean``, ``value``: medians over the clips · ``change``: median over clips of value/clean - 1, or of value - clean
    where ``scale`` is absolute · ``lowest``, ``highest``: the changes of the clips at both ends. Of a measure of the
    whole set there is one value, and ``clips`` is 1. NaN where the metric has no value.
    """

    distortion: str
    strength: float
    unit: str
    metric: str
    axis: str
    direction: str
    scale: str
    clean: float
    value: float
    change: float
    lowest: float
    highest: float
    clips: int

    @property
    def worst(self) -> float:
        """The change of the clip that moved most."""
        return max(self.lowest, self.highest, key=abs)


Scores = Mapping[str, Sequence[Value]]


def calibrate() -> list[Row]:
    """Every case × every embedded metric that needs no weights."""
    metrics = [metric for metric in embedded_metrics() if not any(info.needs for info in metric.infos)]
    return _table(metrics, cases(), originals())


def calibrate_learned(metrics: Sequence[Metric | SetMetric]) -> list[Row]:
    """A few cases × metrics that are slow; step 0 are the few clean clips alone."""
    return _table(metrics, few_cases(), clean_clips(FEW))


def _table(metrics: Sequence[Metric | SetMetric], those: Iterable[Case], original: Sequence[Clip]) -> list[Row]:
    infos = [info for metric in metrics for info in metric.infos]
    score = _Scorer(metrics, original)
    clean: dict[int, Scores] = {}
    compared = []
    for case in those:
        if id(case.clean) not in clean:
            clean[id(case.clean)] = score(case.clean)
        compared.append((case, clean[id(case.clean)], score(case.altered)))
    relative = {info.name: _has_shares(info, list(clean.values())) for info in infos}
    return [
        _row(case, info, before[info.name], after[info.name], relative[info.name])
        for case, before, after in compared
        for info in infos
    ]


def _has_shares(info: MetricInfo, clean: Sequence[Scores]) -> bool:
    """Whether a share of the clean value means something: no metric of either sign, and nowhere near 0."""
    return info.range[0] == 0 and all(number >= NOTHING for scores in clean for number in _numbers(scores[info.name]))


class _Scorer:
    """Scores clips against the clean ones as step 0; the trace of a mark against the clean ones under a mark."""

    def __init__(self, metrics: Sequence[Metric | SetMetric], original: Sequence[Clip]) -> None:
        self.context = Context({clip.sample: clip for clip in original})
        self.clip_metrics = [metric for metric in metrics if isinstance(metric, Metric)]
        self.set_metrics = [
            (
                metric,
                _kept(metric, marked_clips() if isinstance(metric, Watermark) else original),
                _kept(metric, stills()),
            )
            for metric in metrics
            if not isinstance(metric, Metric)
        ]

    def __call__(self, clips: Sequence[Clip]) -> Scores:
        scores: dict[str, Sequence[Value]] = {}
        for metric in self.clip_metrics:
            scores |= metric(clips, self.context)
        for metric, step_0, images in self.set_metrics:
            found = metric.combine(Sets(_kept(metric, clips), step_0, images))
            scores |= {name: [one] if isinstance(one, Value) else one for name, one in found.items()}
        return scores


def _kept(metric: SetMetric, clips: Sequence[Clip]) -> Gathered:
    features = [feature for feature in metric.features(clips) if not isinstance(feature, Value)]
    assert len(features) == len(clips), "a calibration clip cannot be measured"
    return Gathered([clip.sample for clip in clips], features)


def _numbers(values: Sequence[Value]) -> list[float]:
    return [math.nan if value.value is None else value.value for value in values]


def _row(case: Case, info: MetricInfo, before: Sequence[Value], after: Sequence[Value], relative: bool) -> Row:
    old, new = _numbers(before), _numbers(after)
    changes = [b / a - 1 if relative else b - a for a, b in zip(old, new, strict=True)]
    return Row(
        distortion=case.distortion,
        strength=case.strength,
        unit=case.unit,
        metric=info.name,
        axis=info.axis,
        direction=info.direction,
        scale="relative" if relative else "absolute",
        clean=median(old),
        value=median(new),
        change=median(changes),
        lowest=min(changes),
        highest=max(changes),
        clips=len(changes),
    )


def table_csv(rows: Sequence[Row]) -> str:
    """All rows, numbers with six significant digits."""
    return pd.DataFrame(rows).to_csv(index=False, float_format="%.6g", na_rep="nan")


def table_markdown(rows: Sequence[Row]) -> str:
    """Distortions down, metrics across: the median change, and in brackets the worst of the clips where it differs."""
    metrics = list(dict.fromkeys(row.metric for row in rows))
    lines = [["distortion", "strength", *metrics], ["---", "---", *("--:" for _ in metrics)]]
    by_case: dict[tuple[str, float, str], dict[str, Row]] = {}
    for row in rows:
        by_case.setdefault((row.distortion, row.strength, row.unit), {})[row.metric] = row
    for (distortion, strength, unit), found in by_case.items():
        lines.append([distortion, f"{strength:g} {unit}".strip(), *(_cell(found[name]) for name in metrics)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(row: Row) -> str:
    middle, worst = (_written(change, row.scale) for change in (row.change, row.worst))
    return middle if middle == worst else f"{middle} ({worst})"


def _written(change: float, scale: str) -> str:
    """
    >>> _written(-0.254, "relative"), _written(0.25, "absolute"), _written(0.0, "relative")
    ('-25 %', '+0.25', '0 %')
    """
    if math.isnan(change):
        return "–"
    text = f"{100 * change:+.0f} %" if scale == "relative" else f"{change:+.2f}"
    return text.replace("+0 %", "0 %").replace("-0 %", "0 %").replace("+0.00", "0").replace("-0.00", "0")

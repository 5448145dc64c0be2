"""The aggregates that VBench and EvalCrafter publish, from the means of their parts; for comparison, not our verdict.

All weights of EvalCrafter's motion quality are negative: a frozen clip scores highest. They are pure functions of
finished values, and each says which of its parts it was made from.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from perturb.metrics.base import Axis, Metric, MetricInfo, SetMetric, Value


@dataclass(frozen=True)
class Part:
    """One metric in an aggregate: weight · (x - low)/(high - low), x its mean over all clips."""

    metric: str
    weight: float
    low: float = 0.0
    high: float = 1.0

    def prepare(self, x: float) -> float:
        """(x - low)/(high - low): 0 at low, 1 at high; high < low turns it round."""
        return (x - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Aggregate:
    """What an aggregate is called and how it comes about from the prepared parts that are present."""

    info: MetricInfo
    parts: tuple[Part, ...]
    least: float
    """The share of the parts' absolute weights that must be present; with less it is unavailable."""
    combine: Callable[[float, float], float]
    """(sum of weighted parts, sum of their weights) → value."""

    def of(self, means: Mapping[str, float]) -> Value:
        """The value, its reason naming the parts present and absent; unavailable, with the same list, for too few."""
        present = [part for part in self.parts if part.metric in means]
        made = _names("present", present) + _names("; absent", [part for part in self.parts if part not in present])
        share = sum(abs(part.weight) for part in present) / sum(abs(part.weight) for part in self.parts)
        if share < self.least:
            return Value.unavailable(f"too few of the parts: {made}")
        total = sum(part.weight * part.prepare(means[part.metric]) for part in present)
        value = Value.of(self.combine(total, sum(part.weight for part in present)))
        return Value(value.value, "ok", made) if value.status == "ok" else value


def _names(title: str, parts: Sequence[Part]) -> str:
    return f"{title}: {', '.join(part.metric for part in parts) or 'none'}"


def _linear(offset: float) -> Callable[[float, float], float]:
    return lambda total, _weights: 500 * (total + offset)


def _info(name: str, axis: Axis, formula: str, *, source: str, pitfalls: str, unit: str = "points") -> MetricInfo:
    top = 1.0 if unit == "1" else 100.0
    return MetricInfo(
        name, axis, unit, (0.0, top), "up", (), formula, source, scope="set", depends=("fps", "size"), pitfalls=pitfalls
    )  # fmt: skip


_REGRESSION = (
    "A regression to human ratings: the range is nominal, and without any one of its parts it means nothing, so all "
    "must be present."
)

VBENCH = Aggregate(
    _info(
        "vbench_quality",
        "visual",
        "Σ w (x - min)/(max - min) / Σ w over the parts present; w = ½ for dynamic_degree, else 1",
        unit="1",
        source="VBench (Huang et al. 2024), quality score",
        pitfalls="VBench counts absent parts as 0; here they are left out and named, and half of the weight "
        "must be there. Compare only values of the same parts. Four of the seven parts are best for a static clip.",
    ),
    (
        Part("subject_consistency", 1.0, low=0.1462),
        Part("background_consistency", 1.0, low=0.2615),
        Part("vbench_flicker", 1.0, low=0.6293),
        Part("motion_smoothness", 1.0, low=0.706, high=0.9975),
        Part("aesthetic", 1.0),
        Part("imaging_quality", 1.0),
        Part("dynamic_degree", 0.5),
    ),
    least=0.5,
    combine=lambda total, weights: total / weights,
)

EVALCRAFTER_VISUAL = Aggregate(
    _info(
        "evalcrafter_visual",
        "visual",
        "500(.03004555 A + .02887537 T - .01382558 IS/100 + .087074627), A = dover_aesthetic, T = dover_technical",
        source="EvalCrafter (Liu et al. 2024), visual quality",
        pitfalls=_REGRESSION,
    ),
    (
        Part("dover_aesthetic", 0.03004555),
        Part("dover_technical", 0.02887537),
        Part("inception_score", -0.01382558, high=100.0),
    ),
    least=1.0,
    combine=_linear(0.08707462696457707),
)

EVALCRAFTER_TEMPORAL = Aggregate(
    _info(
        "evalcrafter_temporal",
        "motion",
        "500(2.92492244 clip_temp + .45475678(1 - warping_error) + .17561504 face_consistency - 3.42274051)",
        source="EvalCrafter (Liu et al. 2024), temporal consistency",
        pitfalls=f"{_REGRESSION} A static clip scores highest. Fitted to numbers from frames that were not normalised.",
    ),
    (
        Part("clip_temp", 2.92492244),
        Part("warping_error", 0.45475678, low=1.0, high=0.0),
        Part("face_consistency", 0.17561504),
    ),
    least=1.0,
    combine=_linear(-3.42274050899774),
)

EVALCRAFTER_MOTION = Aggregate(
    _info(
        "evalcrafter_motion",
        "motion",
        "500(-.01641512 action_score - .01340959 motion_ac - .10517075 flow_score/100 + .1297562021)",
        source="EvalCrafter (Liu et al. 2024), motion quality",
        pitfalls=f"All weights are negative: a frozen clip scores highest, so it is no measure of motion "
        f"quality. {_REGRESSION}",
    ),
    (
        Part("action_score", -0.01641512),
        Part("motion_ac", -0.01340959),
        Part("flow_score", -0.10517075, high=100.0),
    ),
    least=1.0,
    combine=_linear(0.1297562020899355),
)

AGGREGATES = (VBENCH, EVALCRAFTER_VISUAL, EVALCRAFTER_TEMPORAL, EVALCRAFTER_MOTION)


def aggregates(means: Mapping[str, float], measured: Collection[str]) -> list[tuple[MetricInfo, Value]]:
    """The aggregates of which a part is among the ``measured`` metrics, from {metric: mean of its values}.

    A measured metric without any value has no mean, and counts as absent.
    """
    return [(one.info, one.of(means)) for one in _touched(measured)]


def described(metrics: Iterable[Metric | SetMetric]) -> list[MetricInfo]:
    """The infos of everything that scoring by these metrics gives: their own, then those of the aggregates."""
    own = [info for metric in metrics for info in metric.infos]
    return own + [one.info for one in _touched({info.name for info in own})]


def _touched(measured: Collection[str]) -> list[Aggregate]:
    return [one for one in AGGREGATES if any(part.metric in measured for part in one.parts)]

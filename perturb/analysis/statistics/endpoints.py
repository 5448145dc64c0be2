"""The endpoints of a coupling study, declared here before any pair of joint twins was trained.

    Y[s, p, k]   a measure by LoRA seed s, prompt p and state k, x_k the place of the state; state 0 is unperturbed

    horizon      h: the first state whose loss on D_I is at most 1.5 × the loss of the untouched model on its own
                 training grade; where there is none the last state. Of a pair it is the later one of both models: a
                 path is read in one stretch, or who has converged at once would be read in the trough of the first
                 steps alone (seen on the shipped pair, before any other was trained)
    converged    that loss is reached, or the fit is flat: its second half brings at most 5 % of the fall of its loss,
                 L_half − L_end ≤ .05 (L_0 − L_end). A D_I that is hard in itself is never predicted like one's own
                 stills (declared when three of the joint pairs were known, before the others were trained)
    primary      A_full − A_partial    A = trapz_{k ≤ h}(Ȳ_k/Ȳ_0)/(x_h − x_0), Ȳ the mean over prompts of motion
                                       quality: the share of motion kept, averaged along the path
    co-primary   P = mean_{s, p} [J_full < J_partial] + ½ [J_full = J_partial]
                                       J[s, p] = trapz_{k ≤ h}(j − j_0)/(x_h − x_0), j the jerk of the object's path:
                                       how often the full model keeps more of a steady path, prompt by prompt
    gates        where both models keep less than 20 % there is no verdict: both lie on the floor. Nor is there one
                 where both keep more than 95 % along the path: on that ceiling nothing is lost, as with a D_I that the
                 models know already, and a verdict over several image sets rests on the others (declared when five
                 joint pairs were known, for those to come)

A depends neither on where a model starts nor on how fast it is perturbed; j has no floor and hardly a gap at the
start (.493 and .488 in the shipped twins). The unit of the question is the pair of twins: what is quoted is Student t
over one value per pair, K − 1 degrees of freedom. Every pair samples the same prompts, d[k, p], so beside it stand the
interval over pairs and prompts, which are crossed, and a mixed model. With one pair the interval is over its LoRA seeds
and prompts, and covers no other pair. A verdict needs two pairs or more, a converged fit, no floor, an interval of the
primary endpoint that excludes 0 over pairs and over pairs and prompts, and the co-primary endpoint on the same side.
"""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from perturb.analysis.statistics.contrast import Nested, share
from perturb.analysis.statistics.crossed import crossed_interval
from perturb.analysis.statistics.estimates import Estimate, mean_interval
from perturb.analysis.statistics.resampling import Floats

PRIMARY, CO_PRIMARY = "motion_quality", "path_jerk"
"""The measures that the endpoints are read on."""
CONVERGED = 1.5
"""Of the loss on the model's own training grade: a fit that comes this near has learned D_I."""
FLAT = 0.05
"""Of the whole fall of the loss: a fit whose second half brings no more is flat. One of joint twins on high-grade
stills that brought 2.9 % fell by another 2.1 % when it was made twice as long (experiments/coupling)."""
FLOOR = 0.2
"""Share of motion below which what is left is texture: a still that drifts keeps about as much."""
CEILING = 0.95
"""Share of motion kept along the path above which nothing is lost: two models above it differ by less than 5 points."""
EVEN = 0.5
"""P where neither model is ahead."""
ENOUGH_PAIRS = 2
"""Fewer have no interval over pairs."""

Kind = Literal[
    "unmeasured", "floor", "ceiling", "one pair", "not converged", "interval", "endpoints", "full", "partial"
]


@dataclass(frozen=True)
class Horizon:
    """``place``: the index of the last state that counts; ``converged`` None where the losses are unknown."""

    place: int
    converged: bool | None


def horizon(losses: ArrayLike | None, own: float | None, x: ArrayLike) -> Horizon:
    """From the loss on D_I at every state, its place x, and the loss of the untouched model on its own training grade.

    The losses are means over LoRA seeds. State 0 is never the horizon: nothing is perturbed there.

    >>> horizon([9.0, 4.0, 1.4, 1.2], 1.0, [0, 1, 2, 4]), horizon([9.0, 4.0], 1.0, [0, 1])
    (Horizon(place=2, converged=True), Horizon(place=1, converged=False))
    >>> horizon([9.0, 4.0, 3.8], 1.0, [0, 2, 4])  # flat
    Horizon(place=2, converged=True)
    """
    at, last = np.asarray(x, dtype=float), np.size(x) - 1
    if losses is None or own is None or not np.isfinite(loss := np.asarray(losses, dtype=float)).all():
        return Horizon(last, None)
    if (near := np.flatnonzero(loss[1:] <= CONVERGED * own)).size:
        return Horizon(int(near[0]) + 1, True)
    half = np.flatnonzero(at <= (at[0] + at[-1]) / 2)[-1]
    return Horizon(last, bool(0 <= loss[half] - loss[-1] <= FLAT * (loss[0] - loss[-1])))


def together(first: Horizon, second: Horizon) -> tuple[Horizon, Horizon]:
    """Both at the later place.

    >>> together(Horizon(3, True), Horizon(1, False))
    (Horizon(place=3, converged=True), Horizon(place=3, converged=False))
    """
    place = max(first.place, second.place)
    return Horizon(place, first.converged), Horizon(place, second.converged)


def along(values: Floats, x: ArrayLike, place: int) -> Floats:
    """… k → …: the mean of the first ``place`` + 1 states along x, trapz/(x_h − x_0).

    >>> along(np.array([[1.0, 0.0, 0.0, 9.0]]), [0, 1, 4, 5], 2)
    array([0.125])
    """
    at = np.asarray(x, dtype=float)[: place + 1]
    return np.trapezoid(values[..., : place + 1], at, axis=-1) / (at[-1] - at[0])


def kept(values: Floats, x: ArrayLike, place: int) -> Floats:
    """s p, with mean A for every seed: the share of the start that is kept along the path, linearised (`share`).

    >>> kept(np.array([[[0.4, 0.2], [0.2, 0.1]]]), [0, 100], 1).round(6).tolist()  # both prompts keep half at the end
    [[0.75, 0.75]]
    """
    return share(along(values, x, place), values[..., 0])


def ahead(first: Floats, second: Floats) -> Floats:
    """1 where ``first`` is below ``second``, ½ where they are equal, 0 elsewhere.

    >>> ahead(np.array([[1.0, 2.0, 3.0]]), np.array([[2.0, 2.0, 2.0]])).tolist()
    [[1.0, 0.5, 0.0]]
    """
    return (first < second) + 0.5 * (first == second)


@dataclass(frozen=True)
class Path:
    """One model of one pair: ``quality`` and ``jerk`` s p k (jerk None where it was not measured), and its horizon."""

    quality: Floats
    jerk: Floats | None
    x: tuple[float, ...]
    horizon: Horizon

    @property
    def kept(self) -> Floats:
        """s p: A, the share of motion kept along the path."""
        return kept(self.quality, self.x, self.horizon.place)

    @property
    def kept_last(self) -> Floats:
        """s p: the share kept at the horizon."""
        return share(self.quality[..., self.horizon.place], self.quality[..., 0])

    @property
    def jerk_grown(self) -> Floats | None:
        """s p: J, the mean growth of jerk along the path."""
        if self.jerk is None:
            return None
        return along(self.jerk - self.jerk[..., :1], self.x, self.horizon.place)


@dataclass(frozen=True)
class PairEndpoints:
    """What both endpoints of one pair are made of, s p: the shares kept along the path, and `ahead` of its jerk.

    ``last``: the shares kept at the horizon, of the full and the partial model.
    """

    full: Floats
    partial: Floats
    last: tuple[Floats, Floats]
    ahead: Floats | None
    horizons: tuple[Horizon, Horizon]

    @staticmethod
    def of(full: Path, partial: Path) -> "PairEndpoints":
        """Read both models up to the later horizon; their LoRA seeds and prompts are the same, in one order."""
        ends = together(full.horizon, partial.horizon)
        full, partial = (dataclasses.replace(m, horizon=e) for m, e in zip((full, partial), ends, strict=True))
        first, second = full.jerk_grown, partial.jerk_grown
        beats = None if first is None or second is None else ahead(first, second)
        return PairEndpoints(full.kept, partial.kept, (full.kept_last, partial.kept_last), beats, ends)

    @property
    def converged(self) -> bool | None:
        """Whether both fits have; None where that is unknown of either."""
        found = [end.converged for end in self.horizons]
        return None if None in found else all(found)

    @property
    def on_floor(self) -> bool:
        """Whether both keep less than `FLOOR`: along the path, or surely (by their intervals) at its end."""
        path = all(model.mean() < FLOOR for model in (self.full, self.partial))
        return path or all(Nested.of(end).over_both.high < FLOOR for end in self.last)

    @property
    def on_ceiling(self) -> bool:
        """Whether both keep more than `CEILING` along the path."""
        return all(model.mean() > CEILING for model in (self.full, self.partial))


@dataclass(frozen=True)
class Decision:
    """What may be said. ``kind``: ``full`` or ``partial`` keeps more, or why there is no verdict.

    The estimates are over pairs, of one pair over its LoRA seeds and prompts; ``crossed`` is the primary one over pairs
    and prompts. ``superiority`` is None where jerk was not measured.
    """

    kind: Kind
    pairs: int
    difference: Estimate
    crossed: Estimate
    superiority: Estimate | None
    full: Estimate
    partial: Estimate
    converged: bool | None

    @property
    def is_conclusive(self) -> bool:
        """Whether one model keeps more."""
        return self.kind in ("full", "partial")


def decide(pairs: Sequence[PairEndpoints]) -> Decision:
    """The gate first, then both endpoints over the pairs, which all have the same prompts."""
    differences = [pair.full - pair.partial for pair in pairs]
    beats = [pair.ahead for pair in pairs if pair.ahead is not None]
    states = [pair.converged for pair in pairs]
    crossed = np.stack([d.mean(axis=0) for d in differences]) if len(pairs) > 1 else differences[0]
    found = Decision(
        "unmeasured",
        len(pairs),
        over_pairs(differences),
        crossed_interval(crossed),
        over_pairs(beats) if len(beats) == len(pairs) else None,
        over_pairs([pair.full for pair in pairs]),
        over_pairs([pair.partial for pair in pairs]),
        None if None in states else all(states),
    )
    return dataclasses.replace(found, kind=_kind(found, pairs))


def _kind(found: Decision, pairs: Sequence[PairEndpoints]) -> Kind:
    if math.isnan(found.difference.mean):
        return "unmeasured"
    if 2 * sum(pair.on_floor for pair in pairs) >= found.pairs:
        return "floor"
    if 2 * sum(pair.on_ceiling for pair in pairs) >= found.pairs:
        return "ceiling"
    if found.pairs < ENOUGH_PAIRS:
        return "one pair"
    if not found.converged:
        return "not converged"
    if not (found.difference.excludes_zero and found.crossed.excludes_zero):
        return "interval"
    if found.superiority is None:
        return "endpoints"
    if found.difference.mean > 0:
        return "full" if found.superiority.low > EVEN else "endpoints"
    return "partial" if found.superiority.high < EVEN else "endpoints"


def over_pairs(values: Sequence[Floats]) -> Estimate:
    """Student t over the means of pairs, each s p; of one pair over its LoRA seeds and prompts, which are crossed."""
    return crossed_interval(values[0]) if len(values) == 1 else mean_interval([value.mean() for value in values])


@dataclass(frozen=True)
class Mixed:
    """The robustness row: an estimate from the mixed model, or ``reason`` why there is none."""

    estimate: Estimate
    reason: str = ""


def mixed(pairs: Sequence[PairEndpoints]) -> Mixed:
    """The primary endpoint by REML: d ~ 1 + (1 | pair) + (1 | pair:seed) + (1 | prompt), with a Wald interval.

    With one LoRA seed per pair what differs between seeds is part of what differs between pairs.
    The interval is normal and so narrower than t over few pairs: a check of the estimate, not another verdict.
    Source: Baayen, Davidson and Bates 2008, crossed random effects.
    """
    rows = [
        {"d": value, "pair": k, "seed": f"{k}:{s}", "prompt": p}
        for k, pair in enumerate(pairs)
        for (s, p), value in np.ndenumerate(pair.full - pair.partial)
    ]
    nothing = Estimate(np.nan, np.nan, 0)
    if len(pairs) < ENOUGH_PAIRS:
        return Mixed(nothing, "one pair: the model needs two or more")
    try:
        from statsmodels.regression.mixed_linear_model import MixedLM  # a second to import
    except ModuleNotFoundError:
        return Mixed(nothing, "statsmodels is not installed (pip install 'perturb[analysis]')")
    crossed = ("pair", "seed", "prompt") if any(len(pair.full) > 1 for pair in pairs) else ("pair", "prompt")
    components = {name: f"0 + C({name})" for name in crossed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a variance at its bound of 0 is an answer
        model = MixedLM.from_formula(
            "d ~ 1", pd.DataFrame(rows), groups=np.zeros(len(rows)), vc_formula=components, re_formula="0"
        )
        try:
            fitted = model.fit(reml=True)
        except np.linalg.LinAlgError:
            return Mixed(nothing, "the likelihood has no curvature at its maximum")
    mean, error = float(fitted.fe_params.iloc[0]), float(fitted.bse_fe.iloc[0])
    if not math.isfinite(error):
        return Mixed(nothing, "the likelihood has no curvature at its maximum")
    return Mixed(Estimate(mean, 1.959964 * error, len(pairs)))

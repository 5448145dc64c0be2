"""Given adapters, ranked by the motion that each keeps and the look that it gains.

    kept   K = Ȳ_a/Ȳ_0        motion quality with the adapter and without, means over prompts; 1 keeps all of it
    look   L = mean over prompts and visual measures of [V_a better than V_0] + ½ [equal];  ½ is no change
    front  1: no other adapter is ahead on both; 2: none of those left; …

Both are paired with the untouched model by prompt and noise; noises of a prompt are averaged first. The visual
measures are those that judge the look as a whole (`JUDGES`) where any was measured, else all of single clips that say
which direction is better. L counts and does not weigh: measures have
different units, and how far each moved stands in the table of the run. Source: probability of improvement, Agarwal et
al. 2021 (arXiv 2108.13264). Axes: s LoRA seed, p prompt, k state, m trajectory.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from perturb.analysis.load import Measure
from perturb.analysis.replicates import ADAPTER, Replicates
from perturb.analysis.statistics.contrast import Floats, Nested, holm, shares
from perturb.analysis.statistics.crossed import student_p
from perturb.analysis.statistics.endpoints import PRIMARY
from perturb.analysis.statistics.estimates import Estimate
from perturb.analysis.statistics.resampling import without_dust

JUDGES = ("aesthetic", "imaging_quality", "dover_aesthetic", "dover_technical")
LEVEL = 0.05
"""Of a difference in motion kept, by Student's t over prompts, Holm over all pairs of adapters."""
NOTHING = Estimate(np.nan, np.nan, 0)


@dataclass(frozen=True)
class Standing:
    """One adapter: what it touches (group → layers), ‖Δ‖/‖θ‖, where it stands.

    ``ahead`` and ``behind``: the adapters that surely keep less, or more, motion.
    """

    adapter: str
    touched: Mapping[str, int]
    magnitude: float | None
    kept: Estimate
    look: Estimate
    front: int
    ahead: tuple[str, ...]
    behind: tuple[str, ...]


@dataclass(frozen=True)
class Ranking:
    """``standings`` by front, then by motion kept · ``start`` motion quality without any · ``measures`` of the look.

    ``reason`` says why no motion can be kept, where that is so.
    """

    standings: tuple[Standing, ...]
    start: Estimate
    measures: tuple[str, ...]
    reason: str

    @staticmethod
    def of(model: Replicates) -> "Ranking":
        """From a run, or runs, whose states are adapters, the first of them none."""
        names = tuple(map(str, model.column(ADAPTER)))[1:]
        kept, start, reason = _kept(model)
        look, measures = _look(model)
        estimates = [(_estimate(kept, k), _estimate(look, k)) for k in range(len(names))]
        fronts, order = fronts_of([(a.mean, b.mean) for a, b in estimates]), _separated(kept, len(names))
        touched = model.first.manifest.perturbation.get("touched", {})
        sizes = {str(state.coordinates[ADAPTER]): state.magnitude for state in model.states}
        standings = [
            Standing(
                name, touched.get(name, {}), sizes[name], *estimates[k], fronts[k],
                tuple(names[j] for j in range(len(names)) if (k, j) in order),
                tuple(names[j] for j in range(len(names)) if (j, k) in order),
            )
            for k, name in enumerate(names)
        ]  # fmt: skip
        ranked = sorted(standings, key=lambda each: (each.front, -_known(each.kept.mean), -_known(each.look.mean)))
        return Ranking(tuple(ranked), start, measures, reason)

    @property
    def keeper(self) -> Standing:
        """What keeps most motion."""
        return max(self.standings, key=lambda each: _known(each.kept.mean))

    @property
    def looker(self) -> Standing:
        """What looks better most often."""
        return max(self.standings, key=lambda each: _known(each.look.mean))


def fronts_of(points: Sequence[tuple[float, float]]) -> list[int]:
    """Of every point the front that it is on: of those left, the ones that none of them is ahead of on both counts.

    A point is ahead of another where it is larger on one count and not smaller on the other; NaN is the smallest.

    >>> fronts_of([(1.0, 0.2), (0.5, 0.9), (0.4, 0.8), (0.4, 0.1)])
    [1, 1, 2, 3]
    """
    known = [tuple(map(_known, point)) for point in points]
    found, left = [0] * len(points), set(range(len(points)))
    front = 0
    while left:
        front += 1
        best = {i for i in left if not any(_beats(known[j], known[i]) for j in left)}
        for i in best:
            found[i] = front
        left -= best
    return found


def ranking_rows(ranking: Ranking) -> Iterator[dict[str, Any]]:
    """ranking.csv: a row per adapter."""
    for each in ranking.standings:
        yield {
            "front": each.front,
            "adapter": each.adapter,
            **{f"layers_{group}": count for group, count in each.touched.items()},
            "magnitude": each.magnitude,
            **_columns("kept", each.kept),
            **_columns("look", each.look),
            "ahead_of": " ".join(each.ahead),
            "behind": " ".join(each.behind),
            "n_prompts": each.kept.n,
        }


def ranking_table(ranking: Ranking) -> Table:
    """For a terminal."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("front", justify="right")
    for column in ("adapter", "touches"):
        table.add_column(column, overflow="fold")
    for column in ("‖Δ‖/‖θ‖", "motion kept", "looks better", "ahead of", "behind"):
        table.add_column(column, justify="right")
    for each in ranking.standings:
        size = "–" if each.magnitude is None else f"{each.magnitude:.1%}"
        cells = (in_percent(each.kept), in_percent(each.look), str(len(each.ahead)), str(len(each.behind)))
        table.add_row(str(each.front), Text(each.adapter), in_words(each.touched), size, *cells)
    return table


def footnote(ranking: Ranking) -> str:
    """How to read the numbers."""
    looks = ", ".join(name.replace("_", " ") for name in ranking.measures) or "none was measured"
    text = (
        "Motion kept: motion quality as a share of that of the untouched model. Looks better: the share of comparisons "
        f"with its clips, over {looks}; 50 % is no change. ± 95 % over prompts. Front 1: no other adapter has more of "
        f"both. Ahead, behind: motion kept differs at {LEVEL:.0%} (t over prompts, Holm over all pairs)."
    )
    return f"{ranking.reason} {text}".strip()


def in_percent(estimate: Estimate) -> str:
    """``93 ± 4 %``.

    >>> in_percent(Estimate(0.931, 0.04, 8)), in_percent(NOTHING)
    ('93 ± 4 %', '–')
    """
    if not estimate.n:
        return "–"
    half = "" if np.isnan(estimate.half_width) else f" ± {100 * estimate.half_width:.0f}"
    return f"{100 * estimate.mean:.0f}{half} %"


def in_words(touched: Mapping[str, int]) -> str:
    """``spatial 48, temporal 30``: groups and their layers."""
    return ", ".join(f"{group} {count}" for group, count in touched.items()) or "unknown"


def _kept(model: Replicates) -> tuple[Floats | None, Estimate, str]:
    """Shares s p k of motion quality, the start, and why there are no shares."""
    if PRIMARY not in {measure.name for measure in model.measures}:
        return None, NOTHING, "Motion quality was not measured, so no motion kept can be told."
    motion = model.trajectories(PRIMARY)
    values = motion.by_prompt(motion.complete)
    start = Nested.of(values[:, :, 0]).over_both
    if not motion.has_start:
        return None, start, "Without an adapter there is no motion that could be kept: its 95 % interval reaches 0."
    return without_dust(shares(values[:, :, 1:], values[:, :, 0]), 1.0), start, ""


def _look(model: Replicates) -> tuple[Floats | None, tuple[str, ...]]:
    """How often it looks better, s p k, and by which measures: those that every clip has."""
    wins: dict[str, Floats] = {}
    for measure in model.measures:
        values = model.trajectories(measure.name)
        if measure.axis == "visual" and measure.direction in ("up", "down") and values.complete.all():
            better = dataclasses.replace(values, values=_wins(values.values, measure))
            wins[measure.name] = better.by_prompt(values.complete)[:, :, 1:]
    wins = {name: each for name, each in wins.items() if name in JUDGES} or wins
    return (np.mean(list(wins.values()), axis=0) if wins else None), tuple(wins)


def _wins(values: Floats, measure: Measure) -> Floats:
    gained = (values - values[:, :, :1]) * (1 if measure.direction == "up" else -1)
    return (gained > 0) + 0.5 * (gained == 0)


def _separated(kept: Floats | None, count: int) -> set[tuple[int, int]]:
    """Pairs (i, j) of adapters of which i surely keeps more."""
    if kept is None:
        return set()
    pairs = list(combinations(range(count), 2))
    differences = [without_dust(kept[:, :, i] - kept[:, :, j], 1.0) for i, j in pairs]
    adjusted = holm([student_p(each) for each in differences])
    sure = [(pair, each.mean()) for pair, each, p in zip(pairs, differences, adjusted, strict=True) if p < LEVEL]
    return {(i, j) if mean > 0 else (j, i) for (i, j), mean in sure}


def _estimate(values: Floats | None, k: int) -> Estimate:
    return NOTHING if values is None else Nested.of(values[:, :, k]).over_both


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def _known(value: float) -> float:
    return -np.inf if np.isnan(value) else value

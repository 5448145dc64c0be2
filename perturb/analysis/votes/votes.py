"""`python -m perturb.analysis.votes votes*.csv --key blind.key.csv [--runs runs/…] -o FOLDER`: what people preferred.

Per comparison: how often the first side was preferred, with an interval that holds for other prompts and other raters
(`crossed`); whether raters agree (`agreement`); and, with the runs, which metrics rank the clips as people do
(`ranking`). Where there are too few raters or prompts for a number, its reason stands in its place.

Writes votes.csv (a row per comparison), vote_metrics.csv (a row per comparison and metric) and votes.png, .pdf.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from perturb.analysis.load import Measure, Study
from perturb.analysis.statistics.contrast import Floats
from perturb.analysis.statistics.resampling import Interval, without_dust
from perturb.analysis.table import number
from perturb.analysis.votes.agreement import Agreement, agreement
from perturb.analysis.votes.crossed import WinRate, win_rate
from perturb.analysis.votes.files import ROLES, Votes
from perturb.analysis.votes.ranking import Correlation, correlation
from perturb.errors import UserError

SEED = 0
"""Of every bootstrap, so that the same votes give the same numbers."""


@dataclass(frozen=True)
class Preference:
    """One comparison: what people preferred. ``votes`` p r over pairs and raters, 1 for ``first``, ½ a tie, NaN none.

    ``left``: share of votes for the clip on the left, whatever it showed; far from ½, raters favour a side.
    """

    comparison: str
    first: str
    second: str
    pairs: pd.DataFrame
    votes: Floats
    left: float
    seconds: float
    rate: WinRate
    agreement: Agreement
    metrics: dict[str, Correlation]

    @property
    def counts(self) -> dict[str, int]:
        """How many of everything; ``missing`` votes are those of raters who left pairs out."""
        known = ~np.isnan(self.votes)
        return {
            "votes": int(known.sum()),
            "missing": int((~known).sum()),
            "ties": int((self.votes == 0.5).sum()),
            "raters": self.votes.shape[1],
            "pairs": self.votes.shape[0],
            "prompts": int(self.pairs.prompt_id.nunique()),
        }


def preferences(votes: Votes, study: Study | None) -> list[Preference]:
    """Every comparison that has a vote, in the order of the key."""
    raters = sorted(set(votes.cast.rater))
    names = list(dict.fromkeys(votes.pairs.comparison))
    return [_preference(votes, name, raters, study) for name in names if (votes.cast.comparison == name).any()]


def _preference(votes: Votes, name: str, raters: Sequence[str], study: Study | None) -> Preference:
    pairs = votes.pairs.loc[votes.pairs.comparison == name, :].sort_index()
    cast = votes.cast.loc[votes.cast.comparison == name, :]
    took_part = [rater for rater in raters if (cast.rater == rater).any()]
    table = cast.pivot(index="pair", columns="rater", values="first").reindex(index=pairs.index, columns=took_part)
    x, prompts = np.asarray(table, dtype=float), np.asarray(pairs.prompt_id, dtype=str)
    cells = np.asarray(table.groupby(prompts).mean(), dtype=float)
    differences = {} if study is None else metric_differences(study, pairs)
    return Preference(
        comparison=name,
        first=str(pairs.name_first.iloc[0]),
        second=str(pairs.name_second.iloc[0]),
        pairs=pairs,
        votes=x,
        left=float(cast.left.mean()),
        seconds=float(cast.seconds.median()),
        rate=win_rate(cells),
        agreement=agreement(x, prompts, np.random.default_rng(SEED)),
        metrics={metric: correlation(d, x, prompts, np.random.default_rng(SEED)) for metric, d in differences.items()},
    )


def metric_differences(study: Study, pairs: pd.DataFrame) -> dict[str, Floats]:
    """By metric of single clips, first − second of every pair; NaN where either has no value.

    Raises UserError when a run of the key is not among those given.
    """
    known = {run.manifest.run_id for run in study.runs}
    if absent := sorted({*pairs.run_id_first, *pairs.run_id_second} - known):
        raise UserError(f"--runs lacks {absent}, which the key names; it has {sorted(known)}. Give every run voted on.")
    voted = study.scores.run_id.isin({*pairs.run_id_first, *pairs.run_id_second})
    ok = study.scores.loc[voted & (study.scores.status == "ok")]
    table = ok.pivot(index=["run_id", "step", "prompt_id", "seed"], columns="metric", values="value")
    one, other = (_of_side(table, pairs, role) for role in ROLES)
    found = {}
    for metric in dict.fromkeys(m.name for run in study.runs for m in run.measures if m.name in table.columns):
        place = table.columns.get_loc(metric)
        a, b = one[:, place], other[:, place]
        if not np.isnan([a, b]).all():  # a measure of a whole set has no value for a clip
            found[metric] = without_dust(a - b, scale=float(np.nanmax(np.abs([a, b]))))
    return found


def _of_side(table: pd.DataFrame, pairs: pd.DataFrame, role: str) -> Floats:
    """Pair × metric."""
    names = (f"run_id_{role}", f"step_{role}", "prompt_id", "seed")
    index = pd.MultiIndex.from_arrays([pairs[name].to_numpy() for name in names])
    return np.asarray(table.reindex(index), dtype=float)


def rate_rows(found: Sequence[Preference]) -> Iterator[dict[str, Any]]:
    """votes.csv: a row per comparison."""
    for each in found:
        yield {
            "comparison": each.comparison,
            "first": each.first,
            "second": each.second,
            **each.counts,
            "win_rate": each.rate.value,
            **_ends("win", each.rate.interval, each.rate.reason),
            "alpha": each.agreement.alpha,
            **_ends("alpha", each.agreement.interval, each.agreement.reason),
            "left_share": each.left,
            "median_seconds": each.seconds,
        }


def metric_rows(found: Sequence[Preference]) -> Iterator[dict[str, Any]]:
    """vote_metrics.csv: a row per comparison and metric."""
    for each in found:
        for metric, one in each.metrics.items():
            yield {
                "comparison": each.comparison,
                "metric": metric,
                "pairs": one.n,
                "spearman": one.rho,
                **_ends("spearman", one.interval, one.reason),
            }


def _ends(name: str, interval: Interval, reason: str) -> dict[str, Any]:
    return {f"{name}_low": interval.low, f"{name}_high": interval.high, f"{name}_unavailable": reason}


def told(value: float, interval: Interval, reason: str, digits: int = 2) -> str:
    """A number as it is printed: ``0.73 (0.61 to 0.83)``, or why it or its interval is absent.

    >>> told(0.731, Interval(0.612, 0.829), ""), told(float("nan"), Interval(0, 0), "1 rater")
    ('0.73 (0.61 to 0.83)', 'unavailable: 1 rater')
    """
    if np.isnan(value):
        return f"unavailable: {reason}"
    shown = number(value, digits)
    if reason:
        return f"{shown} (interval unavailable: {reason})"
    return f"{shown} ({number(interval.low, digits)} to {number(interval.high, digits)})"


def lines(votes: Votes, found: Sequence[Preference], measures: dict[str, Measure]) -> Iterator[str]:
    """What the command prints."""
    yield f"“{votes.question}”"
    if votes.replaced:
        yield f"{votes.replaced} votes were replaced by a later one of the same rater on the same pair."
    for each in found:
        count = each.counts
        yield f"\n{each.comparison}: {count['raters']} raters, {count['pairs']} pairs, {count['prompts']} prompts"
        yield f"  {each.first} preferred    {told(each.rate.value, each.rate.interval, each.rate.reason)}"
        alpha = told(each.agreement.alpha, each.agreement.interval, each.agreement.reason)
        yield f"  Krippendorff's α  {alpha}"
        yield (
            f"  votes {count['votes']}, missing {count['missing']}, ties {count['ties']} (½ each); "
            f"left side chosen {each.left:.2f}; median {each.seconds:.1f} s"
        )
        for metric, one in sorted(each.metrics.items(), key=lambda item: -np.nan_to_num(abs(item[1].rho))):
            yield f"  ρ with {measures[metric].label:<26} {told(one.rho, one.interval, one.reason)}  n {one.n}"
    yield "\nIntervals: 95 %, over prompts and raters together; of α over prompts. ρ: metric and votes, first − second."

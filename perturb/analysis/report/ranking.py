"""What a report says of given adapters: their ranking in words, as a chart and as a table. Computes no statistics."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import altair as alt

from perturb.analysis import style
from perturb.analysis.adapters.ranking import Ranking, Standing, footnote, in_percent, in_words
from perturb.analysis.load import Study
from perturb.analysis.replicates import ADAPTER, replicates
from perturb.analysis.report.marks import SHARE, Panel, bounds, chart, known, spec, tips
from perturb.analysis.report.run_verdict import LEAK
from perturb.analysis.report.words import Figure, Verdict, absent
from perturb.analysis.result import Result
from perturb.analysis.statistics.estimates import Estimate
from perturb.analysis.table import number

UNTOUCHED = 0.5
"""How often the model without an adapter looks better than itself."""


def ranking_of(result: Result) -> Ranking | None:
    """That of a run whose states are adapters."""
    if result.run.coordinates != (ADAPTER,):
        return None
    (model,) = replicates(Study((result.run,), {result.run.manifest.run_id: result.scores}))
    return Ranking.of(model)


def of_ranking(ranking: Ranking, result: Result) -> Verdict:
    """Who is first, by how much, and whom it cannot be told from."""
    keeper, looker = ranking.keeper, ranking.looker
    start = number(ranking.start.mean, 2) if ranking.start.n else "unknown"
    rest = f"of {len(ranking.standings)} adapters; no other has more of both"
    figures = (
        Figure("Keeps most motion", in_percent(keeper.kept), f"{keeper.adapter}; {_between(keeper.kept)}"),
        Figure("Looks better most often", in_percent(looker.look), f"{looker.adapter}; 50 % is no change"),
        Figure("Motion quality without an adapter", start, result.size),
        Figure("On the first front", str(sum(each.front == 1 for each in ranking.standings)), rest),
    )
    cautions = (
        "Fronts are of means; two adapters whose intervals overlap may well change places with other prompts.",
        LEAK,
        *([ranking.reason] if ranking.reason else ()),
        *absent((result,)),
    )
    return Verdict(_unbroken(_headline(ranking)), tuple(_sentences(ranking)), figures, cautions)


def leading_panel(ranking: Ranking) -> Panel:
    """Motion kept against look gained."""
    rows: list[dict[str, Any]] = [
        {
            "adapter": each.adapter,
            "what": "first front" if each.front == 1 else "behind",
            "front": each.front,
            "touches": in_words(each.touched),
            **{f"kept {end}": value for end, value in bounds(each.kept).items()},
            **{f"look {end}": value for end, value in bounds(each.look).items()},
            "size": known(each.magnitude or 0.0),
        }
        for each in ranking.standings
    ]
    names = ["first front", "behind"]
    hue = alt.Color(
        "what:N", title=None, scale=alt.Scale(domain=names, range=[style.MOTION, style.QUIET]), legend=alt.Legend()
    )
    x, y = _axis("look", "looks better than without an adapter"), _axis("kept", "motion kept")
    base = chart(rows).encode(x("mean"), y("mean"), hue)
    across = base.mark_rule(strokeWidth=2, opacity=0.5)
    dashed = chart([{"look even": UNTOUCHED, "kept even": 1}]).mark_rule(color=style.QUIET, strokeDash=[4, 3])
    seen = [alt.Tooltip("adapter:N"), alt.Tooltip("touches:N"), *tips(["front", "size"])]
    seen += tips([f"{what} {end}" for what in ("kept", "look") for end in ("mean", "low", "high")])
    layers = [
        dashed.encode(x("even")),
        dashed.encode(y("even")),
        across.encode(y("low"), alt.Y2("kept high:Q")),
        across.encode(x("low"), alt.X2("look high:Q")),
        base.mark_point(filled=True, size=90, opacity=1).encode(tooltip=seen),
        base.mark_text(align="left", dx=8, dy=-9, fontSize=12).encode(alt.Text("adapter:N")),
    ]
    detail = (
        "Means with 95 % intervals over prompts; up and to the right is better. Dashed: the model without an adapter."
    )
    return Panel("Motion kept and look gained", detail, spec(alt.layer(*layers), 300))


def _axis(what: str, title: str) -> Callable[[str], Any]:
    """The axis of "look" or "kept", for each of the columns that lie along it."""
    kind, scale = {"look": alt.X, "kept": alt.Y}[what], alt.Scale(zero=False, padding=24)
    return lambda column: kind(f"{what} {column}:Q", title=title, axis=SHARE, scale=scale)


def table(ranking: Ranking) -> dict[str, Any]:
    """The rows of the page's table, with intervals placed on a common scale, and the note under it."""
    ends = [e for s in ranking.standings for e in (s.kept.low, s.kept.high, s.kept.mean) if math.isfinite(e)]
    low, high = min([1.0, *ends]), max([1.0, *ends])
    return {"rows": [_row(each, low, high) for each in ranking.standings], "note": footnote(ranking)}


def _row(each: Standing, low: float, high: float) -> dict[str, Any]:
    return {
        "front": each.front,
        "adapter": each.adapter,
        "touches": in_words(each.touched),
        "size": "–" if each.magnitude is None else f"{each.magnitude:.1%}",
        "kept": {"text": in_percent(each.kept), **_places(each.kept, 1.0, low, high)},
        "look": {"text": in_percent(each.look), **_places(each.look, UNTOUCHED, 0.0, 1.0)},
        "ahead": ", ".join(each.ahead) or "–",
        "behind": ", ".join(each.behind) or "–",
    }


def _places(estimate: Estimate, even: float, low: float, high: float) -> dict[str, float | None]:
    """Where mean, interval and the untouched model lie, in per cent of the width."""
    span = (high - low) or 1.0

    def place(value: float) -> float | None:
        return None if math.isnan(value) else round(100 * min(max((value - low) / span, 0.0), 1.0), 1)

    ends = {"low": place(estimate.low), "high": place(estimate.high)}
    return {"mean": place(estimate.mean), "even": place(even), **ends}


def _headline(ranking: Ranking) -> str:
    keeper, looker, count = ranking.keeper, ranking.looker, len(ranking.standings)
    kept, look = in_percent(keeper.kept), in_percent(looker.look)
    if not looker.look.n:
        most = " most" * (count > 1)
        return f"{keeper.adapter} keeps{most} motion ({kept}); how they look was not measured."
    if count == 1:
        return f"{keeper.adapter} keeps {kept} of the motion and looks better in {look} of comparisons."
    if not keeper.kept.n:
        return f"{looker.adapter} looks better most often, in {look} of comparisons; motion kept is not known."
    if keeper == looker:
        return f"{keeper.adapter} is first on both counts: it keeps {kept} of the motion and looks better in {look}."
    if not looker.look.low > UNTOUCHED:
        return f"{keeper.adapter} keeps most motion ({kept}); none of {count} adapters surely looks better."
    return (
        f"{keeper.adapter} keeps most motion ({kept}), {looker.adapter} looks better most often ({look}): none of "
        f"{count} adapters is first on both counts."
    )


def _sentences(ranking: Ranking) -> Iterator[str]:
    keeper, others = ranking.keeper, len(ranking.standings) - 1
    if others and keeper.kept.n:
        close = [each.adapter for each in ranking.standings if each != keeper and each.adapter not in keeper.ahead]
        told = f"it cannot be told from {', '.join(close)}" if close else "it is ahead of every other"
        yield f"In motion kept, {keeper.adapter} is first; {told} (Student's t over prompts, Holm over all pairs)."
    lost = [each.adapter for each in ranking.standings if each.kept.n and each.kept.high < 1]
    if lost:
        yield f"Motion is lost beyond the 95 % interval by {', '.join(lost)}."


def _unbroken(text: str) -> str:
    """With no line ending inside ``93 ± 4 %``."""
    return text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}").replace(" %", "\N{NO-BREAK SPACE}%")


def _between(estimate: Estimate) -> str:
    if math.isnan(estimate.half_width):
        return "no interval"
    return f"95 % {100 * estimate.low:.0f} to {100 * estimate.high:.0f} %"

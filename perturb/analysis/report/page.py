"""The report as one self-contained html file: no network, scripts and clips inside, everything from runs escaped."""

import functools
import re
from importlib import resources

import jinja2
from markupsafe import Markup, escape

from perturb.analysis.report import run_charts, study_charts
from perturb.analysis.report.content import Report, name, run_facts, shared_facts, without_folders
from perturb.analysis.report.crosstalk import matrix
from perturb.analysis.report.marks import Panel, Section
from perturb.analysis.report.pictures import Picture, drawn
from perturb.analysis.report.player import Settings, player
from perturb.analysis.report.ranking import leading_panel, of_ranking, ranking_of, table
from perturb.analysis.report.verdict import verdict

SYMBOL = re.compile(r"\bM_([FPI])((?:&#39;)*)")
PRIMES = ("", "′", "″", "‴")


def page(report: Report, settings: Settings, pictures: tuple[Picture, ...] = ()) -> str:
    """The whole page. ``pictures`` are figures made elsewhere, shown after the charts."""
    ranking = ranking_of(report.runs[0]) if len(report.runs) == 1 else None
    leading, sections = _charts(report)
    leading = leading if ranking is None else leading_panel(ranking)
    panels = [panel for section in sections for panel in section.panels]
    return template("page.html").render(
        title=_title(report),
        verdict=verdict(report) if ranking is None else of_ranking(ranking, report.runs[0]),
        ranking=None if ranking is None else table(ranking),
        leading=leading,
        sections=sections,
        specs=[panel.spec for panel in ([leading] if leading else []) + panels],
        player=player(report, settings),
        crosstalk=matrix(report.runs[0].run.manifest.metrics),
        pictures=(*drawn(report.runs), *pictures),
        facts=list(shared_facts(report.runs)),
        runs=[run_facts(result) for result in report.runs],
        prompts=report.runs[0].run.manifest.prompts,
        metrics=_metrics(report),
        vega=Markup(vega()),
        script=Markup(template_text("player.js")),
        style=Markup(template_text("page.css")),
    )


@functools.cache
def vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script, from vl-convert; the first call takes seconds."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")


def printed(text: str) -> Markup:
    """Escaped text with M_F' as it is printed.

    >>> str(printed("M_F'' < M_P"))
    '<i>M</i><sub>F</sub>″ &lt; <i>M</i><sub>P</sub>'
    """
    # a quote is &#39; once it is escaped
    return Markup(SYMBOL.sub(lambda m: f"<i>M</i><sub>{m[1]}</sub>{PRIMES[len(m[2]) // 5]}", str(escape(text))))


def _charts(report: Report) -> tuple[Panel | None, list[Section]]:
    if report.coupling:
        others = [result for result in report.runs if not result.is_curve]
        sections = [*study_charts.sections(report.coupling), *(run_charts.each(others) if others else ())]
        return study_charts.leading_panel(report.coupling), sections
    if len(report.runs) == 1:
        return run_charts.leading_panel(report.runs[0]), list(run_charts.sections(report.runs[0]))
    return None, list(run_charts.each(report.runs))


def _title(report: Report) -> str:
    if report.coupling:
        return f"Coupling study, {len(report.runs)} runs"
    return name(report.runs[0].run) if len(report.runs) == 1 else f"{len(report.runs)} runs"


def _metrics(report: Report) -> list[dict[str, str]]:
    """Formula and source of every metric, and why a value is absent."""
    first = report.runs[0]
    rows = []
    for info in first.run.manifest.metrics:
        scores = [r.scores[(r.scores.metric == info["name"]) & (r.scores.status != "ok")] for r in report.runs]
        reasons = sorted({(str(a), str(b)) for s in scores for a, b in zip(s.status, s.reason, strict=True)})
        absent = "; ".join(f"{status}: {without_folders(why)}" for status, why in reasons)
        rows.append(
            {
                "name": str(info["name"]).replace("_", " "),
                "axis": str(info["axis"]),
                "unit": str(info["unit"]),
                "formula": str(info.get("formula", "")),
                "source": str(info.get("source", "")),
                "absent": absent,
            }
        )
    return rows


def template(file: str) -> jinja2.Template:
    """One of the pages; whatever comes from runs is escaped."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("perturb.analysis.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["printed"] = printed
    return made.get_template(file)


def template_text(file: str) -> str:
    """A style or script as it lies among the templates."""
    return (resources.files("perturb.analysis.report") / "templates" / file).read_text(encoding="utf-8")

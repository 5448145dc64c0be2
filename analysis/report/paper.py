"""A report for a paper or a README: Markdown with png beside it, and a LaTeX table (booktabs). Texts are escaped."""

import math
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from matplotlib.figure import Figure

from analysis import coupling_figure, stepwise_figure
from analysis.comparisons import PRIMARY_METRIC, Row
from analysis.figure import summary_figure
from analysis.load import Measure
from analysis.notation import title
from analysis.plots import save
from analysis.report.content import Report, name, run_facts, shared_facts
from analysis.report.verdict import verdict
from analysis.result import Result
from analysis.table import cell, decimals
from perturb.rundir import write_atomic

Table = list[list[str]]
"""Rows of cells, the first one a header; plain text."""
MARKDOWN = re.compile(r"([\\`*_\[\]|#~$])")
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": "$-$",
    "±": r"$\pm$",
    "‖": r"$\|$",
    "Δ": r"$\Delta$",
    "θ": r"$\theta$",
    "→": r"$\to$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "↕": r"$\updownarrow$",
    "–": "--",
}


def write_markdown(report: Report, output: Path) -> list[Path]:
    """The verdict, the tables and the figures; the figures in a folder beside the file. Returns what was written."""
    folder = output.with_name(f"{output.stem}_figures")
    drawn = [save(figure, folder / f"{label}.png")[0] for label, figure in _figures(report)]
    said = verdict(report)
    parts = [f"# {markdown(said.headline)}", *map(markdown, filter(None, said.sentences))]
    parts += [markdown_table(table) for table in tables(report)]
    parts += [f"![{path.stem}]({folder.name}/{path.name})" for path in drawn]
    parts += ["\n".join(f"- {markdown(caution)}" for caution in said.cautions)]
    parts += ["\n".join(f"- {markdown(what)}: {markdown(text)}" for what, text in shared_facts(report.runs))]
    facts = [run_facts(run) for run in report.runs]
    parts.append(markdown_table([list(facts[0]), *([str(value) for value in fact.values()] for fact in facts)]))
    write_atomic(output, "\n\n".join(parts) + "\n")
    return [output, *drawn]


def write_latex(report: Report, output: Path) -> list[Path]:
    """The tables as booktabs, without a document around them. Returns what was written."""
    head = "% needs \\usepackage{booktabs}\n"
    write_atomic(output, head + "\n".join(latex_table(table) for table in tables(report)))
    return [output]


def tables(report: Report) -> Iterator[Table]:
    """Of a study its contrasts and what each cell keeps; otherwise what changed in each run."""
    if not report.coupling:
        yield from map(_run_table, report.runs)
        return
    rows = report.coupling.results.rows
    yield [
        ["motion quality, slopes", "first", "second", "first − second", "± over seeds", "p", "p Holm", "p BH"],
        *(_contrast(row) for row in rows if row.comparison.metric == PRIMARY_METRIC and row.reading.summary == "slope"),
    ]
    yield [
        ["kept of motion quality", "along the steps", "half lost by", "IQM at the end"],
        *(
            [
                str(kept.cell),
                cell(kept.retention.over_prompts, 2) if kept.retention else "–",
                _step(kept.by_share),
                f"{kept.iqm[-1].value:.3f}",
            ]
            for kept in report.coupling.stepwise.kept
        ),
    ]


def _contrast(row: Row) -> list[str]:
    found = row.contrast
    digits = decimals([found.first, found.second])
    seeds = found.difference.over_seeds
    name = f"{row.comparison.name}, {row.comparison.first.condition}, {row.reading.unit}"
    return [
        f"{name} (primary)" if row.is_primary else name,
        *(f"{value:.{digits}f}".replace("-", "−") for value in (found.first, found.second)),
        cell(found.difference.over_prompts, digits, sign="+"),
        f"{seeds.half_width:.{digits}f}" if seeds.n > 1 else "–",
        *("–" if math.isnan(p) else f"{p:.4f}" for p in (found.p, row.p_holm, row.p_bh)),
    ]


def _run_table(result: Result) -> Table:
    first, last = result.steps[0], result.steps[-1]

    def line(measure: Measure) -> list[str]:
        levels, change = result.levels[measure.name], result.changes[measure.name].at(last)
        digits = decimals(estimate.mean for estimate in levels.estimates)
        ends = [cell(levels.at(step), digits) if levels.at(step).n else "–" for step in (first, last)]
        return [measure.label, *ends, cell(change, digits, sign="+") if change.n else "–"]

    header = [f"{name(result.run)} ({title(result.run.manifest)})", f"step {first}", f"step {last}", "change"]
    return [header, *(line(measure) for measure in result.measures if result.levels[measure.name].measured)]


def _step(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"step {value:.0f}" if math.isfinite(value) else "never"


def _figures(report: Report) -> Iterable[tuple[str, Figure]]:
    if report.coupling:
        results = report.coupling.results
        return chain(coupling_figure.figures(results), stepwise_figure.figures(results, report.coupling.stepwise))
    return ((run.run.manifest.run_id, summary_figure(run)) for run in report.runs)


def markdown(text: str) -> str:
    r"""Text that stays as it is in Markdown.

    >>> markdown("a_b | <img>")
    'a\\_b \\| &lt;img>'
    """
    return MARKDOWN.sub(r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;")).replace("\n", " ")


def markdown_table(table: Table) -> str:
    """A pipe table, numbers to the right."""
    header, *rows = ([markdown(value) for value in row] for row in table)
    rule = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def latex(text: str) -> str:
    r"""Text that stays as it is in LaTeX.

    >>> latex("50 % of θ_S")
    '50 \\% of $\\theta$\\_S'
    """
    return "".join(LATEX.get(sign, sign) for sign in text).replace("\n", " ")


def latex_table(table: Table) -> str:
    """A booktabs table, numbers to the right."""
    header, *rows = (" & ".join(latex(value) for value in row) for row in table)
    columns = "l" + "r" * (len(table[0]) - 1)
    body = " \\\\\n".join(rows)
    inner = f"\\toprule\n{header} \\\\\n\\midrule\n{body} \\\\\n\\bottomrule"
    return f"\\begin{{tabular}}{{{columns}}}\n{inner}\n\\end{{tabular}}\n"

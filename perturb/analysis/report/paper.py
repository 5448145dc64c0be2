"""A report for a paper or a README: Markdown with png beside it, and a LaTeX table (booktabs). Texts are escaped."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from matplotlib.figure import Figure

from perturb.analysis.coupling import figure as coupling_figure
from perturb.analysis.coupling.endpoints import HEADER, footnote
from perturb.analysis.figure import summary_figure
from perturb.analysis.load import Measure, Point
from perturb.analysis.notation import title
from perturb.analysis.plots import save
from perturb.analysis.report.content import Report, name, run_facts, shared_facts
from perturb.analysis.report.drawn import figures
from perturb.analysis.report.verdict import verdict
from perturb.analysis.result import Result
from perturb.analysis.statistics.endpoints import PRIMARY
from perturb.analysis.table import cell, decimals
from perturb.store.rundir import write_atomic

OVER_PROMPTS = "± half-width of the 95 % Student-t interval over prompts"
NUMBER = re.compile(r"~?[+−]?\d[\d.]*([±%]\S*)?|–|")
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
JOINT = re.compile(r"(?<!\\)\$\$")
"""Where one formula ends and the next begins."""


@dataclass(frozen=True)
class Table:
    """Plain text: a header, rows of cells, of which a row of one cell is the title of those after it, and a note."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str

    @property
    def to_the_right(self) -> list[bool]:
        """Which columns hold numbers alone."""
        full = [row for row in self.rows if len(row) > 1]
        return [all(NUMBER.fullmatch(row[i]) for row in full) for i in range(len(self.header))]


def write_markdown(report: Report, output: Path) -> list[Path]:
    """The verdict, the tables and the figures; the figures in a folder beside the file. Returns what was written."""
    folder = output.with_name(f"{output.stem}_figures")
    drawn = [save(figure, folder / f"{label}.png")[0] for label, figure in _figures(report)]
    said = verdict(report)
    parts = [f"# {markdown(said.headline)}", *map(markdown, filter(None, said.sentences))]
    parts += ["## How sure, and what to mind", _list(said.cautions), "## Numbers", *map(markdown_table, tables(report))]
    parts += ["## Figures", *(f"![{path.stem}]({folder.name}/{path.name})" for path in drawn)]
    facts = [{what: str(value) for what, value in run_facts(run).items()} for run in report.runs]
    parts += ["## What was run", _list(f"{what}: {text}" for what, text in shared_facts(report.runs))]
    parts.append(markdown_table(Table(list(facts[0]), [list(fact.values()) for fact in facts], "")))
    write_atomic(output, "\n\n".join(parts) + "\n")
    return [output, *drawn]


def write_latex(report: Report, output: Path) -> list[Path]:
    """The tables as booktabs, without a document around them. Returns what was written."""
    head = "% needs \\usepackage{booktabs}\n"
    write_atomic(output, head + "\n".join(latex_table(table) for table in tables(report)))
    return [output]


def tables(report: Report) -> Iterator[Table]:
    """Of a study its answer, condition by condition; otherwise what changed in each run."""
    if report.coupling:
        found = report.coupling.findings
        yield Table(HEADER, [finding.cells for finding in found], footnote(found))
    yield from (_run_table(run) for run in report.runs if not (report.coupling and run.is_curve))


def _run_table(result: Result) -> Table:
    if not result.is_curve:
        return _state_table(result)
    first, last = result.points[0], result.points[-1]

    def line(measure: Measure) -> list[str]:
        levels, change = result.levels[measure.name], result.changes[measure.name].at(last)
        digits = decimals(estimate.mean for estimate in levels.estimates)
        ends = [cell(levels.at(step), digits) if levels.at(step).n else "–" for step in (first, last)]
        return [measure.label, *ends, cell(change, digits, sign="+") if change.n else "–"]

    return Table(
        [f"{name(result.run)} ({title(result.run.manifest)})", f"step {first}", f"step {last}", "change"],
        [line(measure) for measure in result.measures if result.levels[measure.name].measured],
        f"Means {OVER_PROMPTS}; the change is paired by prompt and noise.",
    )


def _state_table(result: Result) -> Table:
    """A row per state: its size, motion quality, and how it differs from the first state."""
    levels, changes = result.levels.get(PRIMARY), result.changes.get(PRIMARY)

    def line(point: Point) -> list[str]:
        size = result.run.magnitude.get(point)
        row = [result.labels[point], "–" if size is None else f"{100 * size:.2f}"]
        if not levels or not changes or not levels.at(point).n:
            return [*row, "–", "–"]
        return [*row, cell(levels.at(point), 3), cell(changes.at(point), 3, sign="+")]

    return Table(
        [
            f"{name(result.run)} ({title(result.run.manifest)})",
            "‖Δ‖/‖θ‖ in %",
            PRIMARY.replace("_", " "),
            "change",
        ],
        [line(point) for point in result.points],
        f"By {', '.join(result.run.coordinates)}. Means {OVER_PROMPTS}; the change is paired by prompt and noise.",
    )


def _figures(report: Report) -> Iterable[tuple[str, Figure]]:
    others = [run for run in report.runs if not run.is_curve]
    own = ((label.replace(" ", "_"), figure) for label, figure in figures(others))
    if report.coupling:
        return chain(coupling_figure.figures(report.coupling), own)
    return chain(((run.run.manifest.run_id, summary_figure(run)) for run in report.runs), own)


def markdown(text: str) -> str:
    r"""Text that stays as it is in Markdown.

    >>> markdown("a_b | <img>")
    'a\\_b \\| &lt;img>'
    """
    return MARKDOWN.sub(r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;")).replace("\n", " ")


def markdown_table(table: Table) -> str:
    """A pipe table with its note, numbers to the right, titles bold."""
    width = len(table.header)
    rows = [[markdown(value) for value in row] for row in table.rows]
    rows = [row if len(row) > 1 else [f"**{row[0]}**", *[""] * (width - 1)] for row in rows]
    rule = ["--:" if right else "---" for right in table.to_the_right]
    lines = [f"| {' | '.join(row)} |" for row in (map(markdown, table.header), rule, *rows)]
    return "\n".join([*lines, *(["", markdown(table.note)] if table.note else [])])


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {markdown(item)}" for item in items)


def latex(text: str) -> str:
    r"""Text that stays as it is in LaTeX.

    >>> latex("50 % of θ_S ‖Δ‖")
    '50 \\% of $\\theta$\\_S $\\|\\Delta\\|$'
    """
    return JOINT.sub("", "".join(LATEX.get(sign, sign) for sign in text)).replace("\n", " ")


def latex_table(table: Table) -> str:
    """A booktabs table under its note as a comment, numbers to the right, titles in italics across all columns."""
    header, *rows = ([latex(value) for value in row] for row in (table.header, *table.rows))
    columns = "".join("r" if right else "l" for right in table.to_the_right)
    lines = [f"% {table.note}", f"\\begin{{tabular}}{{{columns}}}", "\\toprule", _line(header), "\\midrule"]
    for row in rows:
        lines.append(_line(row) if len(row) > 1 else f"\\multicolumn{{{len(header)}}}{{l}}{{\\emph{{{row[0]}}}}} \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _line(cells: Iterable[str]) -> str:
    return f"{' & '.join(cells)} \\\\"

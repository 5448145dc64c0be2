"""The terminal table of one run: a row per measure, a column per state, mean ± half-width of the 95 % interval."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from perturb.analysis.load import Measure, Point
from perturb.analysis.notation import in_words, origin, plain_formula, title
from perturb.analysis.result import Result
from perturb.analysis.statistics.estimates import Curve, Estimate

GAPS = (2, 1)
"""Blank characters between two columns: wide, and narrow where that makes everything fit into one block."""
MAGNITUDE = "‖Δ‖/‖θ‖"


@dataclass(frozen=True)
class Column:
    """A header and one cell per row of the table."""

    header: str
    cells: tuple[Text, ...]

    @property
    def width(self) -> int:
        """Characters it takes, without a gap."""
        return max(len(self.header), *(len(cell) for cell in self.cells))


def result_table(result: Result, width: int) -> Group:
    """Heading, table and footnotes of one run, as blocks of columns that fit ``width`` characters."""
    columns = [_column(result, point) for point in result.points]
    if result.is_curve and len(result.points) > 1:
        columns.append(_change_column(result))
    corner = ", ".join(result.run.coordinates)
    labels = [MAGNITUDE, *(measure.label for measure in result.measures)]
    axes = ["dose", *(measure.axis for measure in result.measures)]
    ends = [here != after for here, after in zip(axes, [*axes[1:], axes[-1]], strict=True)]
    room = width - max(map(len, [corner, *labels]))
    cuts = {gap: list(_blocks(columns, room, gap)) for gap in GAPS}
    gap = min(GAPS, key=lambda gap: len(cuts[gap]))
    return Group(
        _heading(result),
        *(_grid(corner, labels, block, ends, gap) for block in cuts[gap]),
        *(Text(note, style="dim", overflow="fold") for note in footnotes(result)),
    )


def decimals(values: Iterable[float]) -> int:
    """Decimals at which the largest of the values has three significant digits, or two below 0.1; 0 to 6.

    >>> decimals([0.61, 0.02]), decimals([41.7]), decimals([1234.0]), decimals([0.0317]), decimals([0.0])
    (3, 1, 0, 3, 3)
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    exponent = math.floor(math.log10(largest)) if largest else -1
    return min(6, max(0, (2 if exponent >= -1 else 1) - exponent))


def number(value: float, digits: int, sign: str = "") -> str:
    """A number with a true minus sign."""
    return f"{value:{sign}.{digits}f}".replace("-", "−")


def percent(share: float, digits: int = 2) -> str:
    """A share with ``digits`` decimals, or with one significant digit where these would all be zeros.

    >>> percent(0.08), percent(6.3e-6), percent(0.0)
    ('8.00%', '0.0006%', '0.00%')
    """
    rounded = f"{share:.{digits}%}"
    return rounded if float(rounded[:-1]) or not share else f"{100 * share:.1g}%"


def cell(estimate: Estimate, digits: int, sign: str = "") -> str:
    """``0.612±0.041``; without an interval the mean alone. ``sign`` "+" shows it also when positive."""
    mean = number(estimate.mean, digits, sign)
    return mean if math.isnan(estimate.half_width) else f"{mean}±{estimate.half_width:.{digits}f}"


def footnotes(result: Result) -> list[str]:
    """What the numbers are, what is absent and why, and how complete the run is."""
    counts = result.counts
    lines = [
        f"Means over prompts ± half-width of the 95 % Student-t interval ({result.size}; noises averaged first). "
        "↑ ↓ better direction, ↕ two-sided. Change: paired by prompt and noise; bold where its interval excludes 0."
    ]
    absent = result.scores[result.scores.status != "ok"]
    reasons = Counter(zip(absent.metric, absent.status, absent.reason, strict=True))
    for (metric, status, reason), count in reasons.items():
        total = int((result.scores.metric == metric).sum())
        share = "" if count == total else f" {count} of {total}"
        lines.append(f"{metric.replace('_', ' ')}: {status}{share}{f' ({reason})' if reason else ''}")
    lines.append(
        f"Clips: {counts.clips}. Values: {counts.expected}, of them {counts.missing} missing, {counts.failed} failed, "
        f"{counts.unavailable} unavailable."
    )
    return lines


def _heading(result: Result) -> Text:
    manifest = result.run.manifest
    formula, words = plain_formula(result.training, result.group), in_words(result.training, result.group)
    heading = Text(f"\n{title(manifest)}", style="bold")
    return heading.append(f" · {formula}\n{words} ({origin(manifest)})\n", style="not bold")


def _column(result: Result, point: Point) -> Column:
    magnitude = result.run.magnitude.get(point)
    cells = [Text("–" if magnitude is None else percent(magnitude))]
    for measure in result.measures:
        curve = result.levels[measure.name]
        estimate = curve.at(point)
        text = cell(estimate, _digits(curve)) if estimate.n else _absence(result, measure, point)
        cells.append(Text(text, style="" if estimate.n else "dim"))
    return Column(result.labels[point], tuple(cells))


def _change_column(result: Result) -> Column:
    first, last = result.points[0], result.points[-1]
    cells = [Text("")]
    for measure in result.measures:
        estimate = result.changes[measure.name].at(last)
        text = cell(estimate, _digits(result.levels[measure.name]), sign="+") if estimate.n else ""
        cells.append(Text(text, style="bold" if estimate.excludes_zero else "dim"))
    return Column(f"change {first}→{last}", tuple(cells))


def _digits(curve: Curve) -> int:
    return decimals(estimate.mean for estimate in curve.estimates)


def _absence(result: Result, measure: Measure, point: Point) -> str:
    rows = result.scores[(result.scores.metric == measure.name) & (result.scores[result.run.along] == point)]
    return "missing" if rows.empty else str(rows.status.iloc[0])


def _blocks(columns: Sequence[Column], room: int, gap: int) -> Iterable[list[Column]]:
    """Columns in order, cut where the next would not fit; at least one in each block."""
    block: list[Column] = []
    for column in columns:
        if block and sum(c.width + gap for c in [*block, column]) > room:
            yield block
            block = []
        block.append(column)
    yield block


def _grid(corner: str, labels: Sequence[str], columns: Sequence[Column], ends: Sequence[bool], gap: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0))
    table.add_column(corner, no_wrap=True)
    for column in columns:
        table.add_column(column.header, justify="right", no_wrap=True)
    for i, label in enumerate(labels):
        table.add_row(Text(label), *(column.cells[i] for column in columns), end_section=ends[i])
    return table

"""Where pages go: any output, or the report.html of a run."""

from pathlib import Path

from perturb.analysis.report.content import Report
from perturb.analysis.report.page import page
from perturb.analysis.report.pictures import Picture
from perturb.analysis.report.player import Settings
from perturb.analysis.summary import is_current
from perturb.store.rundir import RunDir, write_atomic

FILE = "report.html"


def run_report(path: Path) -> Path:
    """The report.html of one run, written unless it is newer than the scores. Raises UserError for no scored run."""
    directory = RunDir(path)
    output = path / FILE
    if not is_current(directory, output):
        write_page(Report.of([path]), output, Settings(), ())
    return output


def write_page(report: Report, output: Path, settings: Settings, pictures: tuple[Picture, ...]) -> None:
    """Write a report as html, whole or not at all."""
    write_atomic(output, page(report, settings, pictures))

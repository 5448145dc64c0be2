"""In words, what the runs of a report say and what they do not."""

from dataclasses import replace

from perturb.analysis.notation import in_words
from perturb.analysis.report.content import Report, name
from perturb.analysis.report.run_verdict import change, of_run
from perturb.analysis.report.study_verdict import of_study
from perturb.analysis.report.words import Verdict, absent


def verdict(report: Report) -> Verdict:
    """On a study how the two models compare; on one run, or runs that make no study, what can be said.

    Before all other cautions come the caveats of the experiment.
    """
    said, runs = _verdict(report), (result.run for result in report.runs)
    caveats = dict.fromkeys(caveat for run in runs for caveat in run.manifest.caveats)
    return replace(said, cautions=(*caveats, *said.cautions))


def _verdict(report: Report) -> Verdict:
    if report.coupling:
        return of_study(report.coupling, report.runs)
    if len(report.runs) == 1:
        return of_run(report.runs[0], report.reason)
    headline = f"{len(report.runs)} runs that make no coupling study: no contrast, and no verdict on coupling."
    changes = (f"{name(run.run)}, {in_words(run.training, run.group)}: {change(run)}." for run in report.runs)
    return Verdict(headline, (report.reason, *changes), (), tuple(absent(report.runs)))

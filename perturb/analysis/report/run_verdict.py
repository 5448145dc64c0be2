"""The verdict on one run: what became of its motion and its look. Computes no numbers."""

from collections.abc import Iterator

from perturb.analysis.coupling.comparisons import PRIMARY_METRIC
from perturb.analysis.coupling.stepwise import COLLAPSE
from perturb.analysis.notation import in_words
from perturb.analysis.report.words import Figure, Verdict, absent, between, capital
from perturb.analysis.result import Result
from perturb.analysis.table import decimals, number


def of_run(result: Result, reason: str) -> Verdict:
    words = in_words(result.training, result.group)
    cautions = [
        "Prompts and noises do not cover the randomness of fitting: another seed gives another Δ.",
        "Spatial damage leaks into measures of motion; read a loss of motion together with the visual measures.",
        *absent((result,)),
    ]
    headline = f"{capital(words)}: {change(result)}."
    other = {"full": "partial", "partial": "full"}.get(result.training)
    twin = f" Run experiment={result.group}_{other} and give both folders to this command." if other else ""
    sentences = (f"{reason}{twin}", *_looks(result))
    return Verdict(headline, sentences, tuple(_run_figures(result)), tuple(cautions))


def change(result: Result) -> str:
    """``motion quality falls from 0.43 to 0.12``."""
    levels, first, last = result.levels.get(PRIMARY_METRIC), result.steps[0], result.steps[-1]
    if not levels or not levels.measured:
        return "motion quality was not measured"
    start, end = levels.at(first), levels.at(last)
    if first == last:
        return f"motion quality is {number(start.mean, 2)} at step {first}, the only one"
    moved = result.changes[PRIMARY_METRIC].at(last)
    if not moved.excludes_zero:
        return f"motion quality does not measurably change ({number(start.mean, 2)} to {number(end.mean, 2)})"
    verb = "falls" if moved.mean < 0 else "rises"
    return f"motion quality {verb} from {number(start.mean, 2)} to {number(end.mean, 2)}"


def _looks(result: Result) -> Iterator[str]:
    """The visual measures that changed, in one sentence."""
    said = []
    for measure in result.measures:
        levels, moved = result.levels[measure.name], result.changes[measure.name].at(result.steps[-1])
        if measure.axis == "visual" and moved.excludes_zero:
            start, end = levels.at(result.steps[0]).mean, levels.at(result.steps[-1]).mean
            digits = decimals([start, end])
            said.append(f"{measure.name.replace('_', ' ')} {number(start, digits)} → {number(end, digits)}")
    if said:
        yield f"Of the look, what changed beyond its 95 % interval: {', '.join(said)}."


def _run_figures(result: Result) -> Iterator[Figure]:
    first, last = result.steps[0], result.steps[-1]
    moved = result.changes[PRIMARY_METRIC].at(last) if PRIMARY_METRIC in result.changes else None
    if moved and moved.n and first != last:
        yield Figure(
            f"Change of motion quality to step {last}",
            number(moved.mean, 2, "+"),
            f"95 % over {moved.n} prompts {between(moved, 2)}",
        )
    if (magnitude := result.run.magnitude.get(last)) is not None:
        yield Figure("Size of Δ at the end", f"{100 * magnitude:.1f} %", "‖Δ‖/‖θ‖ of the perturbed weights")
    collapse = result.levels.get(COLLAPSE)
    if collapse and collapse.measured:
        yield Figure(
            "Clips that stand still at the end",
            f"{100 * collapse.at(last).mean:.0f} %",
            f"{100 * collapse.at(first).mean:.0f} % at the start",
        )

"""The verdict on one run: what became of its motion and its look. Computes no numbers."""

from collections.abc import Iterator

from perturb.analysis.coupling.fits import Fit, times
from perturb.analysis.load import Point
from perturb.analysis.notation import in_words
from perturb.analysis.report.words import Figure, Verdict, absent, between, capital
from perturb.analysis.result import Result
from perturb.analysis.statistics.endpoints import CONVERGED, FLOOR, PRIMARY
from perturb.analysis.table import decimals, number, percent

COLLAPSE = "collapse"
LEAK = "Spatial damage leaks into measures of motion; read a loss of motion together with the visual measures."


def of_run(result: Result, reason: str) -> Verdict:
    """What became of its motion and its look along the steps, or how its states compare."""
    if not result.is_curve:
        return _of_states(result)
    words = in_words(result.training, result.group)
    cautions = [
        "Prompts and noises do not cover the randomness of fitting: another seed gives another Δ.",
        *_floor(result),
        LEAK,
        *absent((result,)),
    ]
    headline = f"{capital(words)}: {change(result)}."
    other = {"full": "partial", "partial": "full"}.get(result.training)
    twin = f" Run experiment={result.group}_{other} and give both folders to this command." if other else ""
    sentences = (f"{reason}{twin}", *_looks(result))
    return Verdict(headline, sentences, tuple(_run_figures(result)), tuple(cautions))


def _of_states(result: Result) -> Verdict:
    first, *others = result.points
    changes = result.changes.get(PRIMARY)
    moved = [point for point in others if changes and changes.at(point).excludes_zero]
    sentences = (
        f"Beyond its 95 % interval motion quality differs from that of {result.named(first)} in {len(moved)} of "
        f"{len(others)} states; each interval is of one state by itself.",
    )
    figures = []
    if levels := _measured(result):
        low = min(levels, key=lambda point: levels[point])
        figures.append(Figure("Lowest motion quality", number(levels[low], 2), result.named(low)))
    if magnitude := result.run.magnitude:
        largest = max(magnitude, key=lambda point: magnitude[point])
        figures.append(Figure("Largest Δ", percent(magnitude[largest], 1), f"‖Δ‖/‖θ‖ of {result.named(largest)}"))
    headline = f"{capital(in_words(result.training, result.group))}, in {len(result.points)} states: {change(result)}."
    return Verdict(headline, sentences, tuple(figures), (LEAK, *absent((result,))))


def _measured(result: Result) -> dict[Point, float]:
    """Motion quality of the states where it has a value."""
    levels = result.levels.get(PRIMARY)
    return {point: levels.at(point).mean for point in result.points if levels.at(point).n} if levels else {}


def _range(result: Result) -> str:
    levels = _measured(result)
    low, high = (choose(levels, key=lambda point: levels[point]) for choose in (min, max))
    ends = (f"{number(levels[point], 2)} ({result.named(point)})" for point in (low, high))
    return f"motion quality lies between {' and '.join(ends)}"


def change(result: Result) -> str:
    """``motion quality falls from 0.43 to 0.12``, or between what it lies in states along no steps."""
    levels, first, last = result.levels.get(PRIMARY), result.points[0], result.points[-1]
    if not levels or not levels.measured:
        return "motion quality was not measured"
    if not result.is_curve:
        return _range(result)
    start, end = levels.at(first), levels.at(last)
    if first == last:
        return f"motion quality is {number(start.mean, 2)} at step {first}, the only one"
    moved = result.changes[PRIMARY].at(last)
    if not moved.excludes_zero:
        return f"motion quality does not measurably change ({number(start.mean, 2)} to {number(end.mean, 2)})"
    verb = "falls" if moved.mean < 0 else "rises"
    return f"motion quality {verb} from {number(start.mean, 2)} to {number(end.mean, 2)}"


def _looks(result: Result) -> Iterator[str]:
    """The visual measures that changed, in one sentence."""
    said = []
    for measure in result.measures:
        levels, moved = result.levels[measure.name], result.changes[measure.name].at(result.points[-1])
        if measure.axis == "visual" and moved.excludes_zero:
            start, end = levels.at(result.points[0]).mean, levels.at(result.points[-1]).mean
            digits = decimals([start, end])
            said.append(f"{measure.name.replace('_', ' ')} {number(start, digits)} → {number(end, digits)}")
    if said:
        yield f"Of the look, what changed beyond its 95 % interval: {', '.join(said)}."


def _floor(result: Result) -> Iterator[str]:
    """Whether so little motion is left that a comparison with another model could show nothing."""
    levels = result.levels.get(PRIMARY)
    if levels and levels.measured and (start := levels.at(result.points[0]).mean) > 0:
        kept = levels.at(result.points[-1]).mean / start
        if kept < FLOOR:
            yield (
                f"On the floor: {kept:.0%} of the motion is left at step {result.points[-1]}. Where both models keep "
                f"less than {FLOOR:.0%}, which of them keeps more is inconclusive."
            )


def _run_figures(result: Result) -> Iterator[Figure]:
    first, last = result.points[0], result.points[-1]
    moved = result.changes[PRIMARY].at(last) if PRIMARY in result.changes else None
    if moved and moved.n and first != last:
        yield Figure(
            f"Change of motion quality to step {last}",
            number(moved.mean, 2, "+"),
            f"95 % over {moved.n} prompt{'s' * (moved.n != 1)} {between(moved, 2)}",
        )
    if (magnitude := result.run.magnitude.get(last)) is not None:
        yield Figure("Size of Δ at the end", percent(magnitude, 1), "‖Δ‖/‖θ‖ of the perturbed weights")
    fit = Fit.of([result.run])
    yield Figure("Fit", fit.words, f"converged: loss on D_I within {CONVERGED:g} × that on own stills, or flat")
    reason = (
        result.run.manifest.distance.get("reason") or "loss of the untouched model on it over that on its own stills"
    )
    yield Figure("Distance of D_I", times(fit.distance), reason)
    collapse = result.levels.get(COLLAPSE)
    if collapse and collapse.measured:
        yield Figure(
            "Clips that stand still at the end",
            f"{100 * collapse.at(last).mean:.0f} %",
            f"{100 * collapse.at(first).mean:.0f} % at the start",
        )

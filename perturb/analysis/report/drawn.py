"""The figures of runs whose states are scales, or parts of the network."""

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from perturb.analysis.landscape.figure import landscape_figure
from perturb.analysis.landscape.landscape import Landscape
from perturb.analysis.layers.figure import layers_figure
from perturb.analysis.layers.layers import Energy, effects, energies
from perturb.analysis.load import Study
from perturb.analysis.replicates import PART, SCALES, Replicates, replicates
from perturb.analysis.result import Result
from perturb.analysis.statistics.endpoints import PRIMARY
from perturb.errors import UserError


def figures(results: Sequence[Result]) -> Iterator[tuple[str, Figure]]:
    """A title and a figure for all landscapes and for every model with ablations; one each where they differ."""
    for models in _together([result for result in results if result.run.coordinates == SCALES]):
        yield "landscape", landscape_figure(Landscape.of(models))
    for models in _together([result for result in results if result.run.coordinates == (PART,)]):
        motion, energy = [each for each in effects(models) if each.metric == PRIMARY], _energies(models)
        for training in dict.fromkeys(model.training for model in models):
            mine = [each for each in motion if each.training == training]
            yield (
                f"layers {training}",
                layers_figure(training, mine, [each for each in energy if each.training == training]),
            )


def _together(results: Sequence[Result]) -> Iterator[list[Replicates]]:
    """All in one study, or each by itself where they cannot be compared."""
    if not results:
        return
    frames = {result.run.manifest.run_id: result.scores for result in results}
    try:
        yield replicates(Study(tuple(result.run for result in results), frames))
    except UserError:
        if len(results) > 1:
            for result in results:
                yield from _together([result])


def _energies(models: Sequence[Replicates]) -> list[Energy]:
    """None where the tables of magnitudes were not copied with the run."""
    try:
        return list(energies(models))
    except UserError:
        return []

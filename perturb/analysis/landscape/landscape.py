"""Space and time perturbed together: how the one changes what the other does.

    I(α_S, α_T) = Y(α_S, α_T) − Y(α_S, 0) − Y(0, α_T) + Y(0, 0)

per prompt and LoRA seed. It is 0 where the two perturbations add up, below 0 where together they cost more than the sum
of what they cost apart, above 0 where they cost less (as two perturbations must that each leave nothing to lose).
So the same is asked of the shares K = mean Y/mean Y(0, 0) that are kept:

    J(α_S, α_T) = K(α_S, α_T) − K(α_S, 0) K(0, α_T)

It is 0 where each takes the same share of what the other left, below 0 where one makes the other worse.

Axes: s LoRA seed, p prompt, i α_S, j α_T.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from perturb.analysis.replicates import (
    BOTH_MODELS,
    SCALES,
    Replicates,
    by_prompt,
    interval_columns,
    paired,
)
from perturb.analysis.statistics.contrast import Floats, Nested, holm, shares
from perturb.analysis.statistics.resampling import without_dust
from perturb.analysis.statistics.significance import SEED, PairedTest
from perturb.analysis.table import cell

INNER_MEAN = "mean"
"""Stands for both scales in the row that averages I over all states where both are above 0."""


@dataclass(frozen=True)
class Surface:
    """One measure of one model over the grid: ``values`` s p i j. ``training`` full − partial: the paired difference.

    ``shares``: the same as a share of the mean of Y(0, 0), linearised (`contrast.share`), and ``excess``: J of these;
    None where meaningless.
    """

    training: str
    metric: str
    values: Floats
    shares: Floats | None
    excess: Floats | None

    @property
    def interaction(self) -> Floats:
        """I, s p i j."""
        return interaction(self.values)


@dataclass(frozen=True)
class Landscape:
    """All surfaces of a study, with the scales of their axes; ``step`` is that of the LoRAs at scale 1."""

    spatial: tuple[float, ...]
    temporal: tuple[float, ...]
    step: int
    models: tuple[Replicates, ...]
    surfaces: tuple[Surface, ...]

    @staticmethod
    def of(models: Sequence[Replicates]) -> "Landscape":
        """Read every measure; with both models of the same LoRA seeds, their difference too."""
        spatial, temporal = (tuple(sorted({float(scale) for scale in models[0].column(axis)})) for axis in SCALES)
        surfaces = [s for measure in models[0].measures for s in _surfaces(models, measure.name, measure.is_ratio)]
        step = int(models[0].first.manifest.perturbation["step"])
        return Landscape(spatial, temporal, step, tuple(models), tuple(surfaces))

    def surface(self, training: str, metric: str) -> Surface | None:
        """The one of a model and a measure, if there is."""
        return next((s for s in self.surfaces if (s.training, s.metric) == (training, metric)), None)

    @property
    def trainings(self) -> list[str]:
        """The models, and their difference where there is one."""
        return list(dict.fromkeys(surface.training for surface in self.surfaces))


def interaction(y: Floats) -> Floats:
    """I of values whose last two axes are the scales.

    >>> y = np.array([[10.0, 8.0], [7.0, 1.0]])  # apart they cost 3 and 2, together 9
    >>> interaction(y).tolist()
    [[0.0, 0.0], [0.0, -4.0]]
    """
    return y - y[..., :, :1] - y[..., :1, :] + y[..., :1, :1]


def excess(shares: Floats) -> Floats:
    """r(i, j) − K(0, j) r(i, 0) − K(i, 0) r(0, j) + K(i, 0) K(0, j) of shares r s p i j, K their mean over p.

    Its mean over prompts is J; linearised, so that the uncertainty of each share counts.

    >>> shares = np.array([[[[1.0, 0.5], [0.4, 0.1]]]])  # apart they keep .5 and .4, together .1 instead of .2
    >>> excess(shares).round(6).tolist()
    [[[[0.0, 0.0], [0.0, -0.1]]]]
    """
    kept = shares.mean(axis=1, keepdims=True)
    space, time = kept[..., :, :1], kept[..., :1, :]
    return shares - time * shares[..., :, :1] - space * shares[..., :1, :] + space * time


def _surfaces(models: Sequence[Replicates], metric: str, is_ratio: bool) -> Iterator[Surface]:
    shape = tuple(len(set(models[0].column(axis))) for axis in SCALES)
    grids = [y.reshape(*y.shape[:2], *shape) for y in by_prompt(models, metric)]
    starts = is_ratio and all(model.trajectories(metric).has_start for model in models)
    relatives = [shares(y, y[:, :, 0, 0]) if starts else None for y in grids]
    found = [
        Surface(model.training, metric, values, relative, None if relative is None else excess(relative))
        for model, values, relative in zip(models, grids, relatives, strict=True)
    ]
    yield from found
    if paired(models):
        one, other = found
        pairs = (one.values, other.values), (one.shares, other.shares), (one.excess, other.excess)
        values, relative, beyond = (None if a is None or b is None else a - b for a, b in pairs)
        assert values is not None
        yield Surface(BOTH_MODELS, metric, values, relative, beyond)


def surface_rows(landscape: Landscape) -> Iterator[dict[str, Any]]:
    """surfaces.csv: a row per model, measure and cell."""
    sizes = {model.training: model.dose.mean(axis=0) for model in landscape.models}
    for surface in landscape.surfaces:
        for k, (i, j) in enumerate(np.ndindex(surface.values.shape[2:])):
            size = float(sizes[surface.training][k]) if surface.training in sizes else np.nan
            at = {"spatial": landscape.spatial[i], "temporal": landscape.temporal[j], "magnitude": size}
            level = interval_columns("mean", Nested.of(surface.values[:, :, i, j]))
            yield {"training": surface.training, "metric": surface.metric, **at, **level}


def interaction_rows(landscape: Landscape) -> Iterator[dict[str, Any]]:
    """interactions.csv: a row per model, measure, scale and cell; Holm over the cells.

    The test is Student's t, of the difference of the two models sign flips. Scale ``raw`` is I, ``relative`` I of the
    shares, ``product`` J.
    """
    for surface in landscape.surfaces:
        relative = None if surface.shares is None else interaction(surface.shares)
        for scale, values in (("raw", surface.interaction), ("relative", relative), ("product", surface.excess)):
            if values is None:
                continue
            compared = surface.values if scale == "raw" or surface.shares is None else surface.shares
            inner = without_dust(values[:, :, 1:, 1:], scale=float(np.abs(compared).max(initial=0.0)))
            cells = list(np.ndindex(inner.shape[2:]))
            found = [inner[:, :, i, j] for i, j in cells]
            twins = surface.training == BOTH_MODELS
            tests = [
                PairedTest.of(d, np.random.default_rng(SEED), exchangeable=twins)
                for d in (*found, inner.mean(axis=(2, 3)))
            ]
            places = [(landscape.spatial[i + 1], landscape.temporal[j + 1]) for i, j in cells]
            places.append((INNER_MEAN, INNER_MEAN))
            adjusted = [*holm([test.p for test in tests[:-1]]), np.nan]
            rows = zip(places, (*found, inner.mean(axis=(2, 3))), tests, adjusted, strict=True)
            for (spatial, temporal), d, test, p_holm in rows:
                yield {
                    "training": surface.training,
                    "metric": surface.metric,
                    "scale": scale,
                    "spatial": spatial,
                    "temporal": temporal,
                    **interval_columns("interaction", Nested.of(d)),
                    **test.columns,
                    "p_holm": p_holm,
                }


def interaction_table(landscape: Landscape, surface: Surface) -> Table:
    """I with its 95 % interval, bold where that excludes 0: a row per α_S and a column per α_T."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("α_S \\ α_T")
    for scale in landscape.temporal[1:]:
        table.add_column(f"{scale:g}", justify="right")
    inner = surface.interaction
    for i, scale in enumerate(landscape.spatial[1:], start=1):
        found = [Nested.of(inner[:, :, i, j]).over_both for j in range(1, len(landscape.temporal))]
        cells = [Text(cell(e, 3, sign="+"), style="bold" if e.excludes_zero else "") for e in found]
        table.add_row(f"{scale:g}", *cells)
    return table

"""Whether a fit has converged, and how far D_I is from what the model knows: what runs record of their loss.

converged   loss on D_I ≤ 1.5 × loss of the untouched model on stills of its own training data, or flat: see `horizon`
distance    loss of the untouched model on D_I / its loss on those stills
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from perturb.analysis.load import Run
from perturb.analysis.statistics.endpoints import CONVERGED, Horizon, horizon
from perturb.store.states import steps


@dataclass(frozen=True)
class Fit:
    """The fits of one model, over their LoRA seeds.

    ``losses`` on D_I by step, none where some were not recorded · ``own``: the loss of the untouched model on its own
    stills · ``distance``: that on D_I over it; None where it was not measured.
    """

    steps: tuple[int, ...]
    losses: tuple[float, ...]
    own: float | None
    distance: float | None

    @staticmethod
    def of(runs: Sequence[Run]) -> "Fit":
        """From runs that differ in their LoRA seed, along the same steps."""
        along = tuple(steps(runs[0].states))
        whole = all(set(along) <= set(run.loss) for run in runs)
        losses = tuple(fmean(run.loss[step] for run in runs) for step in along) if whole else ()
        own, distance = (
            mean_known([run.manifest.distance.get(name) for run in runs]) for name in ("own_loss", "ratio")
        )
        return Fit(along, losses, own, distance)

    @property
    def horizon(self) -> Horizon:
        """The state up to which the endpoints are read."""
        return horizon(self.losses or None, self.own, self.steps)

    @property
    def converged_at(self) -> int | None:
        """The first step at which it has; None where it has not, or that is not known."""
        return self.steps[self.horizon.place] if self.horizon.converged else None

    @property
    def level(self) -> float | None:
        """The loss at which a fit has converged."""
        return None if self.own is None else CONVERGED * self.own

    @property
    def words(self) -> str:
        """``converged at step 200``, ``flat by step 900, at 1.9 × its own loss``, ``not converged by step 300``, …"""
        if (converged := self.horizon.converged) is None or self.own is None:
            return "convergence not recorded"
        if not converged:
            return f"not converged by step {self.steps[-1]}"
        ratio = self.losses[self.horizon.place] / self.own
        if ratio <= CONVERGED:
            return f"converged at step {self.converged_at}"
        return f"flat by step {self.converged_at}, at {ratio:.2g} × the loss on its own stills"


def times(distance: float | None) -> str:
    """``1.8 ×``; – where it is not known.

    >>> times(1.8), times(None)
    ('1.8 ×', '–')
    """
    return "–" if distance is None else f"{distance:.2g} ×"


def mean_known(values: Sequence[float | None]) -> float | None:
    """The mean; None where any value is."""
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None

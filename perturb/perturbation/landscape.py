"""Space and time perturbed together: θ_S + α_S Δ_S and θ_T + α_T Δ_T, on a grid of scales."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from torch import nn

from perturb.errors import UserError
from perturb.perturbation.base import BOTH, parts, refuse_second
from perturb.perturbation.cells import CellPerturbation
from perturb.perturbation.lora import LoraPerturbation
from perturb.perturbation.reference import Reference
from perturb.store.paths import resolve
from perturb.store.rundir import RunDir

if TYPE_CHECKING:
    from perturb.models.partition import Partition


class LandscapePerturbation(CellPerturbation):
    """Two LoRAs of one model, one in space and one in time, each fitted by itself; a cell per (α_S, α_T).

    ``spatial`` and ``temporal`` are finished runs, <runs>/<experiment>/<run id>; where one is None, ``lora`` is fitted
    for ``step`` steps before (`unfitted`, `take`). The first cell is (0, 0), then α_T runs fastest. Raises UserError
    for scales that do not rise from 0.
    """

    def __init__(
        self,
        *,
        spatial_scales: Sequence[float],
        temporal_scales: Sequence[float],
        step: int,
        lora: LoraPerturbation,
        spatial: str | None = None,
        temporal: str | None = None,
    ) -> None:
        _check_scales("spatial_scales", spatial_scales)
        _check_scales("temporal_scales", temporal_scales)
        pairs = product(spatial_scales, temporal_scales)
        super().__init__([{"spatial": float(s), "temporal": float(t)} for s, t in pairs], step)
        self.lora = lora
        self._references: dict[str, Reference] = {}
        self._groups: dict[str, str] = {}  # layer → group
        for group, path in (("spatial", spatial), ("temporal", temporal)):
            if path is not None:
                self.take(group, RunDir(resolve(path)))

    @property
    def unfitted(self) -> list[str]:
        """The groups for which there is no run yet."""
        return [group for group in parts(BOTH) if group not in self._references]

    def take(self, group: str, run: RunDir) -> None:
        """``run`` is the fit of ``group``."""
        self._references[group] = Reference(f"perturbation.{group}", run)

    def references(self) -> dict[str, Reference]:
        """Both runs, the spatial one first."""
        return {group: self._references[group] for group in parts(BOTH)}

    def attach(self, unet: nn.Module, partition: Partition, group: str, seed: int) -> None:
        """As every `CellPerturbation`; while something is `unfitted`, a fresh LoRA, which is enough for a plan."""
        if not self.unfitted:
            return super().attach(unet, partition, group, seed)
        refuse_second(unet, self._carrier)
        self.lora.attach(unet, partition, group, seed)
        self._carrier = self.lora
        return None

    def shares(self, cell: Mapping[str, Any]) -> dict[str, float]:
        """α of the group that a layer belongs to."""
        return {layer: cell[group] for layer, group in self._groups.items()}

    def _look(self, unet: nn.Module, partition: Partition, group: str) -> None:
        del unet
        if group != BOTH:
            raise UserError(f"a landscape perturbs space and time together, and group is {group!r}: set group={BOTH}")
        for part, reference in self.references().items():
            reference.check_group(part, "give a run of that group")
        self._groups = {layer: part for part in parts(BOTH) for layer in partition.layers(part)}

    def parameters(self) -> list[nn.Parameter]:
        """What is still to be fitted, none as soon as both runs are there."""
        return self._attached().parameters() if self.unfitted else []

    def describe(self) -> dict[str, Any]:
        """For the manifest: cells, runs, and what they move; ``fit_steps`` where something is still to be fitted."""
        if self.unfitted:
            return {**self._attached().describe(), "kind": "landscape", "fit_steps": len(self.unfitted) * self.step}
        return {**super().describe(), "kind": "landscape"}


def _check_scales(name: str, scales: Sequence[float]) -> None:
    numbers = all(isinstance(scale, (int, float)) and math.isfinite(scale) for scale in scales)
    if not numbers or list(scales) != sorted(set(scales)) or len(scales) < 2 or scales[0] != 0:
        raise UserError(
            f"perturbation.{name} is {list(scales)}; allowed: two or more numbers that rise from 0, such as [0,0.5,1]"
        )

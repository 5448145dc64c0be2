"""What a perturbation is: a change Δ of the weights θ of one group, attached to a network and taken off again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

if TYPE_CHECKING:
    from perturb.partition import Partition


@dataclass(frozen=True)
class Magnitude:
    """‖Δ‖_F/‖θ‖_F: per targeted layer, and of all of them, √ΣΔ² / √Σθ². Infinite where θ = 0 and Δ ≠ 0."""

    total: float
    per_layer: dict[str, float]


class Perturbation(Protocol):
    """θ_group ← θ_group + α Δ, with everything else untouched.

    Life cycle: ``attach`` (Δ = 0), then fit or ``load``, then ``detach``, which gives the original network back.
    """

    def attach(self, unet: nn.Module, partition: Partition, group: str, seed: int) -> None:
        """Put a fresh Δ = 0 on ``group``; equal seeds give equal perturbations. Freezes every other parameter."""
        ...

    def parameters(self) -> Sequence[nn.Parameter]:
        """What is trained, in a fixed order."""
        ...

    def train(self, mode: bool) -> None:
        """Training mode of the perturbation's own layers (its dropout); the network itself keeps its mode."""
        ...

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None:
        """Replace Δ by a saved one."""
        ...

    def scale(self, alpha: float) -> None:
        """Set α: 0 is the original network, 1 the perturbed one."""
        ...

    def detach(self) -> None: ...

    def magnitude(self) -> Magnitude: ...

    def describe(self) -> dict[str, Any]:
        """For the manifest: settings, targeted layers, number of parameters, what could not be reached."""
        ...

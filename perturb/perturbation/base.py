"""What a perturbation is: a change Δ of the weights θ of one group, attached to a network and taken off again."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from perturb.errors import UserError
from perturb.models.partition import Partition
from perturb.store.rundir import RunDir
from perturb.store.states import State

BOTH = "both"
"""Stands for the groups "spatial" and "temporal" together, wherever a perturbation is attached."""

IN_PLACE = "perturbed_in_place"
"""Set on a network whose own weights are moved, so that no second perturbation takes them for the original ones."""


@dataclass(frozen=True)
class Magnitude:
    """‖Δ‖_F/‖θ‖_F: per targeted layer, and of all of them, √ΣΔ² / √Σθ². Infinite where θ = 0 and Δ ≠ 0.

    ``bases``: ‖θ‖_F of every layer, without which ratios of layers cannot be put together.
    """

    total: float
    per_layer: dict[str, float]
    bases: dict[str, float]

    @staticmethod
    def of(deltas: Mapping[str, float], bases: Mapping[str, float]) -> "Magnitude":
        """From ‖Δ‖_F² and ‖θ‖_F² of every layer."""
        return Magnitude(
            total=_ratio(sum(deltas.values()), sum(bases.values())),
            per_layer={name: _ratio(delta, bases[name]) for name, delta in deltas.items()},
            bases={name: math.sqrt(bases[name]) for name in deltas},
        )


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

    def merged(self) -> AbstractContextManager[None]:
        """Inside, a plain network whose own weights are θ + αΔ, as fast as the original one; after it θ, bit for bit.

        Nothing else can be asked of the perturbation inside.
        """
        ...

    def detach(self) -> None: ...

    def magnitude(self) -> Magnitude: ...

    def describe(self) -> dict[str, Any]:
        """For the manifest: kind, settings, targeted layers, number of parameters, what could not be reached."""
        ...


class Fit(Protocol):
    """Fits a perturbation to the images of the study."""

    def __call__(self, perturbation: Perturbation, group: str, probe_steps: Sequence[int]) -> RunDir:
        """The finished fit of ``group``, kept at the probe steps; the perturbation stays attached."""
        ...


@runtime_checkable
class Unfitted(Perturbation, Protocol):
    """A perturbation that is not fitted: its states are known beforehand, and `parameters` is empty."""

    def prepare(self, fit: Fit) -> None:
        """Have ``fit`` make what it is made from, as far as that is not there; everything else comes after this."""
        ...

    def check(self, base: Mapping[str, Any]) -> None:
        """Raise UserError unless Δ is meant for the model whose components have these hashes (`Manifest.frozen`)."""
        ...

    def states(self) -> list[State]:
        """All states, without magnitudes; the first is Δ = 0."""
        ...

    def at(self, state: State) -> None:
        """Set Δ to that of one of the `states`, and α to 1."""
        ...


def parts(group: str) -> tuple[str, ...]:
    """The groups of a partition that ``group`` stands for."""
    return ("spatial", "temporal") if group == BOTH else (group,)


def check_within(layers: Iterable[str], partition: Partition, group: str, what: str) -> None:
    """Raise UserError unless all ``layers`` (or parameters), which ``what`` perturbs, are of ``group``."""
    allowed = {name for part in parts(group) for name in partition.names(part)}
    if other := [layer for layer in layers if not allowed & {layer, f"{layer}.weight"}]:
        raise UserError(
            f"{what} perturbed {other[0]}, which is not in the group {group!r} of this model: set group to what it "
            "perturbs, or give one of the same model"
        )


def refuse_second(unet: nn.Module, mine: object | None) -> None:
    """Raise UserError when this perturbation is attached (it has ``mine``), or another one is to ``unet``."""
    if mine is not None or hasattr(unet, "peft_config") or hasattr(unet, IN_PLACE):
        raise UserError("a perturbation is attached already: call detach() first")


@torch.no_grad()
def square(weight: Tensor) -> float:
    """‖θ‖_F²."""
    return float(torch.linalg.vector_norm(weight, dtype=torch.float64)) ** 2


def _ratio(delta_square: float, base_square: float) -> float:
    if base_square == 0:
        return math.inf if delta_square else 0.0
    return math.sqrt(delta_square / base_square)

"""Plain fine-tuning of one group or of both: the weights themselves move, there is no adapter.

VideoCrafter2 (arXiv 2401.09047) fine-tunes θ_S of a fully trained model in this way, on high-quality stills.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from perturb.errors import UserError
from perturb.perturbation.base import Magnitude, parts, refuse_second
from perturb.perturbation.inplace import MovedWeights

if TYPE_CHECKING:
    from perturb.partition import Partition


class DirectPerturbation:
    """Δ of full rank on every parameter of the group: matrices, biases, norms and relative-position tables alike.

    ``group`` is one of the partition's, or "both" for spatial and temporal. It starts at Δ = 0 without a random draw,
    so the seed has no say. The temporal convolutions' own dropout stays as the network has it (off while fitting), as
    it does under LoRA.
    """

    def __init__(self) -> None:
        self._weights: MovedWeights | None = None

    def attach(self, unet: nn.Module, partition: Partition, group: str, seed: int) -> None:
        """Make the parameters of ``group`` trainable and all others not, until ``detach``.

        Raises UserError when something is attached already, for a group without parameters, and for a network that is
        not float32.
        """
        del seed
        refuse_second(unet, None if self._weights is None else self._weights.unet)
        names = [name for part in parts(group) for name in partition.names(part)]
        if not names:
            raise UserError(f"the group {group!r} of this model has no parameters to fine-tune")
        self._weights = MovedWeights(unet, names, trained=True)

    @classmethod
    def restore(cls, unet: nn.Module, folder: str | Path) -> DirectPerturbation:
        """Attach saved weights, whichever group they are of; nothing is trainable then.

        Raises UserError when the folder holds none, or some of another network.
        """
        perturbation = cls()
        perturbation._weights = MovedWeights.restore(unet, Path(folder))
        return perturbation

    def detach(self) -> None:
        """Put θ back, bit for bit, with the flags it had. Does nothing when not attached."""
        if self._weights is not None:
            self._weights.detach()
            self._weights = None

    def parameters(self) -> list[nn.Parameter]:
        """The group's own parameters, in the network's order. Raises UserError unless α is 1: they are θ + αΔ."""
        weights = self._attached()
        if weights.alpha != 1:
            raise UserError(f"weights at scale {weights.alpha:g} cannot be trained; call scale(1) first")
        return list(weights.parameters.values())

    def train(self, mode: bool) -> None:
        """Nothing to switch: the perturbation has no layers of its own."""

    def scale(self, alpha: float) -> None:
        """θ + α Δ from now on; exact at 0 and 1. Raises UserError unless ``alpha`` is finite."""
        self._attached().scale(alpha)

    def magnitude(self) -> Magnitude:
        """‖αΔ‖_F/‖θ‖_F; the weight of a layer under the layer's name, any other parameter under its own."""
        return self._attached().magnitude()

    def save(self, folder: Path) -> None:
        """Write the moved tensors θ + Δ (not Δ) as safetensors, with a hash of θ. The scale α is not saved."""
        self._attached().save(folder)

    def load(self, folder: Path) -> None:
        """Replace Δ by the one saved in ``folder``. Raises UserError unless group and θ are the same."""
        self._attached().load(folder)

    def describe(self) -> dict[str, Any]:
        """For the manifest: what is moved, under the names that magnitudes have, and how many values that is."""
        weights = self._attached()
        return {
            "kind": "direct",
            "parameters": sum(parameter.numel() for parameter in weights.parameters.values()),
            "layers": list(weights.labels.values()),
            "unreachable": [],
        }

    def _attached(self) -> MovedWeights:
        if self._weights is None:
            raise UserError("the perturbation is not attached to a network: call attach() or restore() first")
        return self._weights

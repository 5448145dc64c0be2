"""Plain fine-tuning of one group or of both: the weights themselves move, there is no adapter.

VideoCrafter2 (arXiv 2401.09047) fine-tunes θ_S of a fully trained model in this way, on high-quality stills.
"""

from pathlib import Path
from typing import Any

from torch import nn

from perturb.errors import UserError
from perturb.models.partition import Partition
from perturb.perturbation.base import parts, refuse_second
from perturb.perturbation.delegating import Delegating
from perturb.perturbation.moved import MovedWeights


class DirectPerturbation(Delegating[MovedWeights]):
    """Δ of full rank on every parameter of the group: matrices, biases, norms and relative-position tables alike.

    ``group`` is one of the partition's, or "both" for spatial and temporal. It starts at Δ = 0 without a random draw,
    so the seed has no say. The temporal convolutions' own dropout stays as the network has it (off while fitting), as
    it does under LoRA.
    """

    def attach(self, unet: nn.Module, partition: Partition, group: str, seed: int) -> None:
        """Make the parameters of ``group`` trainable and all others not, until ``detach``.

        Raises UserError when something is attached already, for a group without parameters, and for a network that is
        not float32.
        """
        del seed
        refuse_second(unet, self._delegate)
        names = [name for part in parts(group) for name in partition.names(part)]
        if not names:
            raise UserError(f"the group {group!r} of this model has no parameters to fine-tune")
        self._delegate = MovedWeights(unet, names, trained=True)

    @classmethod
    def restore(cls, unet: nn.Module, folder: str | Path) -> "DirectPerturbation":
        """Attach saved weights, whichever group they are of; nothing is trainable then.

        Raises UserError when the folder holds none, or some of another network.
        """
        perturbation = cls()
        perturbation._delegate = MovedWeights.restore(unet, Path(folder))
        return perturbation

    def parameters(self) -> list[nn.Parameter]:
        """The group's own parameters, in the network's order. Raises UserError unless α is 1: they are θ + αΔ."""
        weights = self._attached()
        if weights.alpha != 1:
            raise UserError(f"weights at scale {weights.alpha:g} cannot be trained; call scale(1) first")
        return list(weights.parameters.values())

    def describe(self) -> dict[str, Any]:
        """For the manifest: what is moved, under the names that magnitudes have, and how many values that is."""
        return {"kind": "direct", **self._attached().describe()}

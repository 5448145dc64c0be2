"""A fitted LoRA applied in one part of the network only: in some blocks, in some kinds of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from perturb.errors import UserError
from perturb.perturbation import files
from perturb.perturbation.anatomy import Place, anatomy
from perturb.perturbation.cells import CellPerturbation
from perturb.perturbation.reference import Reference
from perturb.store.paths import resolve
from perturb.store.rundir import RunDir

if TYPE_CHECKING:
    from perturb.models.partition import Partition

NONE = "none"


class AblationPerturbation(CellPerturbation):
    """The LoRA of a finished run, of which each cell keeps one part: f_l = 1 inside it and 0 outside.

    ``reference`` is <runs>/<experiment>/<run id>. A part is one or more of a layer's names (`Place.names`), all of
    which must hold: "all", "down", "attention", "down attention", "up.0 convolution", "query". The first is "none".
    """

    def __init__(self, reference: str, parts: Sequence[str], step: int) -> None:
        super().__init__([{"part": part} for part in parts], step)
        if len(parts) < 2 or parts[0] != NONE or len(set(parts)) != len(parts):
            raise UserError(
                f"perturbation.parts is {list(parts)}; allowed: {NONE} and then different parts, for example "
                f"[{NONE},all,down,middle,up]"
            )
        self.reference = Reference("perturbation.reference", RunDir(resolve(reference)))
        self._places: dict[str, Place] = {}  # of the layers that the reference perturbed

    def references(self) -> dict[str, Reference]:
        """The one run, under the group that it perturbed."""
        return {str(self.reference.run.manifest().perturbation.get("group")): self.reference}

    def shares(self, cell: Mapping[str, Any]) -> dict[str, float]:
        """1 for a layer of the part, 0 for every other."""
        return {layer: float(in_part(place, cell["part"])) for layer, place in self._places.items()}

    def _look(self, unet: nn.Module, partition: Partition, group: str) -> None:
        """Raises UserError for a part without any layer that the reference perturbed."""
        del partition
        self.reference.check_group(group, "set experiment, group and system to those of that run")
        _, weights = files.read(self.reference.run.adapter(self.step))
        perturbed = files.layer_names(weights)
        self._places = {layer: place for layer, place in anatomy(unet).items() if layer in perturbed}
        for cell in self.cells[1:]:
            if not any(in_part(place, cell["part"]) for place in self._places.values()):
                names = sorted(set().union(*(place.names for place in self._places.values())))
                raise UserError(
                    f"perturbation.parts: {self.reference.run.path} perturbed no layer that is {cell['part']!r}; its "
                    f"layers are called {', '.join(names)} (several names narrow a part down, as in 'down attention')"
                )

    def describe(self) -> dict[str, Any]:
        """For the manifest: the parts, the run, and for every layer that it perturbed its place."""
        places = {
            layer: {"block": place.block, "level": place.level, "kind": place.kind, "role": place.role}
            for layer, place in self._places.items()
        }
        return {**super().describe(), "kind": "ablation", "places": places}


def in_part(place: Place, part: str) -> bool:
    """Whether every word of ``part`` is a name of the place.

    >>> in_part(Place("down", "down.1", "query"), "down attention"), in_part(Place("up", "up.1", "query"), "none")
    (True, False)
    """
    return set(part.split()) <= place.names

"""A fitted LoRA in parts and in shares: what each layer keeps of it is prescribed, cell by cell.

    θ_l + f_l(cell) Δ_l

The cells are numbered from 0 and take the place of probe steps: each is kept, sampled, scored and resumed like one. In
cell 0 all f_l are 0, so that it is the model as it was, with which the others are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from perturb.errors import UserError
from perturb.perturbation.base import refuse_second
from perturb.perturbation.delegating import Carried
from perturb.perturbation.lora import LoraPerturbation
from perturb.perturbation.reference import Reference
from perturb.structured import check_range

if TYPE_CHECKING:
    from perturb.models.partition import Partition


class CellPerturbation(Carried[LoraPerturbation]):
    """What a landscape and an ablation share; a subclass says what the cells are, and the f_l of each.

    ``step`` is the probe step at which the fitted Δ is taken from its runs. Nothing is trained.
    """

    def __init__(self, cells: Sequence[Mapping[str, Any]], step: int) -> None:
        super().__init__()
        check_range("perturbation.step", step, low=1)
        self.cells, self.step = list(cells), step
        self._fitted: dict[str, Tensor] = {}

    def references(self) -> dict[str, Reference]:
        """The runs that Δ comes from, by the group that each perturbed."""
        raise NotImplementedError

    def shares(self, cell: Mapping[str, Any]) -> dict[str, float]:
        """f_l of every layer (of more than are perturbed, if need be)."""
        raise NotImplementedError

    def check(self, base: Mapping[str, Any]) -> None:
        """Raise UserError unless every reference is a finished run of the model whose components have these hashes."""
        for reference in self.references().values():
            reference.check_model(base)

    def attach(self, unet: nn.Module, partition: Partition, group: str, seed: int) -> None:
        """Attach the references' LoRAs as one, in cell 0.

        Raises UserError when something is attached already, and for references that are no finished LoRA runs, were
        fitted with another seed, have no adapter of ``step``, or do not fit this network or each other.
        """
        refuse_second(unet, self._carrier)
        folders = [each.adapter(self.step, "perturbation.step") for each in self.references().values()]
        self._look(unet, partition, group)
        for reference in self.references().values():
            reference.check_seed(seed)
        carrier = LoraPerturbation.restore(unet, folders[0], *folders[1:])
        for factor in carrier.parameters():
            factor.requires_grad_(False)
        self._carrier = carrier
        self._fitted = {layer: b.detach().clone() for layer, (_, b) in carrier.factors().items()}
        self.at(0)

    def _look(self, unet: nn.Module, partition: Partition, group: str) -> None:
        """Check the groups, and keep what `shares` has to know of the network, to which nothing is attached yet."""
        raise NotImplementedError

    @torch.no_grad()
    def at(self, step: int) -> None:
        """Set Δ to that of cell ``step``, and α to 1: exact where a share is 0, 1 or a power of 2.

        Raises UserError when there is no such cell.
        """
        carrier = self._attached()
        if step >= len(self.cells):
            raise UserError(f"there are {len(self.cells)} cells; allowed in probe_steps: 0 to {len(self.cells) - 1}")
        shares = self.shares(self.cells[step])
        for layer, (_, b) in carrier.factors().items():
            b.copy_(shares[layer] * self._fitted[layer])
        carrier.scale(1.0)

    def parameters(self) -> list[nn.Parameter]:
        """None: nothing is trained."""
        return []

    def describe(self) -> dict[str, Any]:
        """For the manifest: the cells in their order, the runs that Δ comes from, and what it moves."""
        sources = {
            part: {**reference.origin(), "as_video": reference.run.manifest().images.get("as_video")}
            for part, reference in self.references().items()
        }
        return {**self._attached().describe(), "step": self.step, "sources": sources, "cells": self.cells}

"""The control: a random Δ that is as large, layer by layer, as one that was fitted.

If a fitted Δ does more to a model than a random one of the same ‖Δ‖_F/‖θ‖_F in every layer, it is its direction that
does it, and not its size.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from perturb.diffusion.noise import sample_generator
from perturb.errors import UserError
from perturb.models.partition import Partition
from perturb.perturbation import files
from perturb.perturbation.base import check_within, refuse_second, square
from perturb.perturbation.delegating import Given
from perturb.perturbation.lora import LoraPerturbation
from perturb.perturbation.moved import MovedWeights
from perturb.perturbation.reference import Reference
from perturb.store.paths import resolve
from perturb.store.rundir import RunDir
from perturb.store.states import State

Rank = Literal["full", "reference"]


class RandomPerturbation(Given[MovedWeights | LoraPerturbation]):
    """Δ_l = c_l G_l with G_l Gaussian and c_l such that ‖Δ_l‖_F/‖θ_l‖_F is that of a reference at the same step.

    ``reference`` is a finished run, <runs>/<experiment>/<run id>. ``rank``: "full" draws every weight of G_l
    independently; "reference" draws G_l = B A with Gaussian factors of the reference's rank (a LoRA, then), so that the
    control has its norm and its rank. The direction G_l depends on the seed and the layer's name alone, so it is the
    same at every step; only c_l grows. Nothing is trained.
    """

    def __init__(self, reference: str, rank: Rank = "full") -> None:
        super().__init__()
        if rank not in get_args(Rank):
            raise UserError(f"perturbation.rank is {rank!r}; allowed: {', '.join(get_args(Rank))}")
        self.reference, self.rank = Reference("perturbation.reference", RunDir(resolve(reference))), rank
        self.seed = 0

    def check(self, base: Mapping[str, Any]) -> None:
        """Raise UserError unless the reference is a finished run of the model whose components have these hashes."""
        self.reference.steps()  # raises when it is not finished
        self.reference.check_model(base)

    def attach(self, unet: nn.Module, partition: Partition, group: str, seed: int) -> None:
        """Prepare Δ on the layers that the reference perturbed; it is set by ``at`` or ``load``.

        Raises UserError when something is attached already, for a reference that is no finished run, that perturbed
        another group, or (for its rank) that is no LoRA.
        """
        refuse_second(unet, self._delegate)
        first = self.reference.run.adapter(self.states()[0].id)
        self.reference.check_group(group, "give a run of the same group, or set group to that of the reference")
        layers = files.read_magnitude(first)
        check_within(layers, partition, group, str(self.reference))
        self.seed = seed
        if self.rank == "full":
            self._delegate = MovedWeights(unet, [_parameter(layer, partition) for layer in layers], trained=False)
        else:
            self._delegate = LoraPerturbation.restore(unet, first)
            for factor in self._delegate.parameters():
                factor.requires_grad_(False)

    def states(self) -> list[State]:
        """The probe steps of the reference, without what was measured of its Δ."""
        return [dataclasses.replace(state, magnitude=None, loss=None) for state in self.reference.steps().values()]

    def at(self, state: State) -> None:
        """Set Δ to the size that the reference has in this state, and α to 1.

        Raises UserError where its ratio is infinite (θ = 0).
        """
        delegate = self._attached()
        ratios = files.read_magnitude(self.reference.run.adapter(state.id))
        if endless := [layer for layer, ratio in ratios.items() if not math.isfinite(ratio)]:
            raise UserError(
                f"the reference moved {len(endless)} layers whose weights are 0, e.g. {endless[0]}: a ratio to them "
                "says nothing, so no control can be matched to it"
            )
        delegate.scale(1.0)
        if isinstance(delegate, MovedWeights):
            _put_full(delegate, ratios, self.seed)
        else:
            _put_low_rank(delegate, ratios, self.seed)

    def describe(self) -> dict[str, Any]:
        """For the manifest: what is moved, and after which run."""
        delegate = self._attached().describe()
        return {
            "kind": "random",
            "rank": delegate.get("rank", "full"),
            "reference": self.reference.origin(),
            "parameters": delegate["parameters"],
            "layers": delegate["layers"],
            "unreachable": [],
        }


def _parameter(layer: str, partition: Partition) -> str:
    """The parameter behind a name in a table of magnitudes: a layer stands for its weight."""
    weight = f"{layer}.weight"
    return weight if weight in partition.shapes else layer


@torch.no_grad()
def _put_full(weights: MovedWeights, ratios: Mapping[str, float], seed: int) -> None:
    """θ + c G with c = ratio · ‖θ‖_F/‖G‖_F."""
    moved: dict[str, Tensor] = {}
    for name, layer in weights.labels.items():
        theta = weights.original[name]
        direction = torch.randn(theta.shape, generator=sample_generator("random", seed, layer)).to(theta.device)
        size = ratios[layer] * math.sqrt(square(theta) / square(direction))
        moved[name] = (theta.double() + size * direction.double()).to(theta.dtype)
    weights.put(moved)


@torch.no_grad()
def _put_low_rank(lora: LoraPerturbation, ratios: Mapping[str, float], seed: int) -> None:
    """Gaussian A and B, then B scaled until (α/r) ‖B A‖_F/‖θ‖_F is the ratio."""
    pairs = lora.factors()
    for layer, pair in pairs.items():
        generator = sample_generator("random", seed, layer)
        for factor in pair:
            factor.copy_(torch.randn(factor.shape, generator=generator))
    drawn = lora.magnitude().per_layer
    for layer, (_, b) in pairs.items():
        b.mul_(ratios[layer] / drawn[layer])

"""A finished training as a perturbation: Δ = θ' − θ, from the model it began at to the model it left.

So a fine-tuned model is sampled, scored and compared with its own start like every other perturbed model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from perturb.errors import UserError
from perturb.models.partition import Partition
from perturb.models.videocrafter.checkpoint import load_system
from perturb.perturbation.base import parts, refuse_second
from perturb.perturbation.delegating import Carried
from perturb.perturbation.moved import MovedWeights
from perturb.store.paths import resolve
from perturb.store.tensors import summarise
from perturb.training.twins import read_member


class TrainedPerturbation(Carried[MovedWeights]):
    """What one training of the UNet did to the model it began from; nothing is fitted here.

    ``checkpoint`` is the output folder of that training. Probe step 0 is its init and its last step its result; the
    steps between were not kept.
    """

    def __init__(self, checkpoint: str) -> None:
        super().__init__()
        self.folder = resolve(checkpoint)

    def check(self, base: Mapping[str, Any]) -> None:
        """Raise UserError unless the training began from the model whose components have these hashes."""
        member = read_member(self.folder)
        theirs = summarise(member.init)
        if different := sorted(part for part in theirs.keys() | base.keys() if theirs.get(part) != base.get(part)):
            raise UserError(
                f"perturbation.checkpoint={self.folder} was trained from another model than this one: "
                f"{', '.join(different)} differ. Set system to what it began from, {member.card['init']}, in float32"
            )

    def attach(self, unet: nn.Module, partition: Partition, group: str, seed: int) -> None:
        """Prepare Δ on what the training moved; it is set by ``at`` or ``load``.

        Raises UserError when something is attached already, for a folder that no training left, and for a training of
        other parameters than those of ``group`` ("both": spatial and temporal).
        """
        del seed
        refuse_second(unet, self._carrier)
        moved = read_member(self.folder).trained
        owner = {f"unet.{name}": part for part, names in partition.groups.items() for name in names}
        trained = {owner.get(name, name) for name in moved}
        if trained != set(parts(group)):
            raise UserError(
                f"perturbation.checkpoint={self.folder} trained {', '.join(sorted(trained))}, and group is {group!r}; "
                "set group to what it trained: spatial, temporal, or both for the two of them"
            )
        self._carrier = MovedWeights(unet, [n.removeprefix("unet.") for n in owner if n in moved], trained=False)

    def at(self, step: int) -> None:
        """Set Δ to 0 at step 0 and to θ' − θ at the training's last step, and α to 1.

        Raises UserError for any other step.
        """
        carrier, last = self._attached(), read_member(self.folder).card["last"]["step"]
        if step not in (0, last):
            raise UserError(f"{self.folder} was trained for {last} steps; allowed in probe_steps: [0,{last}]")
        carrier.scale(1.0)
        if step:
            result = load_system(self.folder).unet
            carrier.put({name: result.get_parameter(name).detach() for name in carrier.parameters})
        else:
            carrier.put(carrier.original)

    def parameters(self) -> list[nn.Parameter]:
        """None: nothing is trained."""
        return []

    def describe(self) -> dict[str, Any]:
        """For the manifest: which training, how it moved the weights (``lora`` None: directly), and on what."""
        card = read_member(self.folder).card
        return {
            **self._attached().describe(),
            "kind": "trained",
            "recipe": card["recipe"],
            "lora": card["config"]["trained"]["lora"],
            "steps": card["last"]["step"],
            "data": card["data"],
            "seed": card["config"]["seed"],
            "sample_stream_sha256": card["sample_stream_sha256"],
            "parameters": card["parameters"],
        }

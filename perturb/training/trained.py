"""A finished training as a perturbation: Δ = θ' − θ, from the model it began at to the model it left.

So a fine-tuned model is sampled, scored and compared with its own start like every other perturbed model.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from perturb.errors import UserError
from perturb.models.partition import Partition
from perturb.models.videocrafter.checkpoint import load_system
from perturb.perturbation.base import parts, refuse_second
from perturb.perturbation.delegating import Given
from perturb.perturbation.moved import MovedWeights
from perturb.store.paths import resolve
from perturb.store.states import State, step_state
from perturb.store.tensors import summarise
from perturb.training.twins import read_member


class TrainedPerturbation(Given[MovedWeights]):
    """What one training of the UNet did to the model it began from; nothing is fitted here.

    ``checkpoint`` is the output folder of that training. Its states are step 0, where it began, and its last
    step; those between were not kept.
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
        refuse_second(unet, self._delegate)
        moved = read_member(self.folder).trained
        owner = {f"unet.{name}": part for part, names in partition.groups.items() for name in names}
        trained = {owner.get(name, name) for name in moved}
        if trained != set(parts(group)):
            raise UserError(
                f"perturbation.checkpoint={self.folder} trained {', '.join(sorted(trained))}, and group is {group!r}; "
                "set group to what it trained: spatial, temporal, or both for the two of them"
            )
        self._delegate = MovedWeights(unet, [n.removeprefix("unet.") for n in owner if n in moved], trained=False)

    def states(self) -> list[State]:
        """Step 0 and the training's last step."""
        return [step_state(step) for step in (0, read_member(self.folder).card["last"]["step"])]

    def at(self, state: State) -> None:
        """Set Δ to 0 at step 0 and to θ' − θ at the last one, and α to 1."""
        delegate = self._attached()
        delegate.scale(1.0)
        if state == self.states()[0]:
            delegate.zero()
        else:
            result = load_system(self.folder).unet
            delegate.put({name: result.get_parameter(name).detach() for name in delegate.parameters})

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

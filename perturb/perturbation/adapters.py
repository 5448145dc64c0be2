"""Given adapters, anybody's: each is a state beside the model without any."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from perturb.errors import UserError
from perturb.models.partition import Partition
from perturb.perturbation.base import check_within, refuse_second
from perturb.perturbation.delegating import Given
from perturb.perturbation.lora import LoraPerturbation
from perturb.perturbation.moved import FILE, MovedWeights
from perturb.perturbation.reference import Reference
from perturb.store.paths import distinct_names, resolve
from perturb.store.rundir import RunDir
from perturb.store.states import State

ADAPTER, NONE = "adapter", "none"
ADAPTERS = "adapters"
"""The folder of a run that holds one for every state."""


class AdaptersPerturbation(Given[MovedWeights | LoraPerturbation]):
    """The adapters in ``adapters``, which may differ in rank and layers; the first state has none.

    Each is anything that `foreign.read` reads, as peft's folders and <run>/adapters/<state>, or the moved weights of a
    fine-tuning there. A state is called after its path, with as much of it as tells all of them apart. Nothing is
    trained. Raises UserError when none is given, or one twice.
    """

    def __init__(self, adapters: Sequence[str]) -> None:
        super().__init__()
        if not adapters:
            raise UserError("perturbation.adapters is empty; give folders, for example [loras/a,loras/b]")
        self.folders = dict(zip(distinct_names(adapters), map(resolve, adapters), strict=True))
        self._touched: dict[str, dict[str, int]] = {}
        self._network: tuple[nn.Module, Partition, str] | None = None

    def check(self, base: Mapping[str, Any]) -> None:
        """Raise UserError when one is from a run of another model than that whose components have these hashes."""
        for folder in self.folders.values():
            within = folder.absolute().parent
            if within.name != ADAPTERS:
                continue  # not of a run
            run = RunDir(within.parent)
            if run.manifest().frozen:
                Reference("perturbation.adapters", run).check_model(base)

    def states(self) -> list[State]:
        """None, then each adapter in the order given."""
        return [State.of({ADAPTER: name}) for name in (NONE, *self.folders)]

    def attach(self, unet: nn.Module, partition: Partition, group: str, seed: int) -> None:
        """Attach the first adapter with Δ = 0.

        Raises UserError when something is attached already, for a folder without an adapter, and for one that does
        not fit this network or reaches beyond ``group``.
        """
        del seed
        refuse_second(unet, self._delegate)
        self._network = unet, partition, group
        for name, folder in self.folders.items():  # all of them, once, before anything is sampled
            if name not in self._touched:
                self.load(folder)
                self._touched[name] = partition.touched(self._attached().describe()["layers"])
        self.at(self.states()[0])

    def at(self, state: State) -> None:
        """Attach the adapter of a state in the place of the one before, at α = 1."""
        name = state.coordinates[ADAPTER]
        if name == NONE:
            self.load(next(iter(self.folders.values())))
            self._attached().zero()
        else:
            self.load(self.folders[str(name)])

    def load(self, folder: Path) -> None:
        """Attach what ``folder`` holds in the place of what is attached."""
        if self._network is None:
            raise UserError("the adapters are not attached to a network: call attach() first")
        unet, partition, group = self._network
        self.detach()
        self._delegate = (MovedWeights if (folder / FILE).is_file() else LoraPerturbation).restore(unet, folder)
        if isinstance(self._delegate, LoraPerturbation):
            for factor in self._delegate.parameters():
                factor.requires_grad_(False)
        try:
            check_within(self._delegate.describe()["layers"], partition, group, f"perturbation.adapters: {folder}")
        except UserError:
            self.detach()
            raise

    def describe(self) -> dict[str, Any]:
        """For the manifest: by state the folders, and how many layers of each group; of the attached one also which."""
        folders = {name: str(folder) for name, folder in self.folders.items()}
        return {**self._attached().describe(), "kind": "adapters", "adapters": folders, "touched": self._touched}

"""What perturbations share that leave their Δ to something else: to moved weights, or to the factors of a LoRA."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from torch import nn

from perturb.errors import UserError
from perturb.perturbation.base import Fit, Magnitude

if TYPE_CHECKING:
    from perturb.perturbation.lora import LoraPerturbation
    from perturb.perturbation.moved import MovedWeights

Delegate = TypeVar("Delegate", bound="MovedWeights | LoraPerturbation")


class Delegating(Generic[Delegate]):
    """The part of a `Perturbation` that its delegate does; attached as long as it has one.

    A subclass makes the delegate in ``attach``. Everything but ``detach`` and ``train`` raises UserError before that.
    """

    def __init__(self) -> None:
        self._delegate: Delegate | None = None

    def detach(self) -> None:
        """Put θ back, bit for bit, with the flags it had. Does nothing when not attached."""
        if self._delegate is not None:
            self._delegate.detach()
            self._delegate = None

    def train(self, mode: bool) -> None:
        """Nothing to switch: there are no layers of its own that drop anything."""

    def scale(self, alpha: float) -> None:
        """θ + α Δ from now on; exact at 0 and 1. Raises UserError unless ``alpha`` is finite."""
        self._attached().scale(alpha)

    def merged(self) -> AbstractContextManager[None]:
        """Inside, a plain network with θ + αΔ as its own weights; θ again after it, bit for bit."""
        return self._attached().merged()

    def magnitude(self) -> Magnitude:
        """‖αΔ‖_F/‖θ‖_F; the weight of a layer under the layer's name, any other parameter under its own."""
        return self._attached().magnitude()

    def save(self, folder: Path) -> None:
        """Write the moved tensors θ + Δ, or the factors in peft's format. The scale α is not saved."""
        self._attached().save(folder)

    def load(self, folder: Path) -> None:
        """Replace Δ by the one saved in ``folder``. Raises UserError unless it was made for this network and group."""
        self._attached().load(folder)

    def _attached(self) -> Delegate:
        if self._delegate is None:
            raise UserError("the perturbation is not attached to a network: call attach() first")
        return self._delegate


class Given(Delegating[Delegate]):
    """What the `Unfitted` perturbations share: nothing is trained, and by default nothing has to be fitted before."""

    def prepare(self, fit: Fit) -> None:
        """Nothing to do: what it is made from is there."""

    def parameters(self) -> list[nn.Parameter]:
        """None: nothing is trained."""
        return []

"""The exponential moving average of the trained weights, which is what a training leaves where it keeps one."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


class Ema:
    """θ̄ ← d θ̄ + (1 − d) θ with d = min(decay, (1 + n)/(10 + n)) after step n; sharded where the weights are.

    With a decay of None or 0 it is θ itself: nothing is copied.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float | None) -> None:
        self.parameters, self.decay = dict(parameters) if decay else {}, decay or 0.0
        self.shadow = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def update(self, step: int) -> None:
        """Take in the weights after ``step`` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        if self.shadow:
            torch._foreach_lerp_(_local(self.shadow), _local(self.parameters), 1 - decay)

    def copy_to_model(self) -> None:
        """θ ← θ̄."""
        if self.shadow:
            torch._foreach_copy_(_local(self.parameters), _local(self.shadow))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """θ̄ in place of θ for a while; θ comes back as it was, bit for bit."""
        kept = [tensor.clone() for tensor in _local(self.parameters)]
        self.copy_to_model()
        try:
            yield
        finally:
            if kept:
                torch._foreach_copy_(_local(self.parameters), kept)


def _local(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """What this process holds of each tensor; shares memory with it."""
    plain = (tensor.detach() for tensor in tensors.values())
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in plain]

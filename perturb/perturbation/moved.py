"""Weights that are moved themselves: θ + αΔ inside the network, and a copy of θ to come back to.

On disk lie the moved tensors θ + Δ, not Δ: rounding would not give a fitted network back bit for bit from θ and Δ. A
hash of θ lies with them, because without it they mean nothing as a change.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from perturb.errors import UserError
from perturb.models.partition import LAYERS
from perturb.perturbation.base import IN_PLACE, Magnitude, refuse_second, square
from perturb.perturbation.files import read_tensors
from perturb.store.rundir import replacing
from perturb.store.tensors import raw_bytes

FILE = "moved_weights.safetensors"
BASE = "base"
"""The one entry of the file's metadata, SHA-256 of θ; with two, safetensors would write them in any order."""


def label(unet: nn.Module, name: str) -> str:
    """How magnitudes name a parameter: the weight of a layer by its layer, as with LoRA; any other by its own name."""
    owner, _, leaf = name.rpartition(".")
    return owner if leaf == "weight" and isinstance(unet.get_submodule(owner), LAYERS) else name


class MovedWeights:
    """The parameters ``names`` of ``unet``, moved in place; everything else of it is frozen until ``detach``.

    ``trained`` lets the moved ones require gradients. Raises UserError when another perturbation is attached and for
    weights that are not float32: small changes would be rounded away.
    """

    def __init__(self, unet: nn.Module, names: Iterable[str], *, trained: bool) -> None:
        refuse_second(unet, None)
        self.parameters = {name: unet.get_parameter(name) for name in names}
        if coarse := {str(p.dtype).removeprefix("torch.") for p in self.parameters.values()} - {"float32"}:
            raise UserError(
                f"weights in {', '.join(sorted(coarse))} cannot be moved themselves, small changes would be rounded "
                "away: set system.dtype=float32 (fit.precision and sample.precision may stay bfloat16)"
            )
        self.unet = unet
        self.labels = {name: label(unet, name) for name in self.parameters}
        self.original = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.alpha = 1.0
        self._moved: dict[str, Tensor] | None = None  # θ + Δ while α is not 1; else it is what the network holds
        self._base = ""
        self._trainable_before = {parameter: parameter.requires_grad for parameter in unet.parameters()}
        unet.requires_grad_(False)
        for parameter in self.parameters.values():
            parameter.requires_grad_(trained)
        setattr(unet, IN_PLACE, True)

    @classmethod
    def restore(cls, unet: nn.Module, folder: Path) -> "MovedWeights":
        """Attach what ``folder`` holds. Raises UserError when that is nothing, or was made for another network."""
        tensors, _ = _read(folder)
        present = {name for name, _ in unet.named_parameters()}
        if unknown := [name for name in tensors if name not in present]:
            raise UserError(f"{folder / FILE} was made for another network: no parameters {unknown[:3]} here")
        weights = cls(unet, tensors, trained=False)
        try:
            weights.load(folder)
        except UserError:
            weights.detach()
            raise
        return weights

    @torch.no_grad()
    def scale(self, alpha: float) -> None:
        """θ + α Δ from now on; exactly θ at 0 and exactly the moved weights at 1. UserError unless it is finite."""
        if not math.isfinite(alpha):
            raise UserError(f"the scale of a perturbation must be a finite number, but it is {alpha}")
        moved = self._current()
        for name, parameter in self.parameters.items():
            start, end = self.original[name].to(parameter.device), moved[name].to(parameter.device)
            # the ends apart, because rounding would miss them
            parameter.copy_((start if alpha == 0 else end) if alpha in {0, 1} else torch.lerp(start, end, alpha))
        self.alpha, self._moved = alpha, None if alpha == 1 else moved

    def put(self, moved: Mapping[str, Tensor]) -> None:
        """Replace θ + Δ by these tensors; α stays."""
        self._moved = dict(moved)
        self.scale(self.alpha)

    def zero(self) -> None:
        """Δ = 0, exactly."""
        self.put(self.original)

    def merged(self) -> AbstractContextManager[None]:
        """Nothing to do: θ + αΔ is what the network holds."""
        return nullcontext()

    @torch.no_grad()
    def magnitude(self) -> Magnitude:
        """‖αΔ‖_F/‖θ‖_F of every parameter, by its label, in float64."""
        deltas, bases = {}, {}
        for name, parameter in self.parameters.items():
            original = self.original[name].to(parameter.device)
            deltas[self.labels[name]] = square(parameter.double() - original.double())
            bases[self.labels[name]] = square(original)
        return Magnitude.of(deltas, bases)

    def describe(self) -> dict[str, Any]:
        """For the manifest: what is moved, under the names that magnitudes have, and how many values that is."""
        return {
            "parameters": sum(parameter.numel() for parameter in self.parameters.values()),
            "layers": list(self.labels.values()),
            "unreachable": [],
        }

    def save(self, folder: Path) -> None:
        """Write θ + Δ (at α = 1, whatever α is) as safetensors, with a hash of θ."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._current().items()}
        with replacing(folder / FILE) as path:
            save_file(tensors, path, metadata={BASE: self.base()})
            path.chmod(0o644)

    def load(self, folder: Path) -> None:
        """Replace θ + Δ by what ``folder`` holds. UserError unless it has these parameters and began at this θ."""
        tensors, metadata = _read(folder)
        path = folder / FILE
        if different := sorted(tensors.keys() ^ self.original.keys()):
            raise UserError(f"{path} holds other parameters, e.g. {different[:3]} are only on one side")
        for name, tensor in tensors.items():
            if tensor.shape != self.original[name].shape:
                raise UserError(
                    f"{path} has shape {tuple(tensor.shape)} at {name}, here it is "
                    f"{tuple(self.original[name].shape)}: it was made for another network"
                )
        plan = any(tensor.is_meta for tensor in self.original.values())  # a network without values
        if not plan and metadata.get(BASE) != self.base():
            raise UserError(f"{path} began at other weights than this network has; give the model it was made from")
        self.put(tensors)

    @torch.no_grad()
    def detach(self) -> None:
        """Give the network back, bit for bit and with the flags it had."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.original[name])
        for parameter, trainable in self._trainable_before.items():
            parameter.requires_grad_(trainable)
        delattr(self.unet, IN_PLACE)

    def base(self) -> str:
        """SHA-256 of θ: of names, shapes and bytes."""
        if not self._base:
            total = hashlib.sha256()
            for name in sorted(self.original):
                tensor = self.original[name]
                total.update(f"{name} {tuple(tensor.shape)}".encode())
                total.update(raw_bytes(tensor))
            self._base = total.hexdigest()
        return self._base

    def _current(self) -> dict[str, Tensor]:
        """θ + Δ: a copy of what the network holds, or what was put aside while α is not 1."""
        if self._moved is not None:
            return self._moved
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"no moved weights in {folder}: {FILE} is missing")
    return read_tensors(path)

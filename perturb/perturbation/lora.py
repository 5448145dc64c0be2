"""LoRA through peft: Δ = (α/r) B A on exactly named layers.

Source: Hu et al. 2021 (arXiv 2106.09685). For a convolution A has the kernel of the layer and r output channels, and
B is a pointwise convolution, so Δ[o, i, k] = (α/r) Σ_r B[o, r] A[r, i, k].
Axes: o outputs, i inputs, r rank, k kernel positions.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from perturb.diffusion.noise import sample_generator
from perturb.errors import UserError
from perturb.models.partition import Partition
from perturb.perturbation import files, foreign
from perturb.perturbation.adapter import Adapter, lora_config
from perturb.perturbation.base import Magnitude, parts, refuse_second, square
from perturb.perturbation.targets import Targets, check_targets, select_layers

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

ADAPTER = "default"


class LoraPerturbation:
    """A low-rank Δ on every Linear and convolution of one group (or on the part of them that ``targets`` names).

    ``rank`` r, ``alpha`` of the factor α/r, ``dropout`` on the adapter's input while fitting. Raises UserError for
    values out of range.
    """

    def __init__(self, rank: int = 8, alpha: float = 8.0, dropout: float = 0.0, targets: Targets = "all") -> None:
        if not isinstance(rank, int) or rank < 1:
            raise UserError(f"perturbation.rank must be a whole number of at least 1, but it is {rank!r}")
        if not (math.isfinite(alpha) and alpha > 0):
            raise UserError(f"perturbation.alpha must be a positive number, but it is {alpha}")
        if not 0 <= dropout < 1:
            raise UserError(f"perturbation.dropout must lie in [0, 1), but it is {dropout}")
        check_targets(targets)
        self.rank, self.alpha, self.dropout = rank, float(alpha), float(dropout)  # those of most layers
        self.targets: Targets = targets
        self.unreachable: tuple[str, ...] = ()
        self._unet: nn.Module | None = None
        self._merged = False
        self._layers: dict[str, LoraLayer] = {}
        self._trainable_before: dict[nn.Parameter, bool] = {}
        self._base_squares: dict[str, float] = {}
        self._sums: dict[str, Tensor] = {}

    # attaching ----------------------------------------------------------------------------------------------------

    def attach(self, unet: nn.Module, partition: Partition, group: str, seed: int) -> None:
        """Put Δ = 0 on ``group``: A uniform as in peft, from a generator per layer name and ``seed``; B = 0.

        ``group`` may be "both". ``partition`` must have been made of ``unet``. Parameters outside the adapter stop
        requiring gradients until ``detach``. Raises UserError when something is attached already or the group has no
        such layers.
        """
        refuse_second(unet, self._unet)
        names = select_layers(unet, partition, group, self.targets)
        self._inject(unet, names)
        self.unreachable = tuple(name for part in parts(group) for name in partition.unreachable(part))
        for name, layer in self._layers.items():
            # a generator per layer: an adapter does not depend on which other layers have one, nor on their order
            generator = sample_generator("lora", seed, name)
            weight = torch.empty(_factor(layer, "A").shape)
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
            with torch.no_grad():
                _factor(layer, "A").copy_(weight)

    @classmethod
    def restore(cls, unet: nn.Module, folder: str | Path, *more: Path) -> LoraPerturbation:
        """Attach a saved adapter, anybody's (`foreign.read`), with its ranks and α and on its layers; several as one.

        One, because a second injection of peft's would switch the first off. Raises UserError for what is no adapter,
        or one of another network, and for adapters that share a layer.
        """
        refuse_second(unet, None)
        adapter = foreign.read(unet, Path(folder), *more)
        perturbation = cls(adapter.rank, adapter.alpha, adapter.dropout)
        # in the network's order: a file has none, and the settings written again would differ
        perturbation._inject(unet, [name for name, _ in unet.named_modules() if name in adapter.factors], adapter)
        try:
            perturbation._fill(adapter, folder)
        except UserError:
            perturbation.detach()
            raise
        return perturbation

    def _inject(self, unet: nn.Module, names: Sequence[str], like: Adapter | None = None) -> None:
        from peft import inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

        self._config = lora_config(names, rank=self.rank, alpha=self.alpha, dropout=self.dropout, like=like)
        self._trainable_before = {p: p.requires_grad for p in unet.parameters()}
        # peft initialises from the global generator before `attach` overwrites it: do not let it advance
        with torch.random.fork_rng(devices=[]):
            inject_adapter_in_model(self._config, unet, ADAPTER)
        injected = {name: m for name, m in unet.named_modules() if isinstance(m, LoraLayer)}
        assert set(injected) == set(names), f"LoRA differs from what was meant: {set(injected) ^ set(names)}"
        self._unet, self._layers = unet, injected
        for layer in injected.values():
            # float32 factors on a bf16 network, else small updates are rounded away
            layer.lora_A.float()
            layer.lora_B.float()
            layer.train(layer.get_base_layer().training)  # pyright: ignore[reportAttributeAccessIssue]

    def detach(self) -> None:
        """Put the original layers back: the same objects, with the flags they had. Does nothing when not attached."""
        if self._unet is None:
            return
        for name, layer in self._attached().items():
            _put(self._unet, name, layer.get_base_layer())
        del self._unet.peft_config
        for parameter, trainable in self._trainable_before.items():
            parameter.requires_grad_(trainable)
        self._unet, self._layers, self._trainable_before, self._base_squares = None, {}, {}, {}
        self._sums = {}
        self.unreachable = ()

    # use ----------------------------------------------------------------------------------------------------------

    def parameters(self) -> list[nn.Parameter]:
        """A and B of every layer, in the network's order."""
        return [factor for pair in self.factors().values() for factor in pair]

    def factors(self) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
        """Layer → its A and B."""
        return {name: (_factor(layer, "A"), _factor(layer, "B")) for name, layer in self._attached().items()}

    @torch.no_grad()
    def zero(self) -> None:
        """Δ = 0, exactly: B = 0."""
        for _, b in self.factors().values():
            b.zero_()

    def train(self, mode: bool) -> None:
        """Switch the adapter's dropout; the frozen layers under it keep their mode."""
        for layer in self._attached().values():
            layer.lora_dropout.train(mode)

    def scale(self, alpha: float) -> None:
        """θ + α Δ from now on; exact at 0 and 1. Raises UserError unless ``alpha`` is finite."""
        if not math.isfinite(alpha):
            raise UserError(f"the scale of the adapter must be a finite number, but it is {alpha}")
        for layer in self._attached().values():
            layer.set_scale(ADAPTER, alpha)

    def magnitude(self) -> Magnitude:
        """‖Δ‖_F/‖θ‖_F at the current scale, in float64 and without building Δ: ‖BA‖_F² = tr((BᵀB)(AAᵀ))."""
        if not self._base_squares:
            self._base_squares = {name: square(_weight(layer)) for name, layer in self._attached().items()}
        return Magnitude.of(
            {name: _delta_square(layer) for name, layer in self._attached().items()}, self._base_squares
        )

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Inside, a plain network with θ + αΔ as its own weights; after it θ again, the very tensors it was.

        The sum is rounded once, to the network's dtype; with Δ = 0 it is θ. It lies in the same memory every time, for
        the sake of CUDA graphs. UserError for anything else asked inside.
        """
        layers, unet = self._attached(), self._unet
        assert unet is not None
        kept = {name: _weight(layer).data for name, layer in layers.items()}
        try:
            self._merged = True
            for name, layer in layers.items():
                # not peft's own merge: it fails on Conv3d kernels of (1, 1, k), and subtracts Δ again with an error
                _weight(layer).data = self._placed(name, (kept[name].float() + _delta(layer)).to(kept[name].dtype))
                _put(unet, name, layer.get_base_layer())
            yield
        finally:
            for name, layer in layers.items():
                _weight(layer).data = kept[name]
                _put(unet, name, layer)
            self._merged = False

    def _placed(self, name: str, total: Tensor) -> Tensor:
        """θ + αΔ of a layer in the memory of the last one, where that is on the same device."""
        last = self._sums.get(name, total)
        self._sums[name] = last.copy_(total) if last.device == total.device else total
        return self._sums[name]

    @torch.no_grad()
    def merged_copy(self, unet: nn.Module) -> nn.Module:
        """A float32 copy of ``unet`` with αΔ added into its weights and no adapter left; ``unet`` stays as it is."""
        if unet is not self._unet:
            raise UserError("merged_copy() needs the network this adapter is attached to")
        plain = copy.deepcopy(unet).float()
        for name in self._attached():
            wrapper: Any = plain.get_submodule(name)
            _weight(wrapper).add_(_delta(wrapper))
            _put(plain, name, wrapper.get_base_layer())
        del plain.peft_config
        return plain.requires_grad_(False)

    # files --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write peft's own format: adapter_config.json and adapter_model.safetensors. The scale α is not saved."""
        weights = {
            (name, which): _factor(layer, which).detach() for name, layer in self._attached().items() for which in "AB"
        }
        files.write(folder, self._config, weights)

    def load(self, folder: Path, *more: Path) -> None:
        """Replace Δ by the one saved in ``folder``, or in several. UserError unless ranks, α and layers are equal."""
        layers, adapter = self._attached(), files.read(folder, *more)
        if different := sorted(layers.keys() ^ adapter.factors.keys()):
            raise UserError(f"the adapter in {folder} is of other layers, e.g. {different[:3]} are only on one side")
        for name, layer in layers.items():
            theirs = (adapter.ranks[name], adapter.alphas[name], adapter.rslora)
            mine = (layer.r[ADAPTER], layer.lora_alpha[ADAPTER], layer.use_rslora[ADAPTER])
            for key, given, wanted in zip(("r", "lora_alpha", "use_rslora"), theirs, mine, strict=True):
                if given != wanted:
                    raise UserError(
                        f"the adapter in {folder} has {key} = {given} in {name}; the one attached has {wanted}"
                    )
        self._fill(adapter, folder)

    @torch.no_grad()
    def _fill(self, adapter: Adapter, source: object) -> None:
        """Copy A and B of every layer, all or none. UserError unless they have the shapes that this network needs."""
        for parameter, given in adapter.shaped(self.factors(), source):
            parameter.copy_(given)

    def describe(self) -> dict[str, Any]:
        """For the manifest: settings, targeted layers, number of parameters, weights that LoRA cannot reach."""
        return {
            "kind": "lora",
            "rank": self.rank,
            "alpha": self.alpha,
            "dropout": self.dropout,
            "targets": self.targets,
            "parameters": sum(p.numel() for p in self.parameters()),
            "layers": list(self._attached()),
            "unreachable": list(self.unreachable),
        }

    def _attached(self) -> dict[str, LoraLayer]:
        if self._unet is None:
            raise UserError("the adapter is not attached to a network: call attach() or restore() first")
        if self._merged:
            raise UserError("the adapter is merged into the network: leave `with merged():` first")
        return self._layers


def _put(network: nn.Module, name: str, layer: object) -> None:
    """Set the submodule of that full name."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, layer)


def _factor(layer: LoraLayer, which: str) -> nn.Parameter:
    return getattr(layer, f"lora_{which}")[ADAPTER].weight


def _weight(layer: LoraLayer) -> Tensor:
    weight = layer.get_base_layer().weight
    assert isinstance(weight, Tensor)
    return weight


@torch.no_grad()
def _delta(layer: LoraLayer) -> Tensor:
    """Δ in float32, with the shape of the layer's weight."""
    a, b = _factor(layer, "A").float(), _factor(layer, "B").float()
    return (layer.scaling[ADAPTER] * (b.flatten(1) @ a.flatten(1))).view_as(_weight(layer))


@torch.no_grad()
def _delta_square(layer: LoraLayer) -> float:
    """‖Δ‖_F²."""
    a, b = (_factor(layer, which).flatten(1).double() for which in "AB")
    return layer.scaling[ADAPTER] ** 2 * float(((b.T @ b) * (a @ a.T)).sum().clamp(min=0))

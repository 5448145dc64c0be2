"""A LoRA as it lies on disk, whoever wrote it.

    Δ_l = (α_l/r_l) B_l A_l        or, with rsLoRA, (α_l/√r_l) B_l A_l

Sources of the names of tensors: peft; diffusers, now and before version 0.20; kohya-ss/sd-scripts; AnimateDiff, whose
motion LoRAs are in diffusers' old form. rsLoRA: Kalajdzievski 2023 (arXiv 2312.03732).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from perturb.errors import UserError
from perturb.models.names import Factors
from perturb.perturbation.settings import alpha_of, exactly, rank_of

if TYPE_CHECKING:
    from peft import LoraConfig

PREFIXES = ("base_model.model.", "unet.", "transformer.")
"""Before the name of a layer: peft, diffusers with either kind of network."""
KINDS = {
    **{".lora_A.weight": "A", ".lora_B.weight": "B"},  # peft
    **{".lora.down.weight": "A", ".lora.up.weight": "B"},  # diffusers without peft
    **{"_lora.down.weight": "A", "_lora.up.weight": "B"},  # diffusers' attention processors, AnimateDiff
    **{".lora_down.weight": "A", ".lora_up.weight": "B", ".alpha": "alpha"},  # kohya
}
"""What follows the name of a layer, and what it is."""


@dataclass(frozen=True)
class Adapter:
    """``factors``: layer → A (r i …) and B (o r …) · ``alphas``: layer → α · ``dropout``: of its training."""

    factors: Factors
    alphas: Mapping[str, float]
    rslora: bool = False
    dropout: float = 0.0

    @staticmethod
    def of(tensors: Mapping[str, Tensor], settings: Mapping[str, Any] | None, source: Path) -> Adapter:
        """From the tensors of a file, and peft's settings where there are some.

        Without settings α is what the file says of each layer, else r: Δ = B A. Raises UserError, naming ``source``,
        for what is no factor of a LoRA, for one without its other half, and for ranks that contradict each other.
        """
        found: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            layer, kind = _split(key, source)
            if kind in found.setdefault(layer, {}) or (kind == "alpha" and settings is not None):
                raise UserError(f"{source} says {kind} of {layer} twice, once as {key!r}: the file is damaged")
            if kind == "alpha" and tensor.numel() != 1:
                raise UserError(f"{source}: {key} holds {tensor.numel()} numbers, not one α")
            found[layer][kind] = tensor
        factors = {}
        for layer, parts in found.items():
            if missing := {"A", "B"} - parts.keys():
                raise UserError(f"{source} lacks the factor {min(missing)} of {layer}: the file is cut short")
            a, b = factors[layer] = parts["A"], parts["B"]
            wanted = len(a) if settings is None else rank_of(settings, layer)
            if a.ndim < 2 or b.ndim != a.ndim or not len(a) == b.shape[1] == wanted:
                raise UserError(
                    f"{source} says rank {wanted} of {layer}, where A is {[*a.shape]} and B {[*b.shape]}: damaged"
                )
        if settings is None:
            given = {layer: float(parts.get("alpha", len(parts["A"]))) for layer, parts in found.items()}
            return Adapter(factors, _checked(given, source))
        alphas = _checked({layer: alpha_of(settings, layer) for layer in factors}, source)
        return Adapter(factors, alphas, bool(settings.get("use_rslora")), settings["lora_dropout"])

    @property
    def ranks(self) -> dict[str, int]:
        """Layer → r."""
        return {layer: len(a) for layer, (a, _) in self.factors.items()}

    @property
    def rank(self) -> int:
        """That of most layers."""
        return Counter(self.ranks.values()).most_common(1)[0][0]

    @property
    def alpha(self) -> float:
        """That of most layers."""
        return Counter(self.alphas.values()).most_common(1)[0][0]

    @property
    def config(self) -> LoraConfig:
        """Its settings as peft has them."""
        return lora_config(self.factors, rank=self.rank, alpha=self.alpha, dropout=self.dropout, like=self)

    @property
    def tensors(self) -> dict[tuple[str, str], Tensor]:
        """(layer, "A" or "B") → factor."""
        return {(layer, kind): x for layer, ab in self.factors.items() for kind, x in zip("AB", ab, strict=True)}

    def renamed(self, names: Mapping[str, str]) -> Adapter:
        """The same with its layers under other names."""
        factors = {names[layer]: pair for layer, pair in self.factors.items()}
        return replace(self, factors=factors, alphas={names[layer]: alpha for layer, alpha in self.alphas.items()})

    def shaped(
        self, layers: Mapping[str, tuple[nn.Parameter, nn.Parameter]], source: object
    ) -> list[tuple[nn.Parameter, Tensor]]:
        """Every parameter A, B of ``layers`` with the factor for it. UserError for one of another shape."""
        pairs = []
        for name, mine in layers.items():
            for given, parameter in zip(self.factors[name], mine, strict=True):
                if not _fits(given, parameter):
                    raise UserError(
                        f"the adapter in {source} has shape {tuple(given.shape)} at {name}, here it is "
                        f"{tuple(parameter.shape)}: it was made for another network"
                    )
                pairs.append((parameter, given.view_as(parameter)))
        return pairs

    def joined(self, other: Adapter, what: str) -> Adapter:
        """This and another one as one. Raises UserError, beginning with ``what``, where that cannot be."""
        if self.rslora != other.rslora:
            raise UserError(f"{what} are one with rsLoRA and one without: fit both in the same way")
        if common := sorted(self.factors.keys() & other.factors.keys()):
            raise UserError(f"{what} both move {common[0]}: give them of two groups")
        return replace(self, factors={**self.factors, **other.factors}, alphas={**self.alphas, **other.alphas})


def lora_config(
    layers: Iterable[str], *, rank: int, alpha: float, dropout: float, like: Adapter | None = None
) -> LoraConfig:
    """Peft's settings for a LoRA on exactly these layers, with what single ones have in ``like``."""
    from peft import LoraConfig

    ranks, alphas = ({}, {}) if like is None else (like.ranks, like.alphas)
    settings: dict[str, Any] = {"lora_alpha": alpha}  # annotated int, used as a factor
    return LoraConfig(
        r=rank,
        **settings,
        lora_dropout=dropout,
        use_rslora=like is not None and like.rslora,
        rank_pattern={exactly(layer): each for layer, each in ranks.items() if each != rank},
        alpha_pattern={exactly(layer): each for layer, each in alphas.items() if each != alpha},
        # lists match by suffix and peft shortens long ones; an expression is matched against the full name
        target_modules="|".join(map(re.escape, layers)),
    )


def _fits(given: Tensor, wanted: Tensor) -> bool:
    """Whether they have one shape, but for kernels of one position: a linear layer may be such a convolution."""
    shapes = [tuple(each.shape) if set(each.shape[2:]) - {1} else tuple(each.shape[:2]) for each in (given, wanted)]
    return shapes[0] == shapes[1]


def _split(key: str, source: Path) -> tuple[str, str]:
    """The layer, and what of it: "A", "B" or "alpha".

    >>> _split("unet.mid_block.attn1.processor.to_out_lora.up.weight", Path("x"))
    ('mid_block.attn1.to_out.0', 'B')
    """
    for end, kind in KINDS.items():
        if key.endswith(end):
            layer = key.removesuffix(end).replace(".processor.", ".")
            for prefix in PREFIXES:
                layer = layer.removeprefix(prefix)
            # diffusers' to_out is a list of a layer and a dropout
            return f"{layer}.0" if end.startswith("_lora") and layer.endswith(".to_out") else layer, kind
    raise UserError(
        f"the adapter in {source} holds {key!r}, which is no LoRA factor of a named layer: it would be dropped. "
        "Fit without biases and modules_to_save, or merge the adapter into the model with the library it is from"
    )


def _checked(alphas: dict[str, float], source: Path) -> dict[str, float]:
    if bad := {layer: alpha for layer, alpha in alphas.items() if not (math.isfinite(alpha) and alpha > 0)}:
        layer, alpha = next(iter(bad.items()))
        raise UserError(f"{source}: alpha of {layer} is {alpha}; it must be a positive number")
    return alphas

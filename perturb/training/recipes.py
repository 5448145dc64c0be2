"""What a recipe trains: which groups of the UNet, the text encoder or not, all weights or low-rank factors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from perturb.errors import UserError
from perturb.models.partition import Partition
from perturb.models.videocrafter.system import VideoSystem
from perturb.perturbation import LoraPerturbation
from perturb.perturbation.base import parts

Group = Literal["spatial", "temporal", "both"]


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Train Δ = (α/r) B A on every layer of the group instead of its weights."""

    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What moves; everything else keeps its bits.

    ``group`` as in a perturbation: θ_S, θ_T or both. ``time_embedding`` and ``fps_embedding`` belong to neither, so
    each is said explicitly; the latter is new against an image model, and a partially trained model needs it all the
    same. ``text_encoder`` trains the blocks whose output is read.
    """

    group: Group
    time_embedding: bool
    fps_embedding: bool
    text_encoder: bool = False
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        if self.lora is not None and (self.time_embedding or self.fps_embedding or self.text_encoder):
            raise UserError(
                "trained.lora puts factors on spatial and temporal layers only; set trained.time_embedding=false, "
                "trained.fps_embedding=false and trained.text_encoder=false"
            )

    def describe(self) -> str:
        """One line for the model card."""
        words = [{"spatial": "θ_S", "temporal": "θ_T"}[part] for part in parts(self.group)]
        words += ["the time embedding"] if self.time_embedding else []
        words += ["the fps embedding"] if self.fps_embedding else []
        words += ["the text encoder"] if self.text_encoder else []
        form = "" if self.lora is None else f", as LoRA of rank {self.lora.rank}"
        return ", ".join(words) + form


def trained_parameters(system: VideoSystem, trained: Trained) -> dict[str, nn.Parameter]:
    """``component.name`` → parameter of what is trained directly, group by group in the network's order."""
    partition = Partition.of(system.unet)
    names = [name for part in parts(trained.group) for name in partition.names(part)]
    for name in partition.names("conditioning"):
        if trained.fps_embedding if name.startswith("fps_embedding") else trained.time_embedding:
            names.append(name)
    parameters = {f"unet.{name}": system.unet.get_parameter(name) for name in names}
    if trained.text_encoder:
        unread = system.spec.text.unread  # nobody reads their output
        read = {name: p for name, p in system.text_encoder.named_parameters() if not name.startswith(unread)}
        parameters |= {f"text_encoder.{name}": p for name, p in read.items()}
    return parameters


class Adapter:
    """The low-rank form of a recipe, attached to the UNet."""

    def __init__(self, system: VideoSystem, trained: Trained, seed: int) -> None:
        assert trained.lora is not None
        self.system = system
        self.lora = LoraPerturbation(trained.lora.rank, trained.lora.alpha, trained.lora.dropout)
        self.lora.attach(system.unet, Partition.of(system.unet), trained.group, seed)
        self.described: dict[str, Any] = self.lora.describe()
        self.lora.train(True)

    def names(self) -> list[str]:
        """``unet.name`` of A and B of every layer."""
        own = {id(parameter) for parameter in self.lora.parameters()}
        return [f"unet.{name}" for name, parameter in self.system.unet.named_parameters() if id(parameter) in own]

    def merge(self, folder: Path) -> list[str]:
        """Save the adapter to ``folder``, put its Δ into the weights and take it off; returns the weights it moved."""
        self.lora.save(folder)
        merged = self.lora.merged_copy(self.system.unet).state_dict()
        self.lora.detach()
        self.system.unet.load_state_dict(merged)
        return [f"unet.{layer}.weight" for layer in self.described["layers"]]

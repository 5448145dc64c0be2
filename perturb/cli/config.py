"""The configuration of a study: one dataclass, validated; hydra's DictConfig ends before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from perturb.errors import UserError
from perturb.structured import Target, build, check_range
from perturb.study.fit import FitConfig
from perturb.study.sample import SampleConfig

if TYPE_CHECKING:
    from perturb.models.videocrafter.system import VideoSystem


@dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """A prompt file, and how many of its prompts to take (None: all)."""

    file: str
    limit: int | None = None

    def __post_init__(self) -> None:
        check_range("prompts.limit", self.limit, low=1)


@dataclass(frozen=True, kw_only=True)
class GeneratePromptsConfig:
    """As `PromptsConfig`, but a file need not be given."""

    file: str | None = None
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One study. ``training`` is how the model came about (full, partial, …), ``group`` what is perturbed.

    The group "both" is spatial and temporal together. ``system, perturbation, images, sampler, metrics`` are
    the objects that `build` makes.
    """

    name: str
    training: str
    group: Literal["spatial", "temporal", "both", "conditioning", "image"]
    probe_steps: tuple[int, ...]
    system: Target
    perturbation: Target
    images: Target
    sampler: Target
    metrics: Target
    prompts: PromptsConfig
    fit: FitConfig
    sample: SampleConfig
    image: str | None = None
    runs_dir: str = "runs"
    plan: bool = False

    def __post_init__(self) -> None:
        steps = self.probe_steps
        if not steps or list(steps) != sorted(set(steps)) or steps[0] != 0:
            raise UserError(
                f"probe_steps is {list(steps)}; allowed: rising whole numbers that begin with 0, the unperturbed model "
                "with which all later steps are compared, for example [0,20,50]"
            )


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Plain generation: a ``prompt``, a prompt file or a ``script``; ``adapter`` is added times ``adapter_scale``."""

    system: Target
    sampler: Target
    sample: SampleConfig
    prompts: GeneratePromptsConfig
    prompt: str | None = None
    script: str | None = None
    image: str | None = None
    adapter: str | None = None
    adapter_scale: float = 1.0
    output: str = "generated"


def load(system: Target) -> VideoSystem:
    """The system of a configuration on the device it names; ``auto`` is a GPU where there is one, else the CPU."""
    return build("system", system | {"device": pick_device(system)})


def pick_device(system: Target) -> str:
    """The device a system's configuration asks for, ``auto`` decided."""
    if (name := system.get("device", "auto")) != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"

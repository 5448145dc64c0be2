"""The configuration of a study: one dataclass, validated; hydra's DictConfig ends before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from perturb.data.prompts import PromptsConfig
from perturb.device import pick_device
from perturb.errors import UserError
from perturb.loop.rank import local_rank
from perturb.models.partition import Partition
from perturb.perturbation.base import parts
from perturb.structured import Target, build
from perturb.study.fit import FitConfig
from perturb.study.sample import SampleConfig

if TYPE_CHECKING:
    from perturb.models.base import VideoModel


@dataclass(frozen=True, kw_only=True)
class PartitionConfig:
    """Group → regular expression of parameter names; None: the groups of the model's family."""

    groups: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One study. ``training`` is how the model came about (full, partial, …), ``group`` what is perturbed.

    A group is one of the model's (spatial, temporal, conditioning, image) or of ``partition``; "both" is spatial and
    temporal together. ``probe_steps`` are those of a fit; what is not fitted has states of its own, and None here.
    ``system, perturbation, images, sampler, metrics`` are
    the objects that `build` makes. ``weights``: paths that an experiment with several models hands to their systems;
    ``caveats``: what its report has to say.
    """

    name: str
    training: str
    group: str
    probe_steps: tuple[int, ...] | None
    system: Target
    perturbation: Target
    images: Target
    sampler: Target
    metrics: Target
    prompts: PromptsConfig
    fit: FitConfig
    sample: SampleConfig
    partition: PartitionConfig = PartitionConfig()
    image: str | None = None
    weights: dict[str, str] | None = None
    caveats: tuple[str, ...] = ()
    runs_dir: str = "runs"
    threads: int | None = None
    plan: bool = False

    def __post_init__(self) -> None:
        if self.prompts.file is None:
            raise UserError("prompts.file is null; a study needs the file of its prompts: .txt, csv or jsonl")
        steps = self.probe_steps
        if steps is not None and (not steps or list(steps) != sorted(set(steps)) or steps[0] != 0):
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
    prompts: PromptsConfig
    prompt: str | None = None
    script: str | None = None
    image: str | None = None
    adapter: str | None = None
    adapter_scale: float = 1.0
    output: str = "generated"
    threads: int | None = None


def load(system: Target) -> VideoModel:
    """The system of a configuration on the device it names; ``auto`` is a GPU where there is one, else the CPU.

    Of several processes on a machine each has a GPU of its own.
    """
    device = pick_device(system.get("device", "auto"))
    return build("system", system | {"device": f"cuda:{local_rank()}" if device == "cuda" else device})


def partition_of(config: RunConfig, model: VideoModel) -> Partition:
    """The user's partition of the model's network where one is given, else the model's own.

    Raises UserError unless the group that the study perturbs is in it.
    """
    groups = config.partition.groups
    partition = model.partition() if groups is None else Partition.named(model.network, groups)
    for part in parts(config.group):
        partition.names(part)
    return partition

"""The configuration of a study: one dataclass, validated; hydra's DictConfig ends before it."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from perturb.data.prompts import PromptsConfig
from perturb.device import pick_device
from perturb.errors import UserError
from perturb.loop.rank import local_rank
from perturb.models.execution import channels_last, compile_network, offload
from perturb.models.partition import Partition
from perturb.perturbation.base import parts
from perturb.store.rundir import Locked
from perturb.structured import MISSING_VALUE, Target, build
from perturb.study.fit import FitConfig
from perturb.study.sample import SampleConfig

if TYPE_CHECKING:
    from perturb.models.base import VideoModel

EXECUTION = {"channels_last": channels_last, "compile": compile_network, "offload": offload}
"""What a system's configuration may ask of a model of any family."""


@dataclass(frozen=True, kw_only=True)
class PartitionConfig:
    """Group → regular expression of parameter names; None: the groups of the model's family."""

    groups: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One study. ``training`` is how the model came about (full, partial, …), ``group`` what is perturbed.

    A group is one of the model's (spatial, temporal, conditioning, image) or of ``partition``; "both" is spatial and
    temporal together. ``probe_steps`` are those of a fit; what is not fitted has states of its own, and None here.
    ``own_images`` are stills of what the model was trained on, images like D_I: they say how far D_I is, and when the
    fit has converged. ``pair`` names the twins that this model is one of. ``system, perturbation, images, own_images,
    sampler, metrics`` are the objects that `build` makes; ``images`` may be None where nothing is fitted. ``weights``:
    paths that an experiment with several models hands to their systems; ``caveats``: what its report has to say.
    """

    name: str
    training: str
    group: str
    probe_steps: tuple[int, ...] | None
    system: Target
    perturbation: Target
    images: Target | None
    sampler: Target
    metrics: Target
    prompts: PromptsConfig
    fit: FitConfig = field(default_factory=FitConfig)
    sample: SampleConfig
    partition: PartitionConfig = PartitionConfig()
    own_images: Target | None = None
    pair: str | None = None
    image: str | None = None
    weights: dict[str, str] | None = None
    caveats: tuple[str, ...] = ()
    runs_dir: str = "runs"
    threads: int | None = None
    locked: Locked = "refuse"
    tracker: str | None = None
    project: str = "perturb"
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
    """Plain generation: a ``prompt``, a prompt file or a ``script``, whose texts pass into one another over ``blend``
    frames; ``adapter`` is added times ``adapter_scale``.

    ``interpolate``: a clip that gets ``factor`` − 1 frames after each of its own, with ``loop`` also back to its first;
    ``by`` optical flow, or by the model, which must be one between two images.
    """

    system: Target
    sampler: Target
    sample: SampleConfig
    prompts: PromptsConfig
    prompt: str | None = None
    script: str | None = None
    blend: int = 0
    image: str | None = None
    adapter: str | None = None
    adapter_scale: float = 1.0
    interpolate: str | None = None
    factor: int = 2
    loop: bool = False
    by: Literal["flow", "model"] = "flow"
    output: str = "generated"
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class NamesConfig:
    """Names of a model's tensors by group. ``names``: as the keys of its checkpoint, as ours, or of a vocabulary."""

    system: Target
    partition: PartitionConfig = PartitionConfig()
    group: str | None = None
    names: str = "checkpoint"
    output: str | None = None


def load(system: Target) -> VideoModel:
    """The system of a configuration on the device it names; ``auto`` is a GPU where there is one, else the CPU.

    Of several processes on a machine each has a GPU of its own. `EXECUTION`: see `models.execution`.
    """
    device = pick_device(system.get("device", "auto"))
    model = build("system", _known(system) | {"device": f"cuda:{local_rank()}" if device == "cuda" else device})
    for name, prepare in EXECUTION.items():
        if system.get(name):
            prepare(model)
    return model


def _known(system: Target) -> Target:
    """What the loader of a family takes."""
    return {key: value for key, value in system.items() if key not in EXECUTION}


def has_empty(system: Target) -> bool:
    """Whether the family of a configured model can make it without its files (`empty`)."""
    return hasattr(import_module(system["_target_"].rpartition(".")[0]), "empty_system")


def empty(system: Target, device: str) -> VideoModel:
    """The model that a configuration names, with random weights or, on the meta device, none: for plan=true.

    A family has it beside its loader: ``empty_system``, with the same arguments.
    """
    module, _, name = system["_target_"].rpartition(".")
    if not has_empty(system):
        raise UserError(f"plan=true cannot tell what {name} would load: {module} has no empty_system beside it")
    known = {key: None if value == MISSING_VALUE else value for key, value in _known(system).items()}
    return build("system", known | {"_target_": f"{module}.empty_system", "device": device})


def partition_of(config: RunConfig, model: VideoModel) -> Partition:
    """The user's partition of the model's network where one is given, else the model's own.

    Raises UserError unless the group that the study perturbs is in it.
    """
    groups = config.partition.groups
    partition = model.partition() if groups is None else Partition.named(model.network, groups)
    for part in parts(config.group):
        partition.names(part)
    return partition

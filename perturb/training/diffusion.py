"""Training of the denoiser: the image model θ_S⁰, from it the twins M_F and M_P, and fine-tuning of either.

What moves is said by `Trained`; that nothing else moved is shown by hashes before and after.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from perturb.errors import UserError
from perturb.loop.loop import Loop
from perturb.loop.task import Outcome, Task, Training
from perturb.models.videocrafter.encoders import fresh_position_ids
from perturb.models.videocrafter.skeleton import skeleton
from perturb.models.videocrafter.system import VideoSystem
from perturb.perturbation.base import parts
from perturb.store.tensors import Hashes, hash_modules, moved
from perturb.structured import check_range
from perturb.training.objective import DenoisingObjective
from perturb.training.recipes import Adapter, Trained, trained_parameters


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The ε-loss. Off by default, as published: ``offset_noise`` (its strength) and ``zero_terminal_snr``."""

    text_dropout: float = 0.1
    offset_noise: float = 0.0
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        check_range("loss.text_dropout", self.text_dropout, low=0, high=1)
        check_range("loss.offset_noise", self.offset_noise, low=0)


@dataclass(frozen=True, kw_only=True)
class Run(Training):
    """One training of a system: what moves, and where low-rank factors are saved."""

    trained: Trained
    adapter: Path


@dataclass(frozen=True)
class Trace:
    """What a finished training can prove: all hashes before it, the tensors it moved, and what it saw."""

    init: Hashes
    moved: list[str]
    outcome: Outcome
    parameters: int


def train_diffusion(system: VideoSystem, run: Run, accelerator: Accelerator) -> Trace:
    """Train ``system`` in place by the ε-loss with latent scale; all processes call this together.

    Afterwards its weights are the averaged ones, with low-rank factors (saved to ``run.adapter``) merged into them; in
    the main process they are whole. Raises RuntimeError if anything outside the recipe moved, by hash.
    """
    lora = run.trained.lora is not None
    if lora and run.loop.sharding != "none":
        raise UserError("loop.sharding=fsdp with trained.lora: the factors are small; use sharding=none")
    init = hash_modules(system.modules())
    # Dropout of the temporal convolutions acts only where θ_T itself is trained.
    system.unet.train("temporal" in parts(run.trained.group) and not lora)
    adapter = Adapter(system, run.trained, run.seed) if lora else None
    names = list(trained_parameters(system, run.trained)) if adapter is None else adapter.names()
    system.unet.gradient_checkpointing = run.loop.gradient_checkpointing
    objective = DenoisingObjective(system, text_encoder=run.trained.text_encoder)
    same = {field.name: getattr(run, field.name) for field in fields(Training)}
    task = Task(objective=objective, trained=names, **same)
    parameters = sum(objective.get_parameter(name).numel() for name in names)
    loop = Loop(task, accelerator)
    outcome = loop.run()
    _gather(system, loop)
    system.unet.gradient_checkpointing = False
    system.unet.eval()
    if adapter is not None:
        names = adapter.merge(run.adapter)
    if accelerator.is_main_process:
        _check_frozen(init, hash_modules(system.modules()), names)
    return Trace(init, names, outcome, parameters)


def _check_frozen(before: Hashes, after: Hashes, trained: Sequence[str]) -> None:
    allowed = set(trained)
    if different := [name for name in moved(before, after) if name not in allowed]:
        raise RuntimeError(f"training changed {len(different)} tensors that were frozen, e.g. {different[:3]}")


def _gather(system: VideoSystem, loop: Loop) -> None:
    """Whole networks in the main process where FSDP2 left shards; nothing to do otherwise."""
    if not any(isinstance(parameter, DTensor) for parameter in system.unet.parameters()):
        return
    state = loop.accelerator.get_state_dict(loop.objective)
    if not loop.accelerator.is_main_process:
        return
    fresh = skeleton(system.spec)
    for name in ("unet", "text_encoder"):
        weights = {key.removeprefix(f"{name}."): x for key, x in state.items() if key.startswith(f"{name}.")}
        if weights:
            module = fresh[name]
            module.load_state_dict(weights, assign=True)
            fresh_position_ids(module)
            setattr(system, name, module.eval())

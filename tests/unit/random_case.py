"""A finished LoRA run of the tiny system, as random controls need one."""

from pathlib import Path

import torch
from torch import nn

from perturb.models.partition import Partition
from perturb.models.videocrafter.system import VideoSystem
from perturb.perturbation import LoraPerturbation
from perturb.perturbation.files import write_magnitude
from perturb.store.rundir import RunDir
from perturb.store.states import step_id, step_state
from perturb.store.tensors import hash_modules, summarise

STEPS = {0: 0.0, 2: 0.05, 5: 0.2}  # step → size of the reference's factors B


def finished(unet: nn.Module, path: Path, group: str = "spatial") -> RunDir:
    """What a fit of a LoRA of rank 2 would leave: adapters that grow and turn, and their magnitudes."""
    run, lora = RunDir(path), LoraPerturbation(rank=2, alpha=3.0)
    lora.attach(unet, Partition.of(unet), group, 0)
    generator = torch.Generator().manual_seed(1)
    for step, size in STEPS.items():
        with torch.no_grad():
            for factor in lora.parameters()[1::2]:
                factor.copy_(size * torch.randn(factor.shape, generator=generator))
        lora.save(run.adapter(step_id(step)))
        write_magnitude(run.adapter(step_id(step)), lora.magnitude())
    run.update_manifest(perturbation={"group": group, "seed": 4, **lora.describe()})
    run.write_states([step_state(step) for step in STEPS])
    run.mark_done("fit", "all")
    lora.detach()
    return run


def fitted_on(system: VideoSystem, run: RunDir) -> RunDir:
    """Let ``run`` say that it was a fit of this model."""
    run.update_manifest(
        system={"spec": "tiny", "checkpoint": "here"}, frozen={"before": summarise(hash_modules(system.modules()))}
    )
    return run

"""The one place that makes an Accelerator: device, number of processes, precision, sharding, trackers."""

import os
from logging import WARNING, getLogger
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import GeneralTracker
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.fsdp import MixedPrecisionPolicy

from perturb.device import pick_device
from perturb.errors import UserError
from perturb.loop.config import LoopConfig, Precision

MIXED = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def make_accelerator(
    loop: LoopConfig, *, device: str, folder: Path, tracker: GeneralTracker | None = None
) -> Accelerator:
    """An Accelerator for this process, one of as many as torchrun started (one without it).

    UserError for a precision or sharding that the device cannot do, and where fewer processes take part than were
    started.
    """
    device = pick_device(device)
    if loop.precision == "float16" and device == "cpu":
        raise UserError("loop.precision is float16, which needs a GPU; allowed on the CPU: float32, bfloat16")
    if loop.sharding == "fsdp" and device == "cpu":
        raise UserError("loop.sharding is fsdp, which needs GPUs; allowed on the CPU: none")
    getLogger("accelerate").setLevel(WARNING)  # under --multirun hydra would show every file it writes
    # accelerate keeps its state for the process: a second training (--multirun) may ask for another precision
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=MIXED[loop.precision],
        gradient_accumulation_steps=loop.accumulation,
        step_scheduler_with_optimizer=False,  # else the schedule runs as many times faster as there are processes
        fsdp_plugin=sharding_plugin(loop.precision) if loop.sharding == "fsdp" else None,
        log_with=tracker,
        project_dir=folder,
    )
    check_world(accelerator.num_processes, loop)
    return accelerator


def part() -> None:
    """Leave the other processes, when no more is to be done together; alone, nothing happens."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def check_world(processes: int, loop: LoopConfig) -> None:
    """Every process that was started takes part: `accelerate launch --cpu` is known to start one instead of several."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if processes != started:
        raise UserError(
            f"{started} processes were started but {processes} take part: start them with torchrun --nproc_per_node N"
        )
    if loop.sharding == "fsdp" and processes == 1:
        raise UserError("loop.sharding is fsdp with one process; start several with torchrun, or use sharding=none")


def sharding_plugin(precision: Precision) -> FullyShardedDataParallelPlugin:
    """FSDP2 over all processes. Which blocks are gathered as one is said by the objective, as ``_no_split_modules``.

    Weights are gathered in the precision of the computation, gradients summed in float32. Inputs and losses keep their
    dtype: accelerate's own policy would round both to bfloat16.
    """
    dtype = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        mixed_precision_policy=policy,
        state_dict_type="SHARDED_STATE_DICT",
        cpu_ram_efficient_loading=False,
    )

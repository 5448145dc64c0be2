"""What can be set in a training, apart from what is trained and on what. Ranges are checked here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from perturb.errors import UserError
from perturb.structured import check_range

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """A stretch of training at one size: ``steps`` of a global batch of ``batch_size``, of all processes together.

    None means the model's own height, width and frames, and the learning rate of the loop.
    """

    steps: int
    batch_size: int
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "height", "width", "frames"):
            check_range(f"stages.{name}", getattr(self, name), low=1)
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise UserError(f"stages.learning_rate is {self.learning_rate}; allowed: more than 0, or null")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How to optimise. Weights, optimiser and average stay in float32; ``precision`` is what the network computes in.

    ``accumulation``: micro-batches per optimiser step and process. ``sharding``: "fsdp" spreads weights, gradients and
    optimiser over the GPUs (FSDP2); "none" keeps a copy in each process (DDP). ``ema_decay`` null or 0: no average.
    """

    learning_rate: float
    warmup_steps: int = 100
    schedule: Literal["constant", "cosine"] = "cosine"
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    ema_decay: float | None = 0.999
    precision: Precision = "float32"
    accumulation: int = 1
    gradient_checkpointing: bool = False
    sharding: Literal["none", "fsdp"] = "none"
    log_every: int = 50
    save_every: int = 250
    keep_last: int = 2

    def __post_init__(self) -> None:
        for name in ("accumulation", "log_every", "save_every", "keep_last"):
            check_range(f"loop.{name}", getattr(self, name), low=1)
        for name in ("warmup_steps", "weight_decay"):
            check_range(f"loop.{name}", getattr(self, name), low=0)
        check_range("loop.ema_decay", self.ema_decay, low=0, high=1)
        for name in ("learning_rate", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"loop.{name} is {getattr(self, name)!r}; allowed: more than 0")


def check_division(stages: Sequence[StageConfig], processes: int, accumulation: int) -> None:
    """Raise UserError unless every global batch divides evenly over processes and micro-batches."""
    parts = processes * accumulation
    for number, stage in enumerate(stages):
        if stage.batch_size % parts:
            raise UserError(
                f"stages[{number}].batch_size is {stage.batch_size}, which {processes} processes with "
                f"loop.accumulation={accumulation} cannot share evenly; allowed: multiples of {parts}"
            )

"""An objective as the schedule of a model. Axes: b batch, c channels, t frames, h w latents."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from perturb.diffusion import NoiseSchedule
from perturb.errors import UserError
from perturb.models.pipelines.objective import Objective


class PipelineSchedule(NoiseSchedule):
    """How training noises; ``sample`` is the model's: a sampler that asks for tables instead is a UserError."""

    def __init__(self, objective: Objective, sample: Callable[..., Tensor]) -> None:
        self.objective, self.sample, self.timesteps = objective, sample, len(objective.signal)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise UserError(
            f"this sampler needs {name}, and a pipeline samples with its own scheduler: use sampler=pipeline"
        )

    def to(self, device: torch.device | str) -> "PipelineSchedule":
        """Moves the tables."""
        tables = {name: value.to(device) for name, value in vars(self.objective).items() if isinstance(value, Tensor)}
        self.objective = dataclasses.replace(self.objective, **tables)
        return self

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the network sees, b c t h w like x0 and noise, at the levels t (b int64)."""
        return _column(self.objective.signal, t) * x0 + _column(self.objective.noise, t) * noise

    def target(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the network is to say of it."""
        return _column(self.objective.say_noise, t) * noise - _column(self.objective.say_clean, t) * x0


def _column(table: Tensor, t: Tensor) -> Tensor:
    return rearrange(table[t], "b -> b 1 1 1 1")

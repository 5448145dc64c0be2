"""Stages and the learning rate as functions of the step: nothing here has a state."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from perturb.diffusion import sample_generator
from perturb.loop.config import LoopConfig, StageConfig


@dataclass(frozen=True)
class Place:
    """Where a step is: the number of its stage, the stage, and the step counted from the stage's own beginning."""

    number: int
    stage: StageConfig
    step: int


def total_steps(stages: Sequence[StageConfig]) -> int:
    """Steps of all stages."""
    return sum(stage.steps for stage in stages)


def locate(stages: Sequence[StageConfig], step: int) -> Place:
    """The place of global ``step`` (from 0).

    >>> locate([StageConfig(steps=3, batch_size=1), StageConfig(steps=2, batch_size=1)], 4).step
    1
    """
    for number, stage in enumerate(stages):
        if step < stage.steps:
            return Place(number, stage, step)
        step -= stage.steps
    raise IndexError("the step lies behind the last stage")


def stage_seed(seed: int, number: int) -> int:
    """The seed of the data of a stage: each has its own, or a later one would begin the same epochs again."""
    return seed if number == 0 else sample_generator("stage", seed, number).initial_seed()


def learning_rate_factor(step: int, config: LoopConfig, stages: Sequence[StageConfig]) -> float:
    """Factor on the learning rate at ``step`` (from 0) of T: linear warm-up, then 1 or ½(1 + cos(π step/T)).

    A stage with a learning rate of its own is scaled to it.
    """
    total = total_steps(stages)
    factor = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "cosine":
        factor = factor * 0.5 * (1 + math.cos(math.pi * step / total))
    own = locate(stages, min(step, total - 1)).stage.learning_rate
    return factor if own is None else factor * own / config.learning_rate


def shares(batch_size: int, *, rank: int, processes: int, accumulation: int) -> list[range]:
    """Places in the global batch of each micro-batch of process ``rank``: consecutive, in order, of one length.

    >>> shares(8, rank=1, processes=2, accumulation=2)
    [range(4, 6), range(6, 8)]
    """
    size = batch_size // (processes * accumulation)
    begin = rank * size * accumulation
    return [range(begin + i * size, begin + (i + 1) * size) for i in range(accumulation)]

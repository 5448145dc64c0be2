"""Frames between the frames of a clip: by optical flow, learned from nothing, or by a model of two images.

Axes: b gaps, k the two frames of one, t frames, h w pixels, c channels; last axis 2 = (x, y).
"""

import dataclasses
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from einops import rearrange

from perturb.data.prompts import Prompt
from perturb.diffusion import Sampler
from perturb.errors import UserError
from perturb.metrics.embedded.flow import length, optical_flow, warp
from perturb.metrics.embedded.frames import luma
from perturb.models.base import VideoModel
from perturb.study.sample import Generator, SampleConfig

CONSISTENT = (0.01, 0.5)  # Sundaram et al. 2010 (ECCV), eq. 5: of the flows' squares, and px²
OCCLUDED = 1e-3  # weight of a pixel without a partner: it counts where nothing else does
NEARER = 2.0  # px of motion that make a pixel e times as likely to be in front


def filled(frames: np.ndarray, factor: int, *, loop: bool = False) -> np.ndarray:
    """The clip with ``factor`` − 1 new frames after each, uint8 t h w c; the given frames stay as they are.

    After the last one there are none, or with ``loop`` those that lead back to the first: t · factor frames that can be
    repeated. Raises UserError for fewer than two frames and a factor below 2.
    """
    circle = _checked(frames, factor, loop=loop)
    light = luma(circle)
    forward, backward = optical_flow(light), optical_flow(light[::-1])[::-1]
    made = []
    for before, after, there, back in zip(circle[:-1], circle[1:], forward, backward, strict=True):
        moments = np.arange(1, factor) / factor
        made += [before, *(between(before, after, there, back, moment) for moment in moments)]
    return np.stack(made if loop else [*made, frames[-1]])


def generated(  # noqa: PLR0917 - a model and how it is sampled, as `Generator`
    model: VideoModel,
    sampler: Sampler,
    text: str,
    config: SampleConfig,
    frames: np.ndarray,
    factor: int,
    advance: Callable[[float], None],
    *,
    loop: bool = False,
) -> np.ndarray:
    """As `filled`, each gap by a model that takes two images: of its T frames every (T − 1)/factor-th, ends left out.

    Raises UserError for a factor that does not divide T − 1, and for a clip that is not of a size of the model's.
    """
    circle = _checked(frames, factor, loop=loop)
    _, height, width, _ = frames.shape
    pixels = rearrange(torch.from_numpy(np.stack([circle[:-1], circle[1:]])), "k b h w c -> b c k h w").float()
    prompts = [Prompt(f"gap{index:04d}", text) for index in range(len(circle) - 1)]
    config = dataclasses.replace(config, height=height, width=width, seeds=config.seeds[:1])
    make = Generator(model, sampler, prompts, config, image=pixels / 127.5 - 1)
    stride, rest = divmod(make.format.frames - 1, factor)
    if rest:
        allowed = [n for n in range(2, make.format.frames) if (make.format.frames - 1) % n == 0]
        raise UserError(f"factor is {factor}; allowed for {make.format.frames} frames of {model.name}: {allowed}")
    made = [frames[:0]]
    for batch in make.batches:
        for (index, _), clip in zip(batch, make(batch, advance), strict=True):
            made += [circle[index][None], clip[stride:-1:stride]]
    return np.concatenate(made if loop else [*made, frames[-1:]])


def between(
    before: np.ndarray, after: np.ndarray, forward: np.ndarray, backward: np.ndarray, moment: float
) -> np.ndarray:
    """The frame at ``moment`` τ in (0, 1) between two, uint8 h w c, from the flows F and B between them, h w 2.

        y = Σ w p/Σ w   over the pixels p of the first frame thrown to x + τ F, and of the second to x + (1 − τ) B
        w = (1 − τ or τ) · e^(|F|/2) · (1 where F(x) + B(x + F(x)) is near 0, else .001)

    A pixel whose way there and back does not meet is occluded in the other frame; of two at one place the faster one
    is taken to be in front. Where nothing lands, the frames are blended. Source: splatting with weights, Niklaus & Liu
    2020 (arXiv 2003.05534); occlusion, Sundaram et al. 2010.
    """
    total, mass = np.zeros(before.shape), np.zeros((*before.shape[:2], 1))
    for image, there, back, share in ((before, forward, backward, moment), (after, backward, forward, 1 - moment)):
        weight = (1 - share) * np.exp(length(there) / NEARER) * np.where(_meets(there, back), 1, OCCLUDED)
        _throw(image, share * there, weight, total, mass)
    blend = (1 - moment) * before + moment * after
    return np.where(mass > 0, total / np.maximum(mass, 1e-12), blend).round().clip(0, 255).astype(np.uint8)


def _checked(frames: np.ndarray, factor: int, *, loop: bool) -> np.ndarray:
    """The frames between which there are gaps: with ``loop`` the first one comes last again."""
    if len(frames) < 2:
        raise UserError(f"the clip has {len(frames)} frames; there is nothing between fewer than 2")
    if factor < 2:
        raise UserError(f"factor is {factor}; allowed: a whole number from 2")
    return np.concatenate([frames, frames[:1]]) if loop else frames


def _meets(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Whether the flow back from where a pixel went leads to it: h w."""
    returned, inside = warp(back, there)
    relative, absolute = CONSISTENT
    allowed = relative * (length(there) ** 2 + length(returned) ** 2) + absolute
    return inside & (length(there + returned) ** 2 <= allowed)


def _throw(image: np.ndarray, field: np.ndarray, weight: np.ndarray, total: np.ndarray, mass: np.ndarray) -> None:
    """Add every pixel times its weight at x + field, shared bilinearly among four; what leaves the frame is lost."""
    height, width = weight.shape
    y, x = np.mgrid[:height, :width]
    to_x, to_y = x + field[..., 0], y + field[..., 1]
    for dx, dy in product((0, 1), repeat=2):
        column, row = np.floor(to_x).astype(int) + dx, np.floor(to_y).astype(int) + dy
        shared = weight * (1 - np.abs(to_x - column)) * (1 - np.abs(to_y - row))
        lands = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (shared > 0)
        place = row[lands], column[lands]
        np.add.at(mass, place, shared[lands][:, None])
        np.add.at(total, place, shared[lands][:, None] * image[lands])

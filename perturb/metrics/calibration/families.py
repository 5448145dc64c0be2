"""Families of clips: what people call motion, and what they do not.

Each family has several members at 64×64×8 and at 256×320×16. The constants of the measures of `objects.py` and
`tracks.py` were chosen on the backgrounds `GROUNDS["chosen"]`; those of "held out" are for the test alone, on other
pictures, with other sizes of the disc, and paired with other paths and speeds. Axes: t frames, h w pixels, c channels;
frames are float `t h w c` in [0, 1], lengths in u, a 64th of the shorter side.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from perturb.metrics.calibration.distortions import noisy, shuffled, static
from perturb.metrics.calibration.stage import (
    Colour,
    Path,
    Size,
    Stage,
    along,
    bar,
    bouncing,
    disc,
    falling,
    line,
    paint,
    shaking,
    teleporting,
)

SIZES: Sequence[Size] = ((8, 64, 64), (16, 256, 320))
RED, BLUE, YELLOW = (0.85, 0.3, 0.2), (0.2, 0.4, 0.85), (0.9, 0.8, 0.2)
COLOURS: Sequence[Colour] = (RED, BLUE, YELLOW)
GROUNDS: Mapping[str, tuple[str, ...]] = {
    "chosen": ("grey", "texture 31", "astronaut", "chelsea", "coffee", "rocket"),
    "held out": ("texture 91", "coins", "gravel", "camera", "hubble_deep_field", "page"),
}
CUT_TO = ("coffee", "rocket", "texture 44", "astronaut", "chelsea")
T = TypeVar("T")
Maker = Callable[[Stage, int], np.ndarray]
"""A stage and the number of the member → frames."""


@dataclass(frozen=True)
class Member:
    """One clip of a family. ``use``: a key of `GROUNDS`."""

    use: str
    family: str
    name: str
    frames: np.ndarray


def pick(options: Sequence[T], member: int) -> T:
    """Every member another one, round and round."""
    return options[member % len(options)]


def disc_on(
    stage: Stage, path: Path, colour: Colour, camera: Path | None = None, *, boiling: bool = False
) -> np.ndarray:
    """A textured disc that follows a path in the frame; boiling: its texture is another one in every frame."""
    skins = [disc(stage.radius, stage.unit, 5 + k * boiling, colour) for k in stage.times]
    return along(stage, stage.behind(camera), path, skins)


def frozen_object(stage: Stage, member: int) -> np.ndarray:
    """All that moves is the camera, by about 1 u per frame."""
    drift = line(*pick(((1, 0), (0, 1), (0.7, 0.7), (-0.5, 0.2), (1.5, 0)), member))
    return disc_on(stage, lambda times: -drift(times), pick(COLOURS, member), drift)


def drifting_still(stage: Stage, member: int) -> np.ndarray:
    """A picture under a camera that pans, zooms, or both."""
    x, y, zoom = pick(((0.5, 0, 0), (1, 1, 0), (0, 0, 0.02), (0.5, 0, 0.01), (2, 0, 0)), member)
    return stage.behind(line(x, y), zoom)


def moving_object(stage: Stage, member: int, *, boiling: bool = False) -> np.ndarray:
    """A disc in uniform motion before a camera at rest."""
    velocity = _slowed(stage, pick(((2, 0), (0, -3), (2, 1), (-1, 1), (3, 0)), member))
    return disc_on(stage, line(*velocity), pick(COLOURS, member), boiling=boiling)


def moving_both(stage: Stage, member: int) -> np.ndarray:
    """A disc in uniform motion before a camera that drifts."""
    drift = line(*pick(((0.5, 0), (0, 1), (0.7, 0.7), (-1, 0), (0, -0.5)), member))
    velocity = _slowed(stage, pick(((2, 0), (2, -1), (2, 1), (3, 0), (3, 0)), member))
    return disc_on(stage, line(*velocity), pick(COLOURS, member), drift)


def _slowed(stage: Stage, velocity: tuple[float, float]) -> tuple[float, float]:
    """Within the frame for the length of the clip."""
    share = min(1.0, 8 / stage.size[0] * 1.2)
    return velocity[0] * share, velocity[1] * share


def swinging_limbs(stage: Stage, member: int) -> np.ndarray:
    """Four limbs of a figure, each about its joint, to and fro within 8 to 16 frames."""
    period, swing = pick((8, 10, 12, 16, 8), member), pick((35, 30, 40, 45, 20), member)
    limb, body = bar(18, 5, stage.unit, RED), bar(16, 8, stage.unit, BLUE)
    middle = (np.array(stage.size[:0:-1]) - 1) / 2
    frames = []
    for k, ground in enumerate(stage.behind()):
        angle = swing * np.sin(2 * np.pi * k / period)
        frame = paint(ground, body, middle + np.array([0, -10]) * stage.unit)
        for (x, y), sign in zip(((-6, -10), (6, -10), (-4, 6), (4, 6)), (1, -1, -1, 1), strict=True):
            frame = paint(frame, limb, middle + np.array([x, y]) * stage.unit, sign * angle)
        frames.append(frame)
    return np.stack(frames)


def rain(stage: Stage, member: int) -> np.ndarray:
    """Drops that fall at one speed and come in again at the top."""
    speed, count, length = (
        pick((3, 4, 2, 3, 5), member),
        pick((25, 40, 60, 15, 30), member),
        pick((4, 5, 3, 6, 5), member),
    )
    drop = bar(length, 1.4, stage.unit, (0.75, 0.8, 0.9))
    rng = np.random.default_rng(member)
    _, height, width = stage.size
    start = rng.uniform(0, (width, height + 12 * stage.unit), (count, 2))
    frames = []
    for k, ground in enumerate(0.6 * stage.behind()):
        frame = ground
        for place in start:
            down = (place[1] + k * speed * stage.unit) % (height + 12 * stage.unit) - 6 * stage.unit
            frame = paint(frame, drop, np.array([place[0], down]))
        frames.append(frame)
    return np.stack(frames)


def bouncing_disc(stage: Stage, member: int) -> np.ndarray:
    """To and fro between two walls, or down and up again off the ground."""
    paths = (bouncing(4, 12), bouncing(3, 9), falling(1.0, 12, 1), falling(0.6, 20, -1), bouncing(5, 14))
    return disc_on(stage, pick(paths, member), pick(COLOURS, member))


def scene_cut(stage: Stage, member: int) -> np.ndarray:
    """Two clips of other families, one after the other."""
    other = Stage(stage.size, pick(CUT_TO, member))
    first, second = moving_object(stage, member), moving_object(other, member + 1)
    cut = stage.size[0] // 2 + member % 2
    return np.concatenate([first[:cut], second[cut:]])


def boiling_texture(stage: Stage, member: int) -> np.ndarray:
    """The right path, but a texture that is another one in every frame."""
    return moving_object(stage, member, boiling=True)


def teleporting_object(stage: Stage, member: int) -> np.ndarray:
    """The right texture, but somewhere else in every frame."""
    return disc_on(stage, teleporting(member), pick(COLOURS, member))


def shaking_object(stage: Stage, member: int) -> np.ndarray:
    """A disc that shakes about its place."""
    return disc_on(stage, shaking(pick((1, 1.5, 2, 3, 4), member), member), pick(COLOURS, member))


def out_of_order(stage: Stage, member: int) -> np.ndarray:
    """The frames of a moving object, shuffled."""
    return shuffled(moving_object(stage, member), stage.size[0], member)


def still(stage: Stage, member: int) -> np.ndarray:
    """A clip at rest; some members under noise."""
    return noisy(static(moving_object(stage, member), 1), pick((0, 0.01, 0.02, 0.04, 0), member), member)


FAMILIES: Mapping[str, Maker] = {
    "still": still,
    "drifting still": drifting_still,
    "frozen object, drifting camera": frozen_object,
    "moving object": moving_object,
    "moving object, drifting camera": moving_both,
    "swinging limbs": swinging_limbs,
    "rain": rain,
    "bouncing disc": bouncing_disc,
    "scene cut": scene_cut,
    "boiling texture, right path": boiling_texture,
    "teleporting": teleporting_object,
    "shaking object": shaking_object,
    "shuffled frames": out_of_order,
}


def members(family: str, use: str, size: Size) -> Iterator[Member]:
    """One on each background; on grey there is no camera motion to see."""
    for number, ground in enumerate(GROUNDS[use], start=0 if use == "chosen" else 8):
        if ground != "grey" or "drifting" not in family:
            radius = 10.0 if use == "chosen" else pick((7.0, 13.0), number)
            yield Member(use, family, ground, FAMILIES[family](Stage(size, ground, radius), number))

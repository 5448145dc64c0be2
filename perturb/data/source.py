"""What a training reads: captioned clips or stills, each by its number. Axes: c channels, t frames, h w pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, get_args

from perturb.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Decoding clips to score imports this module in every worker process: torch, which takes seconds, is not for them.

Crop = Literal["centre", "random"]
T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """One training sample.

    ``key`` names it in logs; ``frames``: c t h w float32 in [−1, 1]; ``fps``: frames per second after the stride.
    """

    key: str
    frames: Tensor
    caption: str
    fps: float


class BrokenSample(UserError):
    """A file that cannot become a sample: ``path`` and ``reason``. Feeds count it, log it and go on without it.

    Where there is nothing to go on with (an image of D_I, the image of ``image=``), it ends the command as what it is.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both, so that it can be pickled
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Source(Protocol):
    """Random access to captioned clips or stills."""

    def __len__(self) -> int: ...

    def load(self, index: int, *, frames: int, height: int, width: int, generator: torch.Generator) -> Sample:
        """Sample ``index`` at the given size; whatever is random comes from ``generator``. Raises BrokenSample."""
        ...

    def describe(self) -> dict[str, Any]:
        """For the manifest: what is read and how, and a digest by which two runs can be compared."""
        ...


def check_choice(name: str, value: T, kind: Any) -> T:
    """``value`` when it is one of the Literal ``kind``, else a UserError that lists what is allowed."""
    if value not in get_args(kind):
        raise UserError(f"{name} is {value!r}; allowed: {', '.join(get_args(kind))}")
    return value


def crop_offset(margins: tuple[int, int], crop: Crop, generator: torch.Generator) -> tuple[int, int]:
    """Top and left of a cut-out that leaves ``margins`` (rows, columns) over: the middle, or drawn uniformly."""
    if crop == "centre":
        return margins[0] // 2, margins[1] // 2
    import torch

    top, left = (int(torch.randint(margin + 1, (), generator=generator)) for margin in margins)
    return top, left

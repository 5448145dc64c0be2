"""The embedded world as an image set D_I. Axis letters: c channels, h w pixels."""

from typing import TYPE_CHECKING, Any, Literal

from perturb.errors import UserError
from perturb.world.render import render_still
from perturb.world.scenes import SIZE, scene, still_moment

if TYPE_CHECKING:
    from torch import Tensor

STREAM = 7  # the scenes of D_I are no scenes that a model was trained on


class HighGradeStills:
    """``count`` captioned high-grade stills of the embedded world: crisp, saturated, textured, lit, no watermark.

    ``as_video``: how a still stands in for a video, see ``perturb.data.images``.
    """

    def __init__(self, count: int = 512, as_video: Literal["single_frame", "repeat"] = "single_frame") -> None:
        if count < 1:
            raise UserError(f"images.count={count}; allowed: 1 or more")
        if as_video not in ("single_frame", "repeat"):
            raise UserError(f"images.as_video={as_video!r}; allowed: single_frame, repeat")
        self.count = count
        self.as_video: Literal["single_frame", "repeat"] = as_video

    def __len__(self) -> int:
        return self.count

    def load(self, index: int, height: int, width: int) -> "Tensor":
        """Still ``index`` as ``c h w`` in [−1, 1]; the world is 64×64 and is not resized."""
        if (height, width) != (SIZE, SIZE):
            raise UserError(
                f"the embedded world is {SIZE}×{SIZE} pixels, the model wants {height}×{width}; "
                "give your own images: images=folder images.folder=/path/with/images"
            )
        import torch  # here, so that whoever only reads clips of the world does without

        still = render_still(scene(STREAM, index), "high", moment=still_moment(index))
        return torch.from_numpy(still).permute(2, 0, 1).float().div(127.5).sub(1)

    def caption(self, index: int) -> str:
        return scene(STREAM, index).caption

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        return {"source": "perturb.world, high grade", "count": self.count, "stream": STREAM, "skipped": []}

"""The embedded world as an image set D_I. Axis letters: c channels, h w pixels."""

from typing import TYPE_CHECKING, Any, Literal, get_args

from perturb.errors import UserError
from perturb.world.render import Grade, render_still
from perturb.world.scenes import SIZE, scene, still_moment

if TYPE_CHECKING:
    from torch import Tensor

STREAM = 7  # the scenes of D_I are no scenes that a model was trained on


class GradeStills:
    """``count`` captioned stills of the embedded world in one ``grade``, of scenes that no model was trained on.

    high: crisp, saturated, textured, lit, no watermark · web: clean and plain, what the image model saw · low: blurred,
    noisy, watermarked, as in the clips of the twins. So D_I lies near the training data or far from it.
    ``as_video``: how a still stands in for a video, see ``perturb.data.images``.
    """

    def __init__(
        self, count: int = 512, as_video: Literal["single_frame", "repeat"] = "single_frame", grade: Grade = "high"
    ) -> None:
        if count < 1:
            raise UserError(f"images.count={count}; allowed: 1 or more")
        if as_video not in ("single_frame", "repeat"):
            raise UserError(f"images.as_video={as_video!r}; allowed: single_frame, repeat")
        if grade not in get_args(Grade):
            raise UserError(f"images.grade={grade!r}; allowed: {', '.join(get_args(Grade))}")
        self.count = count
        self.grade: Grade = grade
        self.as_video: Literal["single_frame", "repeat"] = as_video

    def __len__(self) -> int:
        return self.count

    def load(self, index: int, height: int, width: int) -> "Tensor":
        """Still ``index`` as ``c h w`` in [−1, 1]; the world is 64×64 and is not resized."""
        if (height, width) != (SIZE, SIZE):
            raise UserError(
                f"the embedded world is {SIZE}×{SIZE} pixels, the model wants {height}×{width}; "
                "give your own images: images=folder images.folder=/path/with/images own_images=null"
            )
        import torch  # here, so that whoever only reads clips of the world does without

        still = render_still(scene(STREAM, index), self.grade, moment=still_moment(index), noise_seed=index)
        return torch.from_numpy(still).permute(2, 0, 1).float().div(127.5).sub(1)

    def caption(self, index: int) -> str:
        return scene(STREAM, index).caption

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        return {"source": f"perturb.world, {self.grade} grade", "count": self.count, "stream": STREAM, "skipped": []}

"""The ε-loss of a video diffusion model as one module, which holds what is trained and what the loss passes through.

Axes: b batch, c channels, t frames, h w latents, l text tokens, m image tokens, d features.
"""

from torch import Tensor, nn

from perturb.diffusion import Conditioning
from perturb.models.base import Batch
from perturb.models.videocrafter.system import VideoSystem

BLOCKS = (
    "VideoUNet",
    "TextEncoder",
    "ResBlock",
    "SpatialTransformer",
    "TemporalTransformer",
    "InitialTemporalTransformer",
)
"""Classes whose weights FSDP2 gathers and frees as one; whole networks among them, so that each can be called alone."""


class DenoisingObjective(nn.Module):
    """mean (ε − ε̂(x_t, t, conditioning))², one value per sample, to be averaged over the batch.

    With ``text_encoder`` the text comes as ids (b l) and is encoded here, so that the encoder gets its gradient; else
    it comes as tokens (b l d).
    """

    def __init__(self, system: VideoSystem, *, text_encoder: bool) -> None:
        super().__init__()
        self.unet = system.unet
        self.text_encoder = system.text_encoder if text_encoder else None
        self.system = system  # no module: registers nothing, shares the networks above
        present = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = [name for name in BLOCKS if name in present]  # read by accelerate

    def forward(  # noqa: PLR0917 - the order of the formula
        self, x0: Tensor, t: Tensor, noise: Tensor, text: Tensor, fps: Tensor, image: Tensor | None = None
    ) -> Tensor:
        """x0 and noise b c t h w (scaled latents), t b int64, fps b int64, image b m d or none → b."""
        tokens = text if self.text_encoder is None else self.text_encoder(text)
        return self.system.loss(Batch(x0, t, noise, Conditioning(tokens, fps, image)))

"""The denoising network of VideoCrafter: an image UNet with temporal layers between its spatial ones.

Axes: b batch, c channels, t frames, h w latent positions, l text tokens, m image tokens, d features.
Between blocks, feature maps are frame-flattened: (b t) c h w.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import ClassVar

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from perturb.errors import UserError
from perturb.nn.blocks import Builder, Level, MiddleStage, Signals
from perturb.nn.dilation import dilated
from perturb.nn.embeddings import GuidanceEmbedding, ScalarEmbedding
from perturb.nn.resblock import ResBlock, normalise
from perturb.nn.spec import UNetSpec
from perturb.nn.transformer import InitialTemporalTransformer, zero
from perturb.nn.windows import Windows

# The published network adds an adapter feature after every third block of its way down (the first convolution counts).
BLOCKS_PER_FEATURE = 3


class VideoUNet(nn.Module):
    """ε̂(x_t, t, conditioning): predicts the noise in a noisy latent video.

        e = time_embedding(t) + fps_embedding(fps)
        x → conv_in → init_attention → down → middle → up (with the skips) → conv_out(SiLU(norm_out(·)))

    Parameters without a
    nearer group belong to "spatial". Temporal transformers, temporal convolutions and the last layer of every other
    residual branch start at zero, as published.
    Source: VideoCrafter1 (arXiv 2310.19512) §3 and VideoCrafter2 (arXiv 2401.09047).
    """

    group: ClassVar[str] = "spatial"

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__()
        self.image_attention = spec.image_attention
        self.text_tokens = spec.text_tokens
        self.motion_length = spec.motion_length
        self.clip_norm = spec.clip_norm
        self.gradient_checkpointing = False
        build, width = Builder(spec), spec.model_channels
        self.time_embedding = ScalarEmbedding(width=width, out_width=spec.embedding_dim)
        self.fps_embedding = ScalarEmbedding(width=width, out_width=spec.embedding_dim) if spec.fps_cond else None
        self.guidance_embedding = None
        if spec.guidance_dim is not None:
            self.guidance_embedding = GuidanceEmbedding(
                width=spec.guidance_dim, out_width=width, motion=spec.motion_cond
            )
        self.conv_in = nn.Conv2d(spec.in_channels, width, 3, padding=1)
        self.init_attention = InitialTemporalTransformer(spec, width) if spec.init_attention else None
        self.down, skips = build.down()
        deepest, finest = build.widths[-1], build.widths[0]
        middle = build.stage(deepest, deepest, attends=True, moves=spec.motion_middle)
        self.middle = MiddleStage(middle, ResBlock(spec, deepest, deepest))
        self.up = build.up(skips)
        self.norm_out = nn.GroupNorm(spec.norm_groups, finest)
        self.conv_out = zero(nn.Conv2d(finest, spec.out_channels, 3, padding=1))

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        fps: Tensor | int,
        *,
        image_context: Tensor | None = None,
        features: Sequence[Tensor] | None = None,
        guidance: Tensor | None = None,
        motion: Tensor | None = None,
        injected_context: Tensor | None = None,
        windows: Windows | None = None,
        dilation: Mapping[str, float] | None = None,
    ) -> Tensor:
        """Predicted noise, b c t h w.

        x: b c t h w. timesteps: b, or b t for a timestep per frame (equal values give the identical output).
        context: b l d text tokens. fps: b or one number (ignored by models without fps conditioning).
        image_context: b m d image tokens, for image models only. Both may be b t · d: tokens for each frame.
        features: adapter features b c t h w, one per level on the way down, added before the skip is taken.
        guidance, motion: scales b, for networks that were distilled from them. injected_context: what the way down and
        the middle read in the place of ``context``. windows: those of all temporal attention. dilation: factors of
        convolutions, by pattern (``perturb.nn.dilation.dilated``). What does not fit raises UserError.
        """
        self._check(x, context, image_context)
        signals = Signals(self._embed(timesteps, fps, x, guidance, motion), x.shape[2], context, image_context, windows)
        injected = signals if injected_context is None else replace(signals, context=injected_context)
        with dilated(self, dilation) if dilation else nullcontext():
            hidden = self.conv_in(rearrange(x, "b c t h w -> (b t) c h w"))
            if self.init_attention is not None:
                hidden = self._run(self.init_attention, hidden, signals.frames, windows)
            skips = self._descend(hidden, injected, features)
            hidden = self._run(self.middle, skips[-1], injected)
            hidden = self._ascend(hidden, skips, signals)
            hidden = self.conv_out(nn.functional.silu(normalise(self.norm_out, hidden, signals.frames, self.clip_norm)))
        return rearrange(hidden, "(b t) c h w -> b c t h w", t=signals.frames)

    def _ascend(self, hidden: Tensor, skips: list[Tensor], signals: Signals) -> Tensor:
        for level in Level.each(self.up):
            for stage in level.stages:
                hidden = self._run(stage, torch.cat([hidden, skips.pop()], dim=1), signals)
            if level.resample is not None:
                hidden = self._run(level.resample, hidden, signals.embedding, signals.frames)
        return hidden

    def _descend(self, hidden: Tensor, signals: Signals, features: Sequence[Tensor] | None) -> list[Tensor]:
        """The outputs of the first convolution and of every block on the way down."""
        waiting = None if features is None else list(features)
        skips = [hidden]
        for module, arguments in self._blocks_down(signals):
            hidden = self._run(module, hidden, *arguments)
            if waiting is not None and (len(skips) + 1) % BLOCKS_PER_FEATURE == 0:
                if not waiting:
                    raise UserError(f"features: {len(features or ())} given, the network takes more")
                hidden = hidden + rearrange(waiting.pop(0), "b c t h w -> (b t) c h w")
            skips.append(hidden)
        if waiting:
            raise UserError(f"features: {len(features or ())} given, {len(waiting)} more than the network takes")
        return skips

    def _blocks_down(self, signals: Signals) -> Iterator[tuple[nn.Module, tuple[Signals | Tensor | int, ...]]]:
        for level in Level.each(self.down):
            for stage in level.stages:
                yield stage, (signals,)
            if level.resample is not None:
                yield level.resample, (signals.embedding, signals.frames)

    def blocks(self) -> Iterator[nn.Module]:
        """The modules of which gradient checkpointing keeps the input only, and computes the rest again."""
        if self.init_attention is not None:
            yield self.init_attention
        yield self.middle
        for level in (*Level.each(self.down), *Level.each(self.up)):
            yield from level.stages
            if level.resample is not None:
                yield level.resample

    def _run(self, module: nn.Module, *arguments: Signals | Tensor | Windows | int | None) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            # Not re-entrant: with a frozen base no input requires a gradient, and adapters would get none.
            return checkpoint(module, *arguments, use_reentrant=False)
        return module(*arguments)

    def _embed(
        self, timesteps: Tensor, fps: Tensor | int, x: Tensor, guidance: Tensor | None, motion: Tensor | None
    ) -> Tensor:
        """SiLU(e) for every frame, (b t) d. Always per frame, so that both forms of timesteps take the same path."""
        batch, frames = x.shape[0], x.shape[2]
        if timesteps.ndim == 1:
            timesteps = repeat(timesteps, "b -> b t", t=frames)
        shift = self._shift(guidance, motion)
        shift = None if shift is None else repeat(shift, "b d -> (b t) d", t=frames)
        embedding = self.time_embedding(rearrange(timesteps, "b t -> (b t)"), shift)
        if self.fps_embedding is not None:
            rates = torch.as_tensor(fps, device=x.device).expand(batch)
            embedding = embedding + repeat(self.fps_embedding(rates), "b d -> (b t) d", t=frames)
        return nn.functional.silu(embedding)

    def _shift(self, guidance: Tensor | None, motion: Tensor | None) -> Tensor | None:
        """What guidance adds to the timestep's sinusoid, b d."""
        if guidance is None and motion is None:
            return None
        embedding = self.guidance_embedding
        if embedding is None or guidance is None or (motion is not None and embedding.motion is None):
            raise UserError(
                "a guidance scale is for networks distilled from guidance (guidance_dim), a motion scale for those "
                "that also have motion_cond, and never without the guidance scale"
            )
        return embedding(guidance, motion)

    def _check(self, x: Tensor, context: Tensor, image_context: Tensor | None) -> None:
        factor = 2 ** (len(self.down) - 1)
        if x.shape[-2] % factor or x.shape[-1] % factor:
            raise UserError(
                f"latents of {x.shape[-2]}×{x.shape[-1]} (height×width) do not fit: both must be multiples of {factor}"
            )
        if self.motion_length is not None and x.shape[2] > self.motion_length:
            raise UserError(
                f"{x.shape[2]} frames given; the motion modules of this model count at most {self.motion_length}"
            )
        if image_context is not None and not self.image_attention:
            raise UserError("image tokens given, but this model has no image attention: leave image_context out")
        if self.image_attention and image_context is None:
            raise UserError("this model attends to an image: pass its tokens as image_context")
        if image_context is not None and image_context.ndim == 4 and image_context.shape[1] != x.shape[2]:
            raise UserError(
                f"image tokens for {image_context.shape[1]} frames, but x has {x.shape[2]}: each frame reads its own"
            )
        if self.image_attention and context.shape[-2] > self.text_tokens:
            raise UserError(
                f"context has {context.shape[-2]} tokens, the text at most {self.text_tokens}: pass the image tokens "
                "apart, as image_context"
            )

"""Transformers over the positions of a frame (space) and over the frames at a position (time).

Axes: b batch, t frames, c channels, h w latent positions, l text tokens, m image tokens, d features.
Feature maps are frame-flattened: (b t) c h w.
"""

from typing import ClassVar, TypeVar

from einops import rearrange, repeat
from torch import Tensor, nn

from perturb.nn.attention import Attention
from perturb.nn.embeddings import frame_sinusoid
from perturb.nn.spec import UNetSpec
from perturb.nn.windows import Windows

M = TypeVar("M", bound=nn.Module)


class FeedForward(nn.Module):
    """Gated perceptron: ``W₂ (a · GELU(g))`` with ``[a, g] = W₁ x``; hidden width 4·d. Source: Shazeer 2020 (GEGLU)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, 8 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.expand(x).chunk(2, dim=-1)
        return self.contract(value * nn.functional.gelu(gate))


class SpatialBlock(nn.Module):
    """Self-attention over a frame, cross-attention to the text (and image) tokens, feed-forward; all residual."""

    def __init__(self, spec: UNetSpec, heads: int, head_dim: int) -> None:
        super().__init__()
        width = heads * head_dim
        self.norm_self = nn.LayerNorm(width)
        self.self_attention = Attention(width=width, heads=heads, head_dim=head_dim)
        self.norm_cross = nn.LayerNorm(width)
        self.cross_attention = Attention(
            width=width,
            heads=heads,
            head_dim=head_dim,
            context_dim=spec.context_dim,
            image_attention=spec.image_attention,
            learned_image_scale=spec.learned_image_scale,
        )
        self.norm_feed_forward = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)

    def forward(self, x: Tensor, context: Tensor, image_context: Tensor | None) -> Tensor:
        x = x + self.self_attention(self.norm_self(x))
        query = self.norm_cross(x)
        if context.ndim == 3 and (image_context is None or image_context.ndim == 3):
            # All frames of a clip share one context: queries of every frame meet it at once, and it is never repeated.
            query = rearrange(query, "(b t) i d -> b (t i) d", b=context.shape[0])
        else:
            frames = len(x) // len(context)
            context = per_frame(context, frames)
            image_context = None if image_context is None else per_frame(image_context, frames)
        x = x + self.cross_attention(query, context, image_context).reshape(x.shape)
        return x + self.feed_forward(self.norm_feed_forward(x))


def per_frame(tokens: Tensor, frames: int) -> Tensor:
    """Tokens for each frame, (b t) l d, of tokens for the whole clip (b l d) or for each frame (b t l d)."""
    if tokens.ndim == 3:
        return repeat(tokens, "b l d -> (b t) l d", t=frames)
    return rearrange(tokens, "b t l d -> (b t) l d")


class TemporalBlock(nn.Module):
    """Two self-attentions over time and a feed-forward, all residual; x: n t d.

    ``positions`` (t d) are added to what either attention reads.
    """

    def __init__(self, spec: UNetSpec, heads: int, head_dim: int) -> None:
        super().__init__()
        width, told = heads * head_dim, {"relative_length": spec.relative_length, "causal": spec.causal}
        self.norm_1 = nn.LayerNorm(width)
        self.attention_1 = Attention(width=width, heads=heads, head_dim=head_dim, **told)
        self.norm_2 = nn.LayerNorm(width)
        self.attention_2 = Attention(width=width, heads=heads, head_dim=head_dim, **told)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)

    def forward(self, x: Tensor, windows: Windows | None = None, positions: Tensor | None = None) -> Tensor:
        for norm, attention in ((self.norm_1, self.attention_1), (self.norm_2, self.attention_2)):
            y = norm(x)
            x = x + attention(y if positions is None else y + positions, windows=windows)
        return x + self.feed_forward(self.norm_feed_forward(x))


class SpatialTransformer(nn.Module):
    """``x + project_out(blocks(project_in(norm(x))))`` within each frame; (b t) c h w → the same.

    GroupNorm sees one frame at a time; context is b l d, image_context b m d, or each b t · d for one per frame.
    """

    group: ClassVar[str] = "spatial"

    def __init__(self, spec: UNetSpec, channels: int) -> None:
        super().__init__()
        heads = spec.heads_of(channels)
        head_dim = channels // heads
        self.norm = nn.GroupNorm(spec.norm_groups, channels, eps=1e-6)
        self.project_in = nn.Linear(channels, heads * head_dim)
        self.blocks = nn.ModuleList(SpatialBlock(spec, heads, head_dim) for _ in range(spec.transformer_depth))
        self.project_out = zero(nn.Linear(heads * head_dim, channels))

    def forward(self, x: Tensor, context: Tensor, image_context: Tensor | None) -> Tensor:
        tokens = self.project_in(rearrange(self.norm(x), "n c h w -> n (h w) c"))
        for block in self.blocks:
            tokens = block(tokens, context, image_context)
        return x + rearrange(self.project_out(tokens), "n (h w) c -> n c h w", h=x.shape[-2])


class TemporalTransformer(nn.Module):
    """``x + project_out(blocks(project_in(norm(x))))`` along time at each position; (b t) c h w → the same.

    GroupNorm sees all frames of a clip together (with ``windows`` too: they divide the attention alone), so even causal
    attention looks ahead through its statistics, as in the published code. The zero-initialised last layer makes a
    fresh one the identity.

    AnimateDiff's motion module (arXiv 2307.04725) is one with ``positions``: frames are told their number by
    ``frame_sinusoid``. As published its GroupNorm sees one frame at a time (``frame_norm``); in diffusers it does not.
    Published: the ``transformer_depth`` of a spec deepens the spatial and the initial transformers only.
    """

    group: ClassVar[str] = "temporal"

    def __init__(self, spec: UNetSpec, channels: int, *, heads: int | None = None, depth: int = 1) -> None:
        super().__init__()
        usual = spec.heads_of(channels)
        heads, head_dim = heads or usual, channels // usual
        self.positions = spec.motion_length is not None
        self.frame_norm = self.positions and spec.motion_norm == "frame"
        self.norm = nn.GroupNorm(spec.norm_groups, channels, eps=1e-6)
        self.project_in: nn.Module = nn.Linear(channels, heads * head_dim)
        self.blocks = nn.ModuleList(TemporalBlock(spec, heads, head_dim) for _ in range(depth))
        self.project_out: nn.Module = zero(nn.Linear(heads * head_dim, channels))

    def forward(self, x: Tensor, frames: int, windows: Windows | None = None) -> Tensor:
        y = rearrange(self.norm(x) if self.frame_norm else x, "(b t) c h w -> b c t h w", t=frames)
        tokens = self._enter(y if self.frame_norm else self.norm(y))
        positions = (
            frame_sinusoid(tokens.shape[1], tokens.shape[2], tokens.device).to(tokens.dtype) if self.positions else None
        )
        for block in self.blocks:
            tokens = block(tokens, windows, positions)
        return x + self._leave(tokens, x.shape[-2], x.shape[-1])

    def _enter(self, x: Tensor) -> Tensor:
        return self.project_in(rearrange(x, "b c t h w -> (b h w) t c"))

    def _leave(self, tokens: Tensor, h: int, w: int) -> Tensor:
        return rearrange(self.project_out(tokens), "(b h w) t c -> (b t) c h w", h=h, w=w)


class InitialTemporalTransformer(TemporalTransformer):
    """The temporal transformer behind the first convolution, whose projections are 1-wide convolutions.

    It has 8 heads as published, so that its inner width is 8 · head_dim whatever the channels are.
    """

    def __init__(self, spec: UNetSpec, channels: int) -> None:
        super().__init__(spec, channels, heads=8, depth=spec.transformer_depth)
        self.positions = self.frame_norm = False
        inner = 8 * (channels // spec.heads_of(channels))
        self.project_in = nn.Conv1d(channels, inner, 1)
        self.project_out = zero(nn.Conv1d(inner, channels, 1))

    def _enter(self, x: Tensor) -> Tensor:
        # A 1-wide convolution does not mind which axis it runs along: this one needs no copy of x.
        t, h, w = x.shape[-3:]
        return rearrange(self.project_in(x.flatten(2)), "b d (t h w) -> (b h w) t d", t=t, h=h, w=w)

    def _leave(self, tokens: Tensor, h: int, w: int) -> Tensor:
        t = tokens.shape[1]
        x = self.project_out(rearrange(tokens, "(b h w) t d -> b d (t h w)", h=h, w=w))
        return rearrange(x, "b c (t h w) -> (b t) c h w", t=t, h=h, w=w)


def zero(module: M) -> M:
    """The module with every parameter set to zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module

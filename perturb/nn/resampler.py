"""From image-encoder features to the image tokens of the cross-attention.

Axes: b batch, i encoder tokens, m image tokens, k heads, d features.
"""

from typing import ClassVar

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from perturb.nn.spec import ResamplerSpec


class PerceiverAttention(nn.Module):
    """The latent tokens attend to the encoder tokens and to themselves; b i d, b m d → b m d."""

    def __init__(self, *, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_tokens = nn.LayerNorm(dim)
        self.norm_latents = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, heads * head_dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, tokens: Tensor, latents: Tensor) -> Tensor:
        latents = self.norm_latents(latents)
        both = torch.cat([self.norm_tokens(tokens), latents], dim=1)
        query = rearrange(self.query(latents), "b m (k d) -> b k m d", k=self.heads)
        key, value = rearrange(self.key_value(both), "b i (s k d) -> s b k i d", s=2, k=self.heads)
        return self.out(rearrange(scaled_dot_product_attention(query, key, value), "b k m d -> b m (k d)"))


class LatentFeedForward(nn.Module):
    """``W₂ GELU(W₁ norm(x))``."""

    def __init__(self, *, dim: int, mult: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, mult * dim, bias=False)
        self.contract = nn.Linear(mult * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(nn.functional.gelu(self.expand(self.norm(x))))


class ResamplerLayer(nn.Module):
    """``z ← z + attention(x, z)``, then ``z ← z + feed_forward(z)``."""

    def __init__(self, *, dim: int, heads: int, head_dim: int, ff_mult: int) -> None:
        super().__init__()
        self.attention = PerceiverAttention(dim=dim, heads=heads, head_dim=head_dim)
        self.feed_forward = LatentFeedForward(dim=dim, mult=ff_mult)

    def forward(self, tokens: Tensor, latents: Tensor) -> Tensor:
        latents = latents + self.attention(tokens, latents)
        return latents + self.feed_forward(latents)


class Resampler(nn.Module):
    """A fixed number of learned queries read all tokens of the image encoder; b i d → b m d.

    i may be any number of tokens of width ``embedding_dim``; m = ``num_queries``; the output width is ``output_dim``.
    Source: Perceiver resampler (Alayrac et al. 2022), as used in VideoCrafter1 §3.3.
    """

    group: ClassVar[str] = "image"

    def __init__(self, spec: ResamplerSpec) -> None:
        super().__init__()
        dim = spec.dim
        self.latents = nn.Parameter(torch.randn(1, spec.num_queries, dim) / dim**0.5)
        self.project_in = nn.Linear(spec.embedding_dim, dim)
        self.layers = nn.ModuleList(
            ResamplerLayer(dim=dim, heads=spec.heads, head_dim=spec.head_dim, ff_mult=spec.ff_mult)
            for _ in range(spec.depth)
        )
        self.project_out = nn.Linear(dim, spec.output_dim)
        self.norm_out = nn.LayerNorm(spec.output_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        latents = repeat(self.latents, "1 m d -> b m d", b=tokens.shape[0])
        tokens = self.project_in(tokens)
        for layer in self.layers:
            latents = layer(tokens, latents)
        return self.norm_out(self.project_out(latents))


class ImageProjection(nn.Module):
    """Image tokens from one pooled image embedding: ``norm(reshape(W e))``; b d or b 1 d → b m d."""

    group: ClassVar[str] = "image"

    def __init__(self, *, embedding_dim: int, output_dim: int, num_queries: int = 4) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.project = nn.Linear(embedding_dim, num_queries * output_dim)
        self.norm = nn.LayerNorm(output_dim)

    def forward(self, embedding: Tensor) -> Tensor:
        tokens = self.project(embedding).reshape(embedding.shape[0], self.num_queries, -1)
        return self.norm(tokens)

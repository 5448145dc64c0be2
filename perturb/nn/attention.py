"""Multi-head attention: one module for space, time, text and image tokens.

Axes: n rows that do not see each other (frames, pixels or clips), k heads, i query tokens, j key tokens, d features.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from perturb.nn.windows import Windows

# The fused GPU kernels put the rows on a grid axis that ends at 65,535; b·h·w passes it at high resolution.
MAX_ROWS = 65_535


def in_chunks(attend: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``attend`` applied to at most ``MAX_ROWS`` rows at a time; every tensor is ``n k · d``."""
    if query.shape[0] <= MAX_ROWS:
        return attend(query, key, value)
    pieces = zip(query.split(MAX_ROWS), key.split(MAX_ROWS), value.split(MAX_ROWS), strict=True)
    return torch.cat([attend(*piece) for piece in pieces])


class RelativePosition(nn.Module):
    """A learned vector for each clipped distance j − i between two frames.

    ``R_ij = table[clip(j − i, −L, L) + L]``, shape i j d, with L = ``length``.
    Source: Shaw et al. 2018.
    """

    def __init__(self, *, length: int, width: int) -> None:
        super().__init__()
        self.length = length
        self.table = nn.Parameter(torch.empty(2 * length + 1, width))
        nn.init.xavier_uniform_(self.table)

    def forward(self, tokens: int) -> Tensor:
        index = torch.arange(tokens, device=self.table.device)
        distance = (rearrange(index, "j -> 1 j") - rearrange(index, "i -> i 1")).clamp(-self.length, self.length)
        return self.table[distance + self.length]


class ImageProjections(nn.Module):
    """Keys and values of the image tokens: the image branch of a cross-attention.

    Its share in the sum is 1, or, where it is learned, tanh(α) + 1 with a scalar α that starts at 0.
    """

    group: ClassVar[str] = "image"

    def __init__(self, *, context_dim: int, inner: int, learned_scale: bool = False) -> None:
        super().__init__()
        self.key = nn.Linear(context_dim, inner, bias=False)
        self.value = nn.Linear(context_dim, inner, bias=False)
        self.alpha = nn.Parameter(torch.zeros(())) if learned_scale else None

    def scaled(self, y: Tensor) -> Tensor:
        return y if self.alpha is None else (self.alpha.tanh() + 1) * y


class Attention(nn.Module):
    """``softmax(Q Kᵀ/√d) V``, projected back to the input's width.

    With image tokens: ``softmax(Q Kᵀ/√d) V + softmax(Q K_imgᵀ/√d) V_img``, one query for both.
    x: n i d; context: n j d (None: self-attention); image_context: n m d → n i d. ``windows`` (over frames, for
    self-attention) replaces the first softmax by its fused form. ``relative_length`` adds the two tables of relative
    positions (self-attention only); ``causal`` lets a token see only itself and those before it.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        head_dim: int,
        context_dim: int | None = None,
        image_attention: bool = False,
        learned_image_scale: bool = False,
        relative_length: int | None = None,
        causal: bool = False,
    ) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.causal = causal
        self.query = nn.Linear(width, inner, bias=False)
        self.key = nn.Linear(context_dim or width, inner, bias=False)
        self.value = nn.Linear(context_dim or width, inner, bias=False)
        self.image = None
        if image_attention:
            self.image = ImageProjections(
                context_dim=context_dim or width, inner=inner, learned_scale=learned_image_scale
            )
        self.relative_key = self.relative_value = None
        if relative_length is not None:
            self.relative_key = RelativePosition(length=relative_length, width=head_dim)
            self.relative_value = RelativePosition(length=relative_length, width=head_dim)
        self.out = nn.Linear(inner, width)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        image_context: Tensor | None = None,
        windows: Windows | None = None,
    ) -> Tensor:
        if context is None and windows is None and x.shape[-2] == 1:
            return self.out(self._alone(x))
        context = x if context is None else context
        query, key, value = (self._split(y) for y in (self.query(x), self.key(context), self.value(context)))
        attend = partial(in_chunks, self._fused if self.relative_key is None else self._relative)
        y = attend(query, key, value) if windows is None else windows.attend(attend, query, key, value)
        if self.image is not None:
            assert image_context is not None
            keys, values = self.image.key(image_context), self.image.value(image_context)
            y = y + self.image.scaled(in_chunks(self._fused, query, self._split(keys), self._split(values)))
        return self.out(rearrange(y, "n k i d -> n i (k d)"))

    def _alone(self, x: Tensor) -> Tensor:
        """One token that sees itself: softmax of one logit is 1, so ``V + R^v_00`` whatever query and key are."""
        y = self.value(x)
        if self.relative_value is not None:
            y = y + self.relative_value(1).tile(self.heads)
        read_by_logits = (self.query, self.key, self.relative_key)
        trained = [p for part in read_by_logits if part is not None for p in part.parameters() if p.requires_grad]
        if torch.is_grad_enabled() and trained:
            # Their gradient is zero, and not missing: weight decay and gradients shared among processes need it.
            y = y + 0 * torch.stack([p.sum() for p in trained]).sum()
        return y

    def _split(self, tokens: Tensor) -> Tensor:
        return rearrange(tokens, "n i (k d) -> n k i d", k=self.heads)

    def _fused(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, key, value, is_causal=self.causal)

    def _relative(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """``A = softmax(Q (K + R^k)ᵀ/√d)``, then ``A (V + R^v)``.

        The weights A are needed for the value table, and the fused kernel does not return them: hence explicit.
        """
        assert self.relative_key is not None
        assert self.relative_value is not None
        tokens = query.shape[-2]
        query = query * query.shape[-1] ** -0.5
        logits = query @ key.mT + einsum(query, self.relative_key(tokens), "n k i d, i j d -> n k i j")
        if self.causal:
            future = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).triu(1)
            logits = logits.masked_fill(future, float("-inf"))
        weights = logits.softmax(dim=-1)
        return weights @ value + einsum(weights, self.relative_value(tokens), "n k i j, i j d -> n k i d")

"""Embeddings, attention and blocks: hand-computed values, and relations that hold whatever the weights are."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from perturb.models.videocrafter.nano import NANO
from perturb.nn import (
    Attention,
    InitialTemporalTransformer,
    Resampler,
    ResamplerSpec,
    ScalarEmbedding,
    SpatialTransformer,
    TemporalConvolution,
    TemporalTransformer,
    attention,
    sinusoid,
)
from perturb.nn.resblock import TimeConv3d
from tests.unit.nn_case import TEXT, WIDTH, B, H, T, W, awake

# embeddings -----------------------------------------------------------------------------------------------------------


def test_sinusoid_by_hand() -> None:
    expected = [math.cos(3.0), math.cos(0.03), math.sin(3.0), math.sin(0.03), 0.0]  # f = 1, 10^-2; odd width: a zero
    torch.testing.assert_close(sinusoid(torch.tensor([3]), 5), torch.tensor([expected]))


def test_scalar_embedding_is_two_layers_on_the_sinusoid() -> None:
    embedding, values = ScalarEmbedding(width=6, out_width=8), torch.tensor([7, 900])
    hidden = sinusoid(values, 6) @ embedding.expand.weight.T + embedding.expand.bias
    expected = (hidden * torch.sigmoid(hidden)) @ embedding.mix.weight.T + embedding.mix.bias
    torch.testing.assert_close(embedding(values), expected)


# attention ------------------------------------------------------------------------------------------------------------


def naive_attention(module: Attention, x: Tensor, context: Tensor, keys: nn.Module, values: nn.Module) -> Tensor:
    """Attention before the output projection, one query at a time; with the position tables where there are some."""
    rows = []
    q, k, v = (
        rearrange(y, "n i (k d) -> n k i d", k=module.heads) for y in (module.query(x), keys(context), values(context))
    )
    for i in range(q.shape[2]):
        key, value = k, v
        if module.relative_key is not None and module.relative_value is not None:
            limit = module.relative_key.length
            index = [max(-limit, min(limit, j - i)) + limit for j in range(k.shape[2])]
            key, value = k + module.relative_key.table[index], v + module.relative_value.table[index]
        end = i + 1 if module.causal else k.shape[2]
        logits = (q[:, :, i : i + 1] * key[:, :, :end]).sum(-1) / q.shape[-1] ** 0.5
        rows.append((logits.softmax(-1)[..., None] * value[:, :, :end]).sum(2))
    return rearrange(torch.stack(rows), "i n k d -> n i (k d)")


@pytest.mark.parametrize("relative_length", [None, 2, 9])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_a_softmax_over_keys(relative_length: int | None, causal: bool) -> None:
    module = Attention(width=6, heads=2, head_dim=5, relative_length=relative_length, causal=causal)
    x = torch.randn(3, 4, 6)
    expected = module.out(naive_attention(module, x, x, module.key, module.value))
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("relative_length", [None, 2])
def test_a_token_alone_is_its_value_and_the_gradients_of_its_logit_are_zero(relative_length: int | None) -> None:
    module, x = Attention(width=6, heads=2, head_dim=5, relative_length=relative_length), torch.randn(3, 1, 6)
    expected = module.out(naive_attention(module, x, x, module.key, module.value))
    torch.testing.assert_close(module(x), expected)
    parameters = list(module.parameters())
    ours, theirs = (torch.autograd.grad(y.square().sum(), parameters) for y in (module(x), expected))
    torch.testing.assert_close(ours, theirs)
    module.query.requires_grad_(False)
    module.key.requires_grad_(False)
    torch.testing.assert_close(module(x), expected)


def test_image_tokens_have_a_softmax_of_their_own() -> None:
    module = Attention(width=6, heads=2, head_dim=5, context_dim=7, image_attention=True)
    x, text, image = torch.randn(3, 4, 6), torch.randn(3, 5, 7), torch.randn(3, 2, 7)
    assert module.image is not None
    from_text = naive_attention(module, x, text, module.key, module.value)
    from_image = naive_attention(module, x, image, module.image.key, module.image.value)
    torch.testing.assert_close(module(x, text, image), module.out(from_text + from_image))


@pytest.mark.parametrize("relative_length", [None, 2])
def test_attention_in_chunks_is_the_same(relative_length: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = Attention(width=6, heads=2, head_dim=4, relative_length=relative_length), torch.randn(7, 4, 6)
    whole = module(x)
    monkeypatch.setattr(attention, "MAX_ROWS", 3)
    torch.testing.assert_close(module(x), whole)


# blocks ---------------------------------------------------------------------------------------------------------------


SPEC = replace(NANO.unet, model_channels=8, num_head_channels=4, context_dim=WIDTH, transformer_depth=2, norm_groups=4)


def spatial() -> SpatialTransformer:
    return SpatialTransformer(SPEC, 8)


def temporal(cls: type[TemporalTransformer] = TemporalTransformer) -> TemporalTransformer:
    return cls(SPEC, 8)


def test_fresh_temporal_blocks_are_the_identity() -> None:
    x = torch.randn(B * T, 8, H, W)
    blocks = [temporal(), temporal(InitialTemporalTransformer), TemporalConvolution(channels=8, norm_groups=4)]
    for block in blocks:
        assert block(x, T).equal(x)
        assert not awake(block)(x, T).allclose(x, atol=1e-3)


def test_spatial_transformer_sees_each_frame_alone() -> None:
    block, x, context = awake(spatial()), torch.randn(B * T, 8, H, W), torch.randn(B, TEXT, WIDTH)
    whole = block(x, context, None)
    for index in range(B * T):
        alone = block(x[index : index + 1], context[index // T : index // T + 1], None)
        torch.testing.assert_close(whole[index : index + 1], alone)


@pytest.mark.parametrize("cls", [TemporalTransformer, InitialTemporalTransformer])
def test_temporal_transformer_commutes_with_moving_pixels_and_frames(cls: type[TemporalTransformer]) -> None:
    block, x = awake(temporal(cls)), torch.randn(B, T, 8, H, W)
    run = lambda v: rearrange(block(rearrange(v, "b t c h w -> (b t) c h w"), T), "(b t) c h w -> b t c h w", t=T)  # noqa: E731
    for axis in (1, 3, 4):  # without position tables, frames are a set; pixels never mix
        torch.testing.assert_close(run(x.flip(axis)), run(x).flip(axis))


def test_temporal_convolution_by_hand() -> None:
    """One layer's kernel passes its middle frame only: x + conv(SiLU(norm(…))) reduces to arithmetic per position."""
    block = TemporalConvolution(channels=2, norm_groups=1).eval()
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if name.endswith("conv.weight"):
                parameter.zero_()[:, :, 1, 0, 0] = torch.eye(2)
            elif name.endswith("conv.bias"):
                parameter.zero_()
    x = torch.randn(1, 2, T, H, W)
    y = x
    for _ in range(4):
        mean, std = y.mean(), (y.var(unbiased=False) + 1e-5).sqrt()  # one clip, one group: all frames together
        y = (y - mean) / std
        y = y * y.sigmoid()
    flat = rearrange(x + y, "b c t h w -> (b t) c h w")
    torch.testing.assert_close(block(rearrange(x, "b c t h w -> (b t) c h w"), T), flat)


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_over_time_is_torch_s_own(frames: int, kernel: int) -> None:
    """Values and gradients, also those of the taps that only see padding."""
    conv = TimeConv3d(4, 6, (kernel, 1, 1), padding=(kernel // 2, 0, 0))
    x = torch.randn(B, 4, frames, H, W, requires_grad=True)
    found = []
    for forward in (conv, partial(nn.Conv3d.forward, conv)):
        y = forward(x)
        found.append((y, *torch.autograd.grad(y.square().sum(), [x, *conv.parameters()])))
    torch.testing.assert_close(*found)


def test_temporal_convolution_drops_only_in_training() -> None:
    block, x = awake(TemporalConvolution(channels=8, norm_groups=4)), torch.randn(T, 8, H, W)
    assert block(x, T).equal(block(x, T))
    block.train()
    assert not block(x, T).equal(block(x, T))
    assert [module.p for module in block.modules() if isinstance(module, nn.Dropout)] == [0, 0.1, 0.1, 0.1]


def test_resampler_reads_a_set_of_tokens() -> None:
    resampler = Resampler(
        ResamplerSpec(dim=8, depth=2, head_dim=4, heads=2, num_queries=3, embedding_dim=6, output_dim=5)
    )
    tokens = torch.randn(B, 7, 6)
    y = resampler(tokens)
    torch.testing.assert_close(resampler(tokens.flip(1)), y)
    torch.testing.assert_close(y.mean(-1), torch.zeros(B, 3), atol=1e-6, rtol=0)  # a LayerNorm comes last
    assert not resampler(tokens[:, 1:]).allclose(y)

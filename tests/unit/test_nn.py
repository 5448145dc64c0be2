"""The networks: hand-computed values, and relations that must hold whatever the weights are."""

import math
from typing import Any

import pytest
import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from perturb.errors import UserError
from perturb.nn import (
    Attention,
    InitialTemporalTransformer,
    Resampler,
    ScalarEmbedding,
    SpatialTransformer,
    TemporalConvolution,
    TemporalTransformer,
    VideoUNet,
    attention,
    sinusoid,
)

B, T, H, W, TEXT, WIDTH = 2, 3, 4, 4, 5, 12

SMALL: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 16,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (1,),
    "num_head_channels": 8,
    "context_dim": WIDTH,
    "temporal_length": 2,
    "temporal_conv": True,
    "fps_cond": True,
    "relative_position": False,
    "causal": False,
    "image_attention": False,
    "init_attention": True,
    "norm_groups": 4,
}


def awake(network: nn.Module) -> nn.Module:
    """The network with small random values where it was zero-initialised, in eval mode."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return network.eval()


def small_unet(**changes: Any) -> VideoUNet:
    unet = awake(VideoUNet(**(SMALL | changes)))
    assert isinstance(unet, VideoUNet)
    return unet


def inputs(batch: int = B, frames: int = T) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = torch.randn(batch, 4, frames, H, W)
    return x, torch.randint(0, 1000, (batch,)), torch.randn(batch, TEXT, WIDTH), torch.randint(1, 30, (batch,))


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


def spatial() -> SpatialTransformer:
    return SpatialTransformer(
        channels=8, heads=2, head_dim=4, depth=2, context_dim=WIDTH, image_attention=False, norm_groups=4
    )


def temporal(cls: type[TemporalTransformer] = TemporalTransformer) -> TemporalTransformer:
    heads = {} if cls is InitialTemporalTransformer else {"heads": 2}
    return cls(channels=8, head_dim=4, depth=1, relative_length=None, causal=False, norm_groups=4, **heads)


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


def test_temporal_convolution_drops_only_in_training() -> None:
    block, x = awake(TemporalConvolution(channels=8, norm_groups=4)), torch.randn(T, 8, H, W)
    assert block(x, T).equal(block(x, T))
    block.train()
    assert not block(x, T).equal(block(x, T))
    assert [module.p for module in block.modules() if isinstance(module, nn.Dropout)] == [0, 0.1, 0.1, 0.1]


def test_norm_epsilons_are_the_published_ones() -> None:
    unet = small_unet()
    for name, module in unet.named_modules():
        if isinstance(module, nn.GroupNorm):
            owner = unet.get_submodule(name.rpartition(".")[0])
            assert module.eps == (1e-6 if isinstance(owner, SpatialTransformer | TemporalTransformer) else 1e-5), name


# the whole network ----------------------------------------------------------------------------------------------------


def test_fresh_network_predicts_zero() -> None:
    x, t, context, fps = inputs()
    assert not VideoUNet(**SMALL)(x, t, context, fps).any()


def test_sample_does_not_depend_on_its_batch() -> None:
    unet, (x, t, context, fps) = small_unet(), inputs()
    whole = unet(x, t, context, fps)
    for index in range(B):
        one = slice(index, index + 1)
        torch.testing.assert_close(unet(x[one], t[one], context[one], fps[one]), whole[one], atol=1e-5, rtol=1e-4)


def test_frames_are_independent_while_the_temporal_layers_are_fresh() -> None:
    unet = VideoUNet(**SMALL).eval()
    for name, parameter in unet.named_parameters():
        if "conv_out" in name or ".spatial.project_out" in name:
            nn.init.normal_(parameter, std=0.1)
    x, t, context, fps = inputs()
    before, changed = unet(x, t, context, fps), x.clone()
    changed[:, :, 1] += 1
    difference = (unet(changed, t, context, fps) - before).abs().amax(dim=(0, 1, 3, 4))
    assert difference[1] > 1e-3
    assert difference[0] == difference[2] == 0


def test_per_frame_timesteps() -> None:
    unet, (x, t, context, fps) = small_unet(), inputs()
    per_frame = repeat(t, "b -> b t", t=T).clone()
    same = unet(x, t, context, fps)
    assert unet(x, per_frame, context, fps).equal(same)
    per_frame[0, 1] = (per_frame[0, 1] + 400) % 1000
    other = unet(x, per_frame, context, fps)
    assert not other[0].allclose(same[0], atol=1e-4)
    torch.testing.assert_close(other[1], same[1])


def test_fps_conditioning() -> None:
    x, t, context, _ = inputs()
    unet, deaf = small_unet(), small_unet(fps_cond=False)
    assert unet(x, t, context, 8).equal(unet(x, t, context, torch.tensor([8, 8])))
    assert not unet(x, t, context, 8).allclose(unet(x, t, context, 24), atol=1e-5)
    assert deaf.fps_embedding is None
    assert deaf(x, t, context, 8).equal(deaf(x, t, context, 24))


def test_image_tokens_are_used_and_required() -> None:
    unet, (x, t, context, fps) = small_unet(image_attention=True, text_tokens=TEXT), inputs()
    one, two = torch.randn(2, B, 3, WIDTH)
    assert not unet(x, t, context, fps, image_context=one).allclose(unet(x, t, context, fps, image_context=two))
    with pytest.raises(UserError, match="image_context"):
        unet(x, t, context, fps)
    with pytest.raises(UserError, match="8 tokens, the text at most 5"):
        unet(x, t, torch.cat([context, one], dim=1), fps, image_context=one)
    with pytest.raises(UserError, match="no image attention"):
        small_unet()(x, t, context, fps, image_context=one)


def test_features_are_added_before_the_third_skip() -> None:
    unet, (x, t, context, fps) = small_unet(), inputs()
    feature = torch.zeros(B, 16, T, H // 2, W // 2)  # blocks on the way down: conv_in, stage, downsampling, stage
    plain = unet(x, t, context, fps)
    assert unet(x, t, context, fps, features=[feature]).equal(plain)
    assert not unet(x, t, context, fps, features=[feature + 1]).allclose(plain, atol=1e-4)
    for wrong in ([], [feature, feature]):
        with pytest.raises(UserError, match="features"):
            unet(x, t, context, fps, features=wrong)


def test_sizes_that_do_not_fit_are_named() -> None:
    x, t, context, fps = inputs()
    with pytest.raises(UserError, match=r"3×4.*multiples of 2"):
        small_unet()(x[..., 1:, :], t, context, fps)


def gradients(unet: VideoUNet, arguments: tuple[Tensor, ...]) -> dict[str, Tensor]:
    unet.zero_grad()
    torch.manual_seed(1)  # dropout of the temporal convolutions
    unet(*arguments).square().mean().backward()
    return {name: p.grad.clone() for name, p in unet.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("frozen", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(frozen: bool) -> None:
    unet, arguments = small_unet().train(), inputs()
    if frozen:  # as with adapters: the only trainable weights lie inside a stage whose inputs need no gradient
        unet.requires_grad_(False)
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(".query.weight" in name)
    plain = gradients(unet, arguments)
    unet.enable_gradient_checkpointing()
    checkpointed = gradients(unet, arguments)
    assert plain.keys() == checkpointed.keys() == {n for n, p in unet.named_parameters() if p.requires_grad}
    for name, gradient in plain.items():
        assert gradient.any(), name
        torch.testing.assert_close(checkpointed[name], gradient)


def test_every_parameter_gets_a_gradient() -> None:
    unet = small_unet(relative_position=True, causal=True, scale_shift_norm=True, resblock_updown=True)
    found = gradients(unet, inputs())
    assert all(found[name].any() for name, _ in unet.named_parameters())


def test_half_precision_and_meta_device() -> None:
    x, t, context, fps = inputs()
    full = small_unet()
    expected = full(x, t, context, fps)
    half = full.bfloat16()(x.bfloat16(), t, context.bfloat16(), fps)
    assert half.dtype == torch.bfloat16
    assert (half.float() - expected).norm() < 0.1 * expected.norm()
    with torch.device("meta"):
        assert VideoUNet(**SMALL)(*(value.to("meta") for value in (x, t, context, fps))).shape == x.shape


def test_resampler_reads_a_set_of_tokens() -> None:
    resampler = Resampler(dim=8, depth=2, head_dim=4, heads=2, num_queries=3, embedding_dim=6, output_dim=5)
    tokens = torch.randn(B, 7, 6)
    y = resampler(tokens)
    torch.testing.assert_close(resampler(tokens.flip(1)), y)
    torch.testing.assert_close(y.mean(-1), torch.zeros(B, 3), atol=1e-6, rtol=0)  # a LayerNorm comes last
    assert not resampler(tokens[:, 1:]).allclose(y)

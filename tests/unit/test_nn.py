"""The whole video network: relations that must hold whatever the weights are."""

from typing import Any

import pytest
import torch
from einops import repeat
from torch import Tensor, nn

from perturb.errors import UserError
from perturb.nn import (
    SpatialTransformer,
    TemporalTransformer,
    UNetSpec,
    VideoUNet,
)
from tests.unit.nn_case import TEXT, WIDTH, B, H, T, W, awake

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


def small_unet(**changes: Any) -> VideoUNet:
    unet = awake(VideoUNet(UNetSpec(**(SMALL | changes))))
    assert isinstance(unet, VideoUNet)
    return unet


def inputs(batch: int = B, frames: int = T) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = torch.randn(batch, 4, frames, H, W)
    return x, torch.randint(0, 1000, (batch,)), torch.randn(batch, TEXT, WIDTH), torch.randint(1, 30, (batch,))


def test_norm_epsilons_are_the_published_ones() -> None:
    unet = small_unet()
    for name, module in unet.named_modules():
        if isinstance(module, nn.GroupNorm):
            owner = unet.get_submodule(name.rpartition(".")[0])
            assert module.eps == (1e-6 if isinstance(owner, SpatialTransformer | TemporalTransformer) else 1e-5), name


def test_fresh_network_predicts_zero() -> None:
    x, t, context, fps = inputs()
    assert not VideoUNet(UNetSpec(**SMALL))(x, t, context, fps).any()


def test_sample_does_not_depend_on_its_batch() -> None:
    unet, (x, t, context, fps) = small_unet(), inputs()
    whole = unet(x, t, context, fps)
    for index in range(B):
        one = slice(index, index + 1)
        torch.testing.assert_close(unet(x[one], t[one], context[one], fps[one]), whole[one], atol=1e-5, rtol=1e-4)


def test_frames_are_independent_while_the_temporal_layers_are_fresh() -> None:
    unet = VideoUNet(UNetSpec(**SMALL)).eval()
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
    unet.gradient_checkpointing = True
    checkpointed = gradients(unet, arguments)
    assert plain.keys() == checkpointed.keys() == {n for n, p in unet.named_parameters() if p.requires_grad}
    for name, gradient in plain.items():
        assert gradient.any(), name
        torch.testing.assert_close(checkpointed[name], gradient)


def test_blocks_are_what_checkpointing_computes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    unet, seen = small_unet(resblock_updown=True), []

    def checkpoint(module: nn.Module, *arguments: Any, use_reentrant: bool) -> Tensor:
        seen.append(module)
        return module(*arguments)

    monkeypatch.setattr("perturb.nn.unet.checkpoint", checkpoint)
    unet.gradient_checkpointing = True
    unet(*inputs())
    blocks = list(unet.blocks())
    assert len(seen) == len(blocks) == len(set(blocks))
    assert set(seen) == set(blocks)


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
        assert VideoUNet(UNetSpec(**SMALL))(*(value.to("meta") for value in (x, t, context, fps))).shape == x.shape

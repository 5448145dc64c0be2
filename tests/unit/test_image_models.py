"""Models that are told of images: tokens for each frame, latents joined to x, two key frames; and what they refuse."""

import pytest
import torch
from image_models import built, dynamicrafter_spec, image_spec

from perturb.diffusion import DDIMSampler, draw, sample_generator
from perturb.diffusion.guidance import guided
from perturb.errors import UserError
from perturb.models.videocrafter.image import at_frames
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.system import VideoSystem

PROMPTS = ["a red circle moving left slowly on a gray background", "a blue star moving up fast on a black background"]
IMAGE = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)


@pytest.fixture
def first(tiny_spec: ModelSpec) -> VideoSystem:
    return built(dynamicrafter_spec(tiny_spec))


@pytest.fixture
def ends(tiny_spec: ModelSpec) -> VideoSystem:
    return built(dynamicrafter_spec(tiny_spec, "ends"))


def test_latents_are_placed_by_their_number():
    one, two = torch.ones(1, 1, 1, 1, 1), torch.tensor([2.0, 3.0]).reshape(1, 1, 2, 1, 1)
    assert at_frames(one, 3).flatten().tolist() == [1, 1, 1]
    assert at_frames(two, 5).flatten().tolist() == [2, 0, 0, 0, 3]
    assert at_frames(two, 2) is two
    with pytest.raises(UserError, match="latents of 3 images are joined to 5 frames"):
        at_frames(torch.ones(1, 1, 3, 1, 1), 5)


def test_the_first_frame_is_joined_to_all_of_them(first: VideoSystem):
    cond = first.conditioning(PROMPTS, 8, IMAGE)
    assert cond.image is not None
    assert cond.image_latents is not None
    assert first.image_encoder is not None
    assert first.image_projector is not None
    # query 2t + m of the projector is token m of frame t
    flat = first.image_projector(first.image_encoder(IMAGE))
    torch.testing.assert_close(cond.image[1, 3, 1], flat[1, 7])
    mean, std = first.posterior(IMAGE[:, :, None])
    noise = draw((4, 1, 4, 4), [sample_generator("image latents")])
    torch.testing.assert_close(cond.image_latents, 0.18215 * (mean + std * noise))
    alone = first.conditioning(PROMPTS[1:], 8, IMAGE[1:])
    torch.testing.assert_close(cond.index([1]).image_latents, alone.image_latents, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_both_ends_are_joined_and_one_image_makes_a_loop(ends: VideoSystem):
    x, t = torch.randn(1, 4, 4, 4, 4), torch.tensor([500])
    both = torch.stack([IMAGE[:1], IMAGE[1:]], dim=2)
    cond = ends.conditioning(PROMPTS[:1], 8, both)
    assert cond.image_latents is not None
    assert cond.image_latents.shape == (1, 4, 2, 4, 4)
    # the tokens are those of the first image alone
    single = ends.conditioning(PROMPTS[:1], 8, IMAGE[:1])
    torch.testing.assert_close(cond.image, single.image)
    loop = ends.conditioning(PROMPTS[:1], 8, torch.stack([IMAGE[:1], IMAGE[:1]], dim=2))
    torch.testing.assert_close(single.image_latents, loop.image_latents)
    assert (ends.denoise(x, t, cond) - ends.denoise(x, t, single)).abs().max() > 1e-5
    seen = []
    ends.unet.conv_in.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    ends.denoise(x, t, cond)
    joined = seen[0][:, 4:]  # (b t) c h w
    torch.testing.assert_close(joined[[0, 3]], cond.image_latents[0].transpose(0, 1))
    assert not joined[1:3].any()


def test_guidance_joins_the_image_on_both_sides(first: VideoSystem):
    x, t = torch.randn(1, 4, 4, 4, 4), torch.tensor([999])
    cond, uncond = first.conditioning(PROMPTS[:1], 8, IMAGE[:1]), first.unconditional(1, 8)
    assert uncond.image_latents is None
    with torch.no_grad():
        outputs = guided(first.denoise, x, t, cond, uncond, 3.0)
        told = [first.denoise(x, t, side) for side in (cond, first.conditioning([""], 8, IMAGE[:1]))]
    assert outputs.isfinite().all()
    assert (outputs - told[1]).abs().max() > 1e-5
    sampler = DDIMSampler(steps=2, guidance=3.0, eta=1.0, guidance_rescale=0.7, spacing="trailing", keep_scale=True)
    final = sampler(first.denoise, x, cond, uncond, [sample_generator("z")], first.schedule)
    assert final.isfinite().all()


def test_what_does_not_fit_is_refused(first: VideoSystem, tiny_spec: ModelSpec):
    x, t = torch.randn(1, 4, 3, 4, 4), torch.tensor([500])
    cond = first.conditioning(PROMPTS[:1], 8, IMAGE[:1])
    with pytest.raises(UserError, match="image tokens for 4 frames, but x has 3"):
        first.denoise(x, t, cond)
    with pytest.raises(UserError, match=r"exactly 4 frames.*given 16.*as_video=repeat"):
        first.latent_shape(16, 32, 32)
    with pytest.raises(UserError, match="joins the latents of an image"):
        first.denoise(torch.randn(1, 4, 4, 4, 4), t, first.unconditional(1, 8))
    with pytest.raises(UserError, match="takes one image, and two are given"):
        first.conditioning(PROMPTS[:1], 8, torch.stack([IMAGE[:1], IMAGE[1:]], dim=2))
    plain = built(image_spec(tiny_spec))
    assert plain.conditioning(PROMPTS, 8, IMAGE).image_latents is None
    with pytest.raises(UserError, match="joins no latents"):
        plain.denoise(torch.randn(1, 4, 4, 4, 4), t, cond)


def test_the_learned_scale_belongs_to_the_image_group(first: VideoSystem):
    names = first.partition().names("image")
    assert {name.rpartition(".")[2] for name in names} == {"weight", "alpha"}
    assert all(".cross_attention.image." in name for name in names)

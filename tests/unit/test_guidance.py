"""Guidance by hand: two and three sides, rescaling, the interval; and what a conditioning is."""

import dataclasses

import pytest
import torch
from torch import Tensor

from perturb.diffusion import Conditioning, DDIMSampler, Guidance, NoiseSchedule, guided
from perturb.diffusion.guidance import rescaled
from perturb.errors import UserError
from perturb.nn import Windows
from tests.unit.sampler_case import SHAPE, conditioning, toy_denoise


def told() -> tuple[Tensor, Tensor, Conditioning, Conditioning]:
    return torch.randn(2, *SHAPE), torch.tensor([400, 400]), conditioning(2), conditioning(2, seed=1)


def test_rescaling_moves_the_spread_towards_that_of_the_conditional_side():
    o, o_cond = torch.tensor([[0.0, 2, 4]]), torch.tensor([[0.0, 1, 2]])  # std 2 and 1
    torch.testing.assert_close(rescaled(o, o_cond, 1.0), o / 2)
    torch.testing.assert_close(rescaled(o, o_cond, 0.5), 0.75 * o)
    x, t, cond, uncond = told()
    plain, full = (guided(toy_denoise, x, t, cond, uncond, Guidance(9.0, rescale=phi)) for phi in (0.0, 1.0))
    o_c = toy_denoise(x, t, cond)
    torch.testing.assert_close(full.std((1, 2, 3, 4)), o_c.std((1, 2, 3, 4)))
    assert (plain.std((1, 2, 3, 4)) - o_c.std((1, 2, 3, 4))).abs().max() > 0.1


def test_two_conditions_are_three_sides_in_one_forward():
    x, t, cond, uncond = told()
    image, grey = torch.randn(2, 2, 4), torch.zeros(2, 2, 4)
    cond, uncond = dataclasses.replace(cond, image=image), dataclasses.replace(uncond, image=grey)
    calls: list[int] = []

    def seeing(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        calls.append(len(x))
        assert cond.image is not None
        return toy_denoise(x, t, cond) + cond.image.mean((1, 2)).reshape(-1, 1, 1, 1, 1)

    o_c, o_u = seeing(x, t, cond), seeing(x, t, uncond)
    o_i = seeing(x, t, dataclasses.replace(uncond, image=image))
    calls.clear()
    found = guided(seeing, x, t, cond, uncond, Guidance(7.5, image_scale=2.5))
    torch.testing.assert_close(found, o_u + 2.5 * (o_i - o_u) + 7.5 * (o_c - o_i))
    assert calls == [6]
    sampler = DDIMSampler(steps=20, guidance=7.5, eta=0.0, image_guidance=2.5)
    assert (sampler.work(3).forwards, sampler.work(3).at_once) == (60, 3)
    # Published code crashes at an image scale of 1.
    torch.testing.assert_close(
        guided(seeing, x, t, cond, uncond, Guidance(7.5, image_scale=1)), o_i + 7.5 * (o_c - o_i)
    )
    with pytest.raises(UserError, match="image_guidance is for models that take an image"):
        guided(toy_denoise, *told(), Guidance(7.5, image_scale=2.0))


def test_outside_the_interval_the_conditional_side_is_all():
    x, _, cond, uncond = told()
    limited, calls = Guidance(7.5, interval=(300, 500)), list[int]()

    def counted(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        calls.append(len(x))
        return toy_denoise(x, t, cond)

    inside, outside = torch.tensor([500, 300]), torch.tensor([501, 299])
    assert torch.equal(
        guided(counted, x, inside, cond, uncond, limited), guided(toy_denoise, x, inside, cond, uncond, 7.5)
    )
    assert torch.equal(guided(counted, x, outside, cond, uncond, limited), toy_denoise(x, outside, cond))
    assert calls == [4, 2]  # and half of the work is saved
    mixed = torch.tensor([[400, 501, 400], [299, 400, 501]])  # a timestep per frame
    found = guided(toy_denoise, x, mixed, cond, uncond, limited)
    everywhere, nowhere = guided(toy_denoise, x, mixed, cond, uncond, 7.5), toy_denoise(x, mixed, cond)
    for sample in range(2):
        for frame in range(3):
            expected = everywhere if 300 <= int(mixed[sample, frame]) <= 500 else nowhere
            torch.testing.assert_close(found[sample, :, frame], expected[sample, :, frame])


def test_a_sampler_takes_the_settings_of_guidance():
    cond, uncond, x_T = conditioning(2), conditioning(2, seed=1), torch.randn(2, *SHAPE)
    schedule = NoiseSchedule(latent_scale=0.7)

    def sample(**settings: object) -> Tensor:
        sampler = DDIMSampler(steps=5, guidance=9.0, eta=0.0, **settings)  # type: ignore[arg-type]
        sampler.check(schedule)
        return sampler(toy_denoise, x_T, cond, uncond, [torch.Generator() for _ in x_T], schedule)

    plain = sample()
    assert torch.equal(sample(guidance_interval=[0, 999]), plain)
    unguided = DDIMSampler(steps=5, guidance=1.0, eta=0.0)
    none = unguided(toy_denoise, x_T, cond, None, [torch.Generator() for _ in x_T], schedule)
    assert torch.equal(sample(guidance_interval=[1000, 1000]), none)
    assert not torch.allclose(sample(guidance_rescale=0.7), plain, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_rescale": 1.5}, r"guidance_rescale is 1\.5; allowed: from 0"),
        ({"guidance_interval": [500, 300]}, r"guidance_interval is \[500, 300\]"),
        ({"guidance_interval": [500]}, r"guidance_interval is \[500\]"),
        ({"spacing": "karras"}, "spacing is 'karras'; allowed: uniform, trailing, linspace, log_snr"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str):
    with pytest.raises(UserError, match=message):
        DDIMSampler(steps=5, guidance=9.0, eta=0.0, **settings).check(NoiseSchedule(latent_scale=None))  # type: ignore[arg-type]


def test_a_text_per_frame_joins_one_for_the_clip():
    clip = conditioning(1)
    script = Conditioning(torch.randn(1, 3, 5, 4), clip.fps, windows=Windows(2, 1))
    both = Conditioning.concat([script, dataclasses.replace(clip, windows=Windows(2, 1))])
    assert both.text.shape == (2, 3, 5, 4)
    assert all(torch.equal(both.text[1, frame], clip.text[0]) for frame in range(3))
    assert torch.equal(script.at_frame(1).text, script.text[:, 1])
    assert torch.equal(script.at_frame(7).text, script.text[:, 2])
    assert torch.equal(clip.at_frame(1).text, clip.text)
    told = dataclasses.replace(clip, injected=torch.ones(1, 5, 4))
    injected = Conditioning.concat([told, clip]).injected
    assert injected is not None
    assert torch.equal(injected, torch.cat([torch.ones(1, 5, 4), clip.text]))
    with pytest.raises(AssertionError):
        Conditioning.concat([clip, script])


def test_scales_keep_their_precision():
    cond = dataclasses.replace(conditioning(1), guidance=torch.tensor([7.1]), image_latents=torch.zeros(1, *SHAPE))
    half = cond.to("cpu", torch.bfloat16)
    assert half.guidance is not None
    assert half.image_latents is not None
    assert (half.guidance.dtype, half.text.dtype) == (torch.float32, torch.bfloat16)
    assert half.image_latents.dtype == torch.bfloat16

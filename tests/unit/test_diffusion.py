"""The diffusion floor against hand-computed values, relations, and an independent DDIM."""

import math

import pytest
import torch
from torch import Tensor

from perturb.diffusion import (
    Conditioning,
    DDIMSampler,
    NoiseSchedule,
    SamplerStep,
    draw,
    epsilon_loss,
    guided,
    sample_generator,
)
from perturb.errors import UserError
from perturb.models.videocrafter.published import get_spec
from tests.unit.sampler_case import replayed

SHAPE = (4, 3, 2, 2)
# Numbers of steps for which the published sampler crashes.
FORBIDDEN = {3, 9, 27, 36, 37, *range(101, 112), *range(251, 334), *range(501, 1001)}


def conditioning(count: int, seed: int = 0) -> Conditioning:
    text = draw((5, 4), [sample_generator("text", seed, i) for i in range(count)])
    return Conditioning(text, torch.arange(count) + 8)


def toy_denoise(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
    """A smooth stand-in for a network that depends on every input, sample by sample."""
    shift = cond.text.mean((1, 2)) + cond.fps / 10 + t / 1000
    return torch.tanh(0.7 * x + shift[:, None, None, None, None])


def test_schedule_by_hand():
    schedule = NoiseSchedule(latent_scale=0.7)
    assert float(schedule.betas[0]) == pytest.approx(0.00085, rel=1e-6)
    assert float(schedule.betas[-1]) == pytest.approx(0.012, rel=1e-6)
    root = math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) / 999
    assert float(schedule.alphas_cumprod[1]) == pytest.approx((1 - 0.00085) * (1 - root**2), rel=1e-6)
    scale = schedule.latent_scale_table
    assert scale[[0, 399, 400, 999]].tolist() == pytest.approx([1, 0.7, 0.7, 0.7])
    assert float(scale[133]) == pytest.approx(1 - 0.3 * 133 / 399, rel=1e-6)
    assert NoiseSchedule(latent_scale=None).latent_scale_table.unique().tolist() == [1.0]


def test_forbidden_steps_are_exactly_those_the_published_sampler_crashes_on():
    schedule = NoiseSchedule(latent_scale=None)
    for steps in range(1, 1001):
        if steps in FORBIDDEN:
            with pytest.raises(UserError, match="nearest usable"):
                schedule.ddim_table(steps, 0.0)
        else:
            assert len(schedule.ddim_table(steps, 0.0)) >= steps


@pytest.mark.parametrize(
    ("steps", "nearest"), [(3, "2 or 4"), (105, "100 or 112"), (700, "500"), (0, "1"), (2000, "500")]
)
def test_forbidden_steps_name_the_nearest_usable(steps: int, nearest: str):
    with pytest.raises(UserError, match=f"nearest usable numbers of steps: {nearest}$"):
        NoiseSchedule(latent_scale=None).ddim_timesteps(steps)


def test_eta_out_of_range():
    with pytest.raises(UserError, match="eta"):
        NoiseSchedule(latent_scale=None).ddim_table(50, 1.5)


@pytest.mark.parametrize("steps", [7, 30])
def test_more_steps_than_asked_when_they_do_not_divide(steps: int):
    assert len(NoiseSchedule(latent_scale=None).ddim_timesteps(steps)) == steps + 1


@pytest.mark.parametrize("steps", [1, 10, 50])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_equals_diffusers_ddim_without_latent_scale(steps: int, eta: float):
    from diffusers import DDIMScheduler

    reference = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )
    reference.set_timesteps(steps)
    cond, x_T = conditioning(2), torch.randn(2, *SHAPE)
    noises = torch.randn(steps, 2, *SHAPE)
    x = x_T
    for t, z in zip(reference.timesteps, noises, strict=True):
        eps = toy_denoise(x, t.expand(2), cond)
        x = reference.step(eps, int(t), x, eta=eta, variance_noise=z, return_dict=False)[0]
    ours = DDIMSampler(steps=steps, guidance=1.0, eta=eta).sample(
        x_T, replayed(toy_denoise, cond, None, noises, NoiseSchedule(latent_scale=None))
    )
    torch.testing.assert_close(ours, x, rtol=2e-4, atol=2e-4)


def test_guidance_formula_and_number_of_forwards():
    calls: list[int] = []

    def counted(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        calls.append(len(x))
        return toy_denoise(x, t, cond)

    x, t, cond, uncond = torch.randn(2, *SHAPE), torch.tensor([5, 9]), conditioning(2), conditioning(2, seed=1)
    eps_c, eps_u = toy_denoise(x, t, cond), toy_denoise(x, t, uncond)
    torch.testing.assert_close(guided(counted, x, t, cond, uncond, 12.0), eps_u + 12 * (eps_c - eps_u))
    assert calls == [4]
    assert torch.equal(guided(counted, x, t, cond, None, 1.0), eps_c)
    assert calls == [4, 2]
    with pytest.raises(UserError, match="unconditional"):
        guided(counted, x, t, cond, None, 2.0)


def test_a_sample_does_not_depend_on_its_batch():
    sampler, schedule = DDIMSampler(steps=5, guidance=3.0, eta=1.0), NoiseSchedule(latent_scale=0.7)
    cond, uncond = conditioning(3), conditioning(3, seed=1)

    def sample(which: list[int]) -> Tensor:
        x_T = draw(SHAPE, [sample_generator("x_T", i) for i in which])
        generators = [sample_generator("z", i) for i in which]
        return sampler(toy_denoise, x_T, cond.index(which), uncond.index(which), generators, schedule)

    together = sample([0, 1, 2])
    torch.testing.assert_close(torch.cat([sample([0]), sample([1]), sample([2])]), together)
    torch.testing.assert_close(sample([2, 0]), together[[2, 0]])


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_noise_is_drawn_at_every_step_whatever_eta(eta: float):
    generator, twin = sample_generator("z"), sample_generator("z")
    sampler = DDIMSampler(steps=5, guidance=1.0, eta=eta)
    sampler(toy_denoise, torch.zeros(1, *SHAPE), conditioning(1), None, [generator], NoiseSchedule(latent_scale=0.7))
    for _ in range(5):
        torch.randn(SHAPE, generator=twin)
    assert torch.equal(generator.get_state(), twin.get_state())


def test_true_noise_leads_back_to_x0_in_one_jump():
    """With ε̂ = the noise that was added, every prediction of x_0 is exact, so DDIM (η = 0) recovers it."""
    schedule, steps = NoiseSchedule(latent_scale=0.7), []
    x0, noise = torch.randn(1, *SHAPE), torch.randn(1, *SHAPE)
    x_T = schedule.q_sample(x0, torch.tensor([951]), noise)
    sampler = DDIMSampler(steps=20, guidance=1.0, eta=0.0)
    sampler(lambda x, t, c: noise, x_T, conditioning(1), None, [sample_generator(0)], schedule, steps.append)
    assert [step.number for step in steps] == list(range(1, 21))
    assert all(isinstance(step, SamplerStep) and step.total == 20 for step in steps)
    assert [steps[0].timestep, steps[-1].timestep] == [951, 1]
    torch.testing.assert_close(steps[-1].predicted_x0, x0, rtol=1e-3, atol=1e-3)
    # The end point is at time 0, where ᾱ[0] and not 1 applies.
    torch.testing.assert_close(steps[-1].x, schedule.q_sample(x0, torch.tensor([0]), noise), rtol=1e-3, atol=1e-3)


def test_bfloat16_network_does_not_lower_the_samplers_own_precision():
    def half(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        return torch.zeros_like(x, dtype=torch.bfloat16)

    x_T = torch.full((1, *SHAPE), 1.001)
    sampler = DDIMSampler(steps=1, guidance=1.0, eta=0.0)
    schedule = NoiseSchedule(latent_scale=None)
    out = sampler(half, x_T, conditioning(1), None, [sample_generator(0)], schedule)
    expected = 1.001 * math.sqrt(float(schedule.alphas_cumprod[0] / schedule.alphas_cumprod[1]))
    assert out.dtype == torch.float32
    assert float(out.mean()) == pytest.approx(expected, rel=1e-5)


def test_settings_left_open_come_from_the_model():
    defaults = get_spec("t2v_512_v2").sampling
    assert DDIMSampler(guidance=7.5).resolved(defaults) == DDIMSampler(steps=50, guidance=7.5, eta=1.0)
    assert DDIMSampler(eta=0.0, steps=4).resolved(defaults) == DDIMSampler(steps=4, guidance=12.0, eta=0.0)
    with pytest.raises(UserError, match="resolved"):
        DDIMSampler()(toy_denoise, torch.zeros(1, *SHAPE), conditioning(1), None, [], NoiseSchedule(latent_scale=None))


def test_sample_generator_is_stable_and_tells_its_parts_apart():
    # The seed is pinned: a change would give every published run other noise.
    assert sample_generator("x_T", "p000", 1).initial_seed() == 6403335668275189427
    seeds = {
        sample_generator(*parts).initial_seed() for parts in [("a", 1), ("a", "1"), ("a1",), ("a", 1, ""), (1, "a"), ()]
    }
    assert len(seeds) == 6


def test_draw_takes_sample_i_from_generator_i():
    rows = draw((2, 3), [sample_generator(0), sample_generator(1)])
    assert torch.equal(rows[1], torch.randn(2, 3, generator=sample_generator(1)))


def test_epsilon_loss_is_one_mean_square_per_sample():
    schedule = NoiseSchedule(latent_scale=None)
    noise = torch.zeros(2, *SHAPE)
    wrong = torch.stack([torch.full(SHAPE, 0.5), torch.full(SHAPE, -2.0)])
    t = torch.tensor([10, 500])
    loss = epsilon_loss(lambda x, t, c: wrong.bfloat16(), schedule, torch.randn(2, *SHAPE), t, noise, conditioning(2))
    assert loss.tolist() == [0.25, 4.0]


def test_conditioning_index_and_concat():
    both = Conditioning(torch.randn(3, 2, 4), torch.tensor([8, 9, 10]), torch.randn(3, 1, 4))
    again = Conditioning.concat([both.index([0]), both.index(slice(1, 3))])
    assert len(again) == 3
    assert torch.equal(again.text, both.text)
    assert again.fps.tolist() == [8, 9, 10]
    assert torch.equal(again.index([2, 0]).fps, torch.tensor([10, 8]))
    half = both.to("cpu", torch.bfloat16)
    assert (half.text.dtype, half.fps.dtype) == (torch.bfloat16, torch.int64)

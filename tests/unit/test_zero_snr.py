"""Zero terminal SNR and offset noise: off by default, by hand and against diffusers, and nothing divides by zero."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from perturb.diffusion import Conditioning, DDIMSampler, NoiseSchedule, draw, sample_generator
from perturb.diffusion.noise import offset
from perturb.errors import UserError
from perturb.models.videocrafter.checkpoint import load_system, save_system
from perturb.models.videocrafter.published import SPECS
from perturb.models.videocrafter.spec import ModelSpec, ScheduleSpec
from perturb.models.videocrafter.system import VideoSystem, build_schedule
from perturb.store.paths import resolve

SHAPE = (4, 3, 2, 2)


def schedules(latent_scale: float | None = None) -> tuple[NoiseSchedule, NoiseSchedule]:
    plain, zero = (NoiseSchedule(latent_scale=latent_scale, zero_terminal_snr=option) for option in (False, True))
    return plain, zero


def test_it_equals_diffusers_rescaling():
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    plain, zero = schedules()
    betas = rescale_zero_terminal_snr(plain.betas_exact)
    torch.testing.assert_close(zero.betas_exact, betas, rtol=1e-9, atol=0)
    torch.testing.assert_close(zero.alphas_cumprod_exact, (1 - betas).cumprod(0), rtol=1e-9, atol=0)


def test_four_timesteps_by_hand():
    schedule = NoiseSchedule(timesteps=4, beta_start=0.19, beta_end=0.19, latent_scale=None, zero_terminal_snr=True)
    # β is constant, so √ᾱ = 0.9, 0.81, 0.729, 0.6561: minus the last, times 0.9 / 0.2439
    roots = [0.9, (0.81 - 0.6561) * 0.9 / 0.2439, (0.729 - 0.6561) * 0.9 / 0.2439, 0.0]
    assert schedule.alphas_cumprod_exact.tolist() == pytest.approx([root**2 for root in roots], rel=1e-12)
    assert schedule.betas_exact[0].item() == pytest.approx(0.19)
    assert schedule.betas_exact[-1] == 1
    assert schedule.betas_exact[1].item() == pytest.approx(1 - (roots[1] / roots[0]) ** 2)


def test_the_last_timestep_is_pure_noise_and_the_others_are_noisier_than_before():
    plain, zero = schedules(latent_scale=0.7)
    x0, noise, last = torch.randn(1, *SHAPE), torch.randn(1, *SHAPE), torch.tensor([999])
    assert torch.equal(zero.q_sample(x0, last, noise), noise)
    assert not torch.equal(plain.q_sample(x0, last, noise), noise)
    assert (zero.alphas_cumprod[1:] < plain.alphas_cumprod[1:]).all()
    assert (zero.alphas_cumprod[:-1] > 0).all()
    assert float(zero.alphas_cumprod[0]) == pytest.approx(float(plain.alphas_cumprod[0]), rel=1e-6)
    assert torch.equal(zero.latent_scale_table, plain.latent_scale_table)
    assert all(table.isfinite().all() for table in zero.posterior().values())


def test_without_the_option_nothing_has_changed():
    plain, _ = schedules(latent_scale=0.7)
    unnamed = NoiseSchedule(latent_scale=0.7)
    assert torch.equal(plain.alphas_cumprod_exact, unnamed.alphas_cumprod_exact)
    assert torch.equal(plain.alphas_cumprod_exact, (1 - plain.betas_exact).cumprod(0))
    assert float(plain.alphas_cumprod[-1]) == pytest.approx(0.0047, abs=5e-4)
    zero = {spec.name for spec in SPECS.values() if build_schedule(spec.schedule).zero_terminal_snr}
    assert zero == {"dynamicrafter_512", "dynamicrafter_1024", "dynamicrafter_interpolation"}


@pytest.mark.parametrize(("steps", "first"), [(20, 951), (50, 981), (200, 996)])
def test_published_spacings_begin_below_the_last_timestep(steps: int, first: int):
    _, zero = schedules()
    table = zero.ddim_table(steps, eta=1.0)
    assert int(table.timesteps[-1]) == first
    assert all(column.isfinite().all() for column in (table.alphas, table.alphas_prev, table.sigmas))


def test_the_last_timestep_is_refused_instead_of_dividing_by_zero():
    plain, zero = schedules()
    assert plain.ddim_timesteps(500)[-1] == 999
    refused = [steps for steps in range(1, 501) if plain._usable(steps) and not zero._usable(steps)]
    assert refused == list(range(334, 501))  # a spacing of 2: 1, 3, … 999
    with pytest.raises(UserError, match=r"timestep 999, where ᾱ is 0 .* nearest usable numbers of steps: 250$"):
        DDIMSampler(steps=500, guidance=1.0, eta=0.0).check(zero)
    with pytest.raises(UserError, match=r"timestep 1000, which does not exist"):
        zero.ddim_timesteps(1000)


def test_a_schedule_too_short_for_any_spacing_says_so():
    with pytest.raises(UserError, match="nearest usable numbers of steps: none"):
        NoiseSchedule(timesteps=2, latent_scale=None, zero_terminal_snr=True).ddim_timesteps(1)


def test_ddim_with_the_true_noise_still_leads_back_to_x0():
    _, zero = schedules(latent_scale=0.7)
    x0, noise = torch.randn(1, *SHAPE), torch.randn(1, *SHAPE)
    x_T = zero.q_sample(x0, torch.tensor([951]), noise)
    cond = Conditioning(torch.zeros(1, 2, 3), torch.tensor([8]))
    sampler = DDIMSampler(steps=20, guidance=1.0, eta=0.0)
    found = sampler(lambda x, t, c: noise, x_T, cond, None, [sample_generator(0)], zero)
    torch.testing.assert_close(found, zero.q_sample(x0, torch.tensor([0]), noise), rtol=1e-3, atol=1e-3)


def test_a_spec_says_it_only_when_it_has_it(tiny_spec: ModelSpec):
    zero = replace(tiny_spec, schedule=replace(tiny_spec.schedule, zero_terminal_snr=True))
    assert zero.to_dict()["schedule"]["zero_terminal_snr"] is True
    assert ModelSpec.from_dict(json.loads(json.dumps(zero.to_dict()))) == zero
    before = {"timesteps", "beta_start", "beta_end", "latent_scale", "scale_table_length"}
    assert set(tiny_spec.to_dict()["schedule"]) == before
    assert ModelSpec.from_dict(tiny_spec.to_dict()) == tiny_spec
    assert build_schedule(ScheduleSpec(zero_terminal_snr=True)).alphas_cumprod[-1] == 0
    wrong = tiny_spec.to_dict()
    wrong["schedule"]["zero_terminal_snr"] = "yes"
    with pytest.raises(UserError, match="zero_terminal_snr is 'yes'; allowed: true or false"):
        ModelSpec.from_dict(wrong)


@pytest.mark.parametrize("name", ["image", "full", "partial"])
def test_shipped_specs_read_and_write_as_before_the_option(name: str):
    path = resolve(f"package:weights/nano/{name}/spec.json")
    if not path.is_file():
        pytest.skip(f"{path} is not trained yet")
    written = json.loads(path.read_text())["spec"]
    assert json.dumps(ModelSpec.from_dict(written).to_dict()) == json.dumps(written)  # the order of the keys too


def test_a_saved_system_comes_back_with_its_schedule(tiny_system: VideoSystem, tmp_path: Path):
    tiny_system.spec = replace(tiny_system.spec, schedule=replace(tiny_system.spec.schedule, zero_terminal_snr=True))
    again = load_system(save_system(tiny_system, tmp_path / "zero"))
    assert again.spec == tiny_system.spec
    assert again.schedule.alphas_cumprod[-1] == 0


def test_offset_noise_moves_each_channel_as_a_whole():
    noise = draw((4, 3, 5, 2), [sample_generator(i) for i in range(2)])
    moved = offset(noise, 0.1, sample_generator("offset"))
    shift = 0.1 * torch.randn(2, 4, 1, 1, 1, generator=sample_generator("offset"))
    torch.testing.assert_close(moved - noise, shift.expand_as(noise), rtol=0, atol=1e-6)
    assert torch.equal(moved, offset(noise, 0.1, sample_generator("offset")))
    assert moved.dtype == noise.dtype == torch.float32
    assert offset(noise.bfloat16(), 0.1, sample_generator(0)).dtype == torch.bfloat16


def test_offset_noise_has_the_variance_it_should():
    """Var(mean over t h w) = 1/(t h w) + strength², Var(one value) = 1 + strength²."""
    noise = torch.randn(4000, 2, 2, 2, 2, generator=sample_generator("noise"))
    moved = offset(noise, 0.5, sample_generator("offset"))
    assert float(moved.mean((2, 3, 4)).var()) == pytest.approx(1 / 8 + 0.25, rel=0.06)
    assert float(moved.var()) == pytest.approx(1.25, rel=0.03)


def test_strength_zero_is_the_noise_itself_and_keeps_the_random_stream():
    noise = torch.randn(2, *SHAPE)
    with_none, with_some = sample_generator(0), sample_generator(0)
    assert torch.equal(offset(noise, 0.0, with_none), noise)
    offset(noise, 0.3, with_some)
    assert torch.equal(with_none.get_state(), with_some.get_state())


@pytest.mark.parametrize("strength", [-0.1, math.nan, math.inf])
def test_strengths_that_cannot_be(strength: float):
    with pytest.raises(UserError, match="strength of the offset noise"):
        offset(torch.zeros(1, *SHAPE), strength, sample_generator(0))

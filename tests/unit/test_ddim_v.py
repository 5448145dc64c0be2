"""DDIM of networks that predict v, from zero signal: spacings, the root that must not be NaN, the kept scale."""

import itertools
import math

import numpy as np
import pytest
import torch

from perturb.diffusion import DDIMSampler, NoiseSchedule, SamplerStep, epsilon_loss
from perturb.diffusion.prediction import clean_and_noise
from perturb.diffusion.spacing import consistency, linspace, log_snr, trailing
from perturb.errors import UserError
from tests.unit.sampler_case import SHAPE, Knowing, conditioning, noises, replayed

V = NoiseSchedule(latent_scale=0.7, zero_terminal_snr=True, prediction="v")


def test_spacings_by_hand():
    assert trailing(1000, 4) == [249, 499, 749, 999]
    assert trailing(1000, 16)[:3] == [61, 124, 187]  # 62.5 and 187.5 round to even
    assert trailing(1000, 3) == [332, 666, 999]
    assert linspace(1000, 4) == [0, 333, 666, 999]
    assert linspace(1000, 64)[:3] == [0, 16, 32]
    assert consistency(1000, 4, 50) == [279, 519, 759, 999]
    assert consistency(1000, 4, 200) == [249, 499, 749, 999]
    assert log_snr(np.exp(np.array([3.0, 2.0, 1.0, 0.6, 0.1, -1.0])), 2) == [2, 5]  # λ = −1 and 1
    assert log_snr(np.exp(np.array([3.0, 2.9, 2.8, -1.0])), 3) == [2, 3]  # of λ = −1, 1/3, 5/3 two coincide
    assert all(len(trailing(1000, steps)) == steps for steps in range(1, 1001))
    with pytest.raises(UserError, match="1001 sampling steps do not fit"):
        trailing(1000, 1001)
    with pytest.raises(UserError, match="1 ≤ steps ≤ origin_steps ≤ 1000"):
        consistency(1000, 60, 50)


def test_v_by_hand():
    # ᾱ = 0.64, s = 0.5, x_0 = 2, ε = 1: x = 0.8 · 1 + 0.6 · 1, v = 0.8 · 1 − 0.6 · 1
    x, v = torch.tensor([1.4]), torch.tensor([0.2])
    x0, eps = clean_and_noise(v, x, 0.64, 0.5, "v")
    assert (float(x0), float(eps)) == (pytest.approx(2), pytest.approx(1))
    x0, eps = clean_and_noise(torch.tensor([1.0]), x, 0.64, 0.5, "epsilon")
    assert (float(x0), float(eps)) == (pytest.approx(2), 1)


def test_the_target_is_what_the_loss_compares():
    x0, noise, t = torch.randn(2, *SHAPE), torch.randn(2, *SHAPE), torch.tensor([999, 10])
    loss = epsilon_loss(Knowing(x0, V), V, x0, t, noise, conditioning(2))
    assert loss.max() < 1e-6
    torch.testing.assert_close(V.target(x0, t, noise)[0], -0.7 * x0[0])  # at ᾱ = 0, v = −s x_0
    a, scale = (table[t].reshape(-1, 1, 1, 1, 1) for table in (V.alphas_cumprod, V.latent_scale_table))
    torch.testing.assert_close(clean_and_noise(V.target(x0, t, noise), V.q_sample(x0, t, noise), a, scale, "v")[0], x0)
    assert torch.equal(NoiseSchedule(latent_scale=0.7).target(x0, t, noise), noise)


@pytest.mark.parametrize("steps", [7, 20, 25, 50])
def test_eta_one_from_zero_signal_is_no_nan(steps: int):
    """1 − a' − σ² is 0 there, and with the published rounding −6e-8 at 7, 20 and 25 steps."""
    x0 = torch.randn(2, *SHAPE)
    sampler = DDIMSampler(steps=steps, guidance=1.0, eta=1.0, spacing="trailing")
    sampler.check(V)
    seen, x_T = list[SamplerStep](), noises(SHAPE, "x_T")
    drawn = [noises(SHAPE, "z", i) for i in range(steps)]
    found = sampler.sample(x_T, replayed(Knowing(x0, V), conditioning(2), None, drawn, V, seen.append))
    assert [seen[0].timestep, seen[-1].timestep] == [999, round(1000 / steps) - 1]
    torch.testing.assert_close(seen[0].predicted_x0, x0)
    a_prev = float(sampler.table(V).alphas_prev[-1])
    scale = float(sampler.table(V).scale_prev[-1])
    first = a_prev**0.5 * scale * x0 + (1 - a_prev) ** 0.5 * noises(SHAPE, "z", 0)  # all noise is fresh
    torch.testing.assert_close(seen[0].x, first, rtol=1e-4, atol=1e-3)
    assert found.isfinite().all()


def test_the_kept_scale_is_that_of_the_last_timestep():
    x0, x_T = torch.randn(2, *SHAPE), noises(SHAPE, "x_T")
    ends = {}
    for keep in (False, True):
        sampler = DDIMSampler(steps=50, guidance=1.0, eta=0.0, spacing="trailing", keep_scale=keep)
        steps = list[SamplerStep]()
        sampler.sample(x_T, replayed(Knowing(x0, V), conditioning(2), None, itertools.repeat(x_T), V, steps.append))
        ends[keep] = steps[-1].x
        torch.testing.assert_close(steps[-1].predicted_x0, x0, rtol=1e-3, atol=1e-3)
    a = float(V.alphas_cumprod[0])
    kept = 1 - 0.3 * 19 / 399  # s[19]
    torch.testing.assert_close(ends[False] - ends[True], math.sqrt(a) * (1 - kept) * x0, rtol=1e-3, atol=1e-3)


def test_a_network_that_predicts_noise_cannot_begin_at_zero_signal():
    schedule = NoiseSchedule(latent_scale=None, zero_terminal_snr=True)
    for spacing in ("trailing", "linspace"):
        with pytest.raises(UserError, match=f"spacing={spacing} visits timestep 999, where ᾱ is 0"):
            DDIMSampler(steps=20, guidance=1.0, eta=0.0, spacing=spacing).check(schedule)
    with pytest.raises(UserError, match="whose log-SNR begins at −∞"):
        DDIMSampler(steps=20, guidance=1.0, eta=0.0, spacing="log_snr").check(V)
    assert V.ddim_timesteps(500)[-1] == 999

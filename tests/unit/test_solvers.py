"""DPM-Solver++ and UniPC against DDIM, against known solutions, and against many steps."""

from typing import Any

import pytest
import torch
from torch import Tensor

from perturb.diffusion import Conditioning, DDIMSampler, NoiseSchedule, SamplerStep
from perturb.diffusion.prediction import Prediction
from perturb.diffusion.solvers import DPMSolverSampler, SolverSampler, UniPCSampler
from perturb.diffusion.spacing import Spacing
from perturb.errors import UserError
from perturb.models.videocrafter.published import get_spec
from tests.unit.sampler_case import SHAPE, Knowing, conditioning, toy_denoise

FIRST = [DPMSolverSampler(order=1), UniPCSampler(order=1, corrector=False)]
SECOND = [DPMSolverSampler(order=2), UniPCSampler(order=2)]


def sample(sampler: DDIMSampler | SolverSampler, x_T: Tensor, schedule: NoiseSchedule, steps: int) -> Tensor:
    defaults = get_spec("t2v_512_v2").sampling
    settings: dict[str, Any] = {"steps": steps, "guidance": 3.0} | (
        {"eta": 0.0} if isinstance(sampler, DDIMSampler) else {}
    )
    made = type(sampler)(**(vars(sampler) | settings)).resolved(defaults)
    made.check(schedule)
    generators = [torch.Generator() for _ in x_T]
    return made(toy_denoise, x_T, conditioning(2), conditioning(2, seed=1), generators, schedule)


@pytest.mark.parametrize("solver", FIRST, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("latent_scale", [None, 0.7])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_order_one_is_ddim(solver: SolverSampler, latent_scale: float | None, prediction: Prediction):
    x_T, schedule = torch.randn(2, *SHAPE), NoiseSchedule(latent_scale=latent_scale, prediction=prediction)
    expected = sample(DDIMSampler(), x_T, schedule, steps=10)
    torch.testing.assert_close(sample(solver, x_T, schedule, steps=10), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("solver", SECOND, ids=repr)
@pytest.mark.parametrize("latent_scale", [None, 0.7])
def test_a_higher_order_is_nearer_to_the_solution(solver: SolverSampler, latent_scale: float | None):
    """Of data N(0, 0.25): ε̂ = √(1 − ᾱ) x/var(t), var = ᾱ s²/4 + 1 − ᾱ, and the ODE has x/√var constant."""
    x_T, schedule = torch.randn(2, *SHAPE), NoiseSchedule(latent_scale=latent_scale)
    a, s = schedule.alphas_cumprod, schedule.latent_scale_table
    variance = a * s**2 / 4 + 1 - a

    def denoise(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        return ((1 - a).sqrt() / variance)[t].reshape(-1, 1, 1, 1, 1) * x

    def error(sampler: DDIMSampler | SolverSampler, steps: int, spacing: Spacing) -> float:
        options: dict[str, Any] = {"steps": steps, "guidance": 1.0, "spacing": spacing}
        options |= {"eta": 0.0} if isinstance(sampler, DDIMSampler) else {}
        made = type(sampler)(**(vars(sampler) | options))
        found = made(denoise, x_T, conditioning(2), None, [torch.Generator() for _ in x_T], schedule)
        exact = x_T * (variance[0] / variance[schedule.sampling_timesteps(steps, spacing)[-1]]).sqrt()
        return (found - exact).abs().mean().item()

    for steps in (5, 10, 20, 50):
        for spacing in ("uniform", "trailing"):  # order 1 where the steps grow
            assert error(solver, steps, spacing) < error(DDIMSampler(), steps, spacing)
    # Of equal steps in log-SNR twice as many are four times nearer in theory, and twice for DDIM.
    for steps in (5, 10):
        assert error(solver, steps, "log_snr") < error(DDIMSampler(), steps, "log_snr") / 2
        assert error(solver, 2 * steps, "log_snr") < error(solver, steps, "log_snr") / 2.2
        assert error(DDIMSampler(), 2 * steps, "log_snr") > error(DDIMSampler(), steps, "log_snr") / 2.2


@pytest.mark.parametrize("solver", [*FIRST, *SECOND], ids=repr)
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_exact_denoiser_of_one_latent_leads_to_it(solver: SolverSampler, prediction: Prediction):
    schedule, steps = NoiseSchedule(latent_scale=0.7, prediction=prediction), list[SamplerStep]()
    x0, noise = torch.randn(2, *SHAPE), torch.randn(2, *SHAPE)
    made = type(solver)(**(vars(solver) | {"steps": 10, "guidance": 1.0}))
    x_T = schedule.q_sample(x0, torch.tensor([901, 901]), noise)
    found = made(Knowing(x0, schedule), x_T, conditioning(2), None, [], schedule, steps.append)
    torch.testing.assert_close(found, schedule.q_sample(x0, torch.tensor([0, 0]), noise), rtol=1e-3, atol=1e-3)
    assert [step.timestep for step in steps] == list(range(901, 0, -100))
    # On the way x is what the network was trained on, with the latent scale: UniPC corrects x, but of one x_0 there
    # is nothing to correct.
    expected = schedule.q_sample(x0, torch.tensor([401, 401]), noise)
    torch.testing.assert_close(steps[4].x, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(steps[4].predicted_x0, x0, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("solver", [DPMSolverSampler(spacing="trailing"), UniPCSampler(spacing="trailing")], ids=repr)
def test_they_can_begin_at_zero_signal(solver: SolverSampler):
    schedule = NoiseSchedule(latent_scale=0.7, zero_terminal_snr=True, prediction="v")
    x0, noise = torch.randn(2, *SHAPE), torch.randn(2, *SHAPE)
    made = type(solver)(**(vars(solver) | {"steps": 10, "guidance": 1.0}))
    found = made(Knowing(x0, schedule), noise, conditioning(2), None, [], schedule)
    torch.testing.assert_close(found, schedule.q_sample(x0, torch.tensor([0, 0]), noise), rtol=2e-3, atol=2e-3)
    with pytest.raises(UserError, match="visits timestep 999, where ᾱ is 0"):
        made.check(NoiseSchedule(latent_scale=None, zero_terminal_snr=True))


def test_settings():
    defaults = get_spec("t2v_512_v2").sampling
    assert DPMSolverSampler().resolved(defaults) == DPMSolverSampler(steps=50, guidance=12.0)
    schedule = NoiseSchedule(latent_scale=None)
    with pytest.raises(UserError, match=r"sampler\.order is 4; allowed: a whole number from 1 to 3"):
        UniPCSampler(steps=20, guidance=3.0, order=4).check(schedule)
    with pytest.raises(UserError, match="27 sampling steps do not fit"):
        DPMSolverSampler(steps=27, guidance=3.0).check(schedule)
    with pytest.raises(UserError, match="leaves settings open"):
        DPMSolverSampler().check(schedule)

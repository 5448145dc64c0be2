"""T2V-Turbo against its published code: embeddings, time grids, boundary, steps, and whole sampling loops."""

from typing import Any

import pytest
import torch
from torch import Tensor

from perturb.diffusion import Conditioning, NoiseSchedule, SamplerStep
from perturb.diffusion.consistency import ConsistencySampler, boundary_scalings, teacher_step
from perturb.diffusion.spacing import consistency
from perturb.nn import scale_sinusoid
from tests.golden.golden_fixtures import fixtures, requires_fixtures
from tests.golden.golden_networks import each_call, ids, load, recorded, run
from tests.parity.fixtures import Fixture
from tests.parity.models import Ledger
from tests.unit.sampler_case import replayed

pytestmark = requires_fixtures
T = 1000
NETWORKS = each_call(*fixtures("turbo_unet"))
LOOPS = each_call(*fixtures("turbo_sample"))


@pytest.mark.parametrize(("golden", "call"), NETWORKS, ids=ids(NETWORKS))
def test_network(golden: Fixture, call: dict[str, Any]):
    name, ledger = call["name"], Ledger(golden)
    x, text, t = (golden.given(f"{name}.{key}") for key in ("x", "context", "timesteps"))
    fps = golden.given(f"{name}.fps") if call["fps"] == "tensor" else torch.full((len(x),), call["fps"])
    guidance = golden.given(f"{name}.w") if call["w"] else None
    motion = golden.given(f"{name}.motion_gs") if call["motion"] else None
    with torch.no_grad():
        y = run(load(golden.name), x, t, Conditioning(text, fps, guidance=guidance, motion=motion))
    ledger.check(f"{name}.y", y)
    ledger.close(f"{name}.")


@pytest.mark.parametrize("golden", fixtures("turbo_scheduler"), ids=str)
def test_scheduler(golden: Fixture):
    ledger, schedule = Ledger(golden), NoiseSchedule(latent_scale=None)
    ledger.check("alphas_cumprod", schedule.alphas_cumprod)
    for steps, origin in golden.meta["config"]["grids"]:
        ledger.check(f"timesteps.{steps}_{origin}", torch.tensor(consistency(T, steps, origin)[::-1]))
    scalings = [boundary_scalings(t) for t in golden.given("boundary_t").tolist()]
    ledger.check("c_skip", torch.tensor([skip for skip, _ in scalings]))
    ledger.check("c_out", torch.tensor([out for _, out in scalings]))
    ledger.check("w_embedding_256", scale_sinusoid(golden.given("w"), 256))
    ledger.check("w_embedding_odd_7", scale_sinusoid(golden.given("w"), 7))
    for call in golden.calls:
        check_steps(ledger, call)
    x0, eps, index = (golden.given(f"solver.{key}") for key in ("pred_x0", "pred_noise", "index"))
    ledger.check("solver.timesteps", torch.tensor(consistency(T, 50, 50)))
    ledger.check("solver.x_prev", teacher_step(x0, eps, index, schedule))
    ledger.close()


def check_steps(ledger: Ledger, call: dict[str, Any]):
    name, golden, steps = call["name"], ledger.golden, list[SamplerStep]()
    prediction = {"epsilon": "epsilon", "v_prediction": "v"}[call["prediction_type"]]
    outputs, noise, x = (golden.given(f"{name}.{key}") for key in ("model_output", "noise", "x"))
    answers = iter(outputs)
    ConsistencySampler(steps=call["n"], origin_steps=call["origin"]).sample(
        x,
        replayed(
            lambda x, t, cond: next(answers),
            Conditioning(torch.zeros(len(x), 1, 1), torch.zeros(len(x), dtype=torch.long)),
            None,
            noise,
            NoiseSchedule(latent_scale=None, prediction=prediction),  # type: ignore[arg-type]
            steps.append,
        ),
    )
    ledger.check(f"{name}.x_prev", torch.stack([step.x for step in steps]))
    ledger.check(f"{name}.denoised", torch.stack([step.predicted_x0 for step in steps]))


@pytest.mark.parametrize(("golden", "call"), LOOPS, ids=ids(LOOPS))
def test_sampling(golden: Fixture, call: dict[str, Any]):
    name, steps, ledger = call["name"], list[SamplerStep](), Ledger(golden)
    denoise, predictions = recorded(load(golden.meta["state_from"]["unet"], motion_cond=call["use_motion_cond"]))
    sampler = ConsistencySampler(
        steps=call["num_inference_steps"],
        origin_steps=call["lcm_origin_steps"],
        guidance=call["guidance_scale"],
        motion=call["motion_gs"] if call["use_motion_cond"] else None,
        motion_share=call["percentage"],
    )
    # The published scheduler has no latent scale, whatever its teacher had.
    schedule = NoiseSchedule(latent_scale=0.7)
    cond = Conditioning(golden.given(f"{name}.context"), torch.full((call["b"],), call["fps"]))
    noise = iter(golden.given(f"{name}.noise"))
    final = sampler.sample(golden.given(f"{name}.x_T"), replayed(denoise, cond, None, noise, schedule, steps.append))
    ledger.check(f"{name}.timesteps_visited", torch.tensor([step.timestep for step in steps]))
    ledger.check(f"{name}.model_pred", torch.stack(predictions))
    ledger.check(f"{name}.x_prev", torch.stack([step.x for step in steps]))
    ledger.check(f"{name}.denoised", torch.stack([step.predicted_x0 for step in steps]))
    ledger.check(f"{name}.final", final)
    ledger.close(f"{name}.")
    drawn = 0 if len(steps) == 1 else len(steps)  # the last step draws, an only one does not
    assert len(list(noise)) == len(golden.given(f"{name}.noise")) - drawn


def test_the_guidance_of_the_undistilled_network_is_a_zero_shift():
    golden = fixtures("turbo_unet")[0]
    unet, call = load(golden.name), {key: golden.given(f"teacher.{key}") for key in ("x", "context", "timesteps")}
    with torch.no_grad():
        assert unet.guidance_embedding is not None
        unet.guidance_embedding.guidance.weight.zero_()
        cond = Conditioning(call["context"], torch.tensor([16, 16]))
        told = Conditioning(call["context"], torch.tensor([16, 16]), guidance=torch.tensor([3.0, 9.0]))
        plain: Tensor = run(unet, call["x"], call["timesteps"], cond)
        assert torch.equal(run(unet, call["x"], call["timesteps"], told), plain)

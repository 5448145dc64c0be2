"""Complete DDIM trajectories against the published sampler: every prediction and every latent on the way."""

from typing import Any

import pytest
import torch
from torch import Tensor

from perturb.diffusion import Conditioning, DDIMSampler, SamplerStep
from tests.parity.fixtures import Fixture, fixtures, requires_fixtures
from tests.parity.models import Ledger, load_unet, schedule
from tests.unit.sampler_case import replayed

pytestmark = requires_fixtures

CALLS = [(golden, call) for golden in fixtures("ddim") for call in golden.calls]


@pytest.mark.parametrize(("golden", "call"), CALLS, ids=[f"{golden}-{call['name']}" for golden, call in CALLS])
def test_trajectory(golden: Fixture, call: dict[str, Any]):
    name, steps = call["name"], list[SamplerStep]()
    unet, predictions = load_unet(golden.meta["state_from"]["unet"])[0], list[Tensor]()

    def denoise(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        predictions.append(unet(x, t, cond.text, cond.fps, image_context=cond.image))
        return predictions[-1]

    guided = call["cfg_scale"] != 1
    final = DDIMSampler(steps=call["S"], guidance=call["cfg_scale"], eta=call["eta"]).sample(
        golden.given(f"{name}.x_T"),
        replayed(
            denoise,
            conditioning(golden, call, "cond"),
            conditioning(golden, call, "uncond") if guided else None,
            golden.given(f"{name}.noise"),
            schedule(call["diffusion"]),
            steps.append,
        ),
    )
    assert len(steps) == call["n_steps"]
    ledger = Ledger(golden)
    ledger.check(f"{name}.timesteps_visited", torch.tensor([step.timestep for step in steps]))
    ledger.check(f"{name}.x_prev", torch.stack([step.x for step in steps]))
    ledger.check(f"{name}.pred_x0", torch.stack([step.predicted_x0 for step in steps]))
    ledger.check(f"{name}.final", final)
    if guided:
        cond, uncond = torch.stack(predictions).chunk(2, dim=1)
        ledger.check(f"{name}.e_cond", cond)
        ledger.check(f"{name}.e_uncond", uncond)
    else:
        ledger.check(f"{name}.e_cond", torch.stack(predictions))
    ledger.close(f"{name}.")


def conditioning(golden: Fixture, call: dict[str, Any], side: str) -> Conditioning:
    name = call["name"]
    fps = golden.given(f"{name}.fps") if call["fps"] == "tensor" else torch.tensor([call["fps"]])
    if "image_tokens" not in call:
        return Conditioning(golden.given(f"{name}.{side}"), fps)
    return Conditioning(golden.given(f"{name}.{side}_text"), fps, golden.given(f"{name}.{side}_image"))


@pytest.mark.parametrize("golden", fixtures("ddim"), ids=str)
def test_every_output_belongs_to_a_call(golden: Fixture):
    assert {golden.call_of(name) for name in golden.outputs()} == {call["name"] for call in golden.calls}

"""ScaleCrafter against its published code: re-dilated convolutions, and its loop on a video network."""

from itertools import repeat
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from perturb.diffusion import Conditioning, NoiseSchedule, SamplerStep
from perturb.diffusion.scalecrafter import ScaleCrafterSampler, factors
from perturb.models.videocrafter.keymap.unet import UNET_PREFIX, unet_official_to_ours
from perturb.nn import dispersed, redilated_conv2d
from tests.golden.golden_fixtures import fixture, fixtures, requires_fixtures
from tests.golden.golden_networks import each_call, ids, load, run
from tests.parity.fixtures import Fixture
from tests.parity.models import Ledger
from tests.parity.networks import unet_spec
from tests.unit.sampler_case import replayed

pytestmark = requires_fixtures
CONVOLUTIONS = each_call(*fixtures("scalecrafter_conv"))
LOOPS = each_call(*fixtures("scalecrafter_loop"))


@pytest.mark.parametrize(("golden", "call"), CONVOLUTIONS, ids=ids(CONVOLUTIONS))
def test_convolution(golden: Fixture, call: dict[str, Any]):
    name, ledger = call["name"], Ledger(golden)
    x, weight, bias = golden.given(f"{name}.x"), golden.state[f"{name}.weight"], golden.state[f"{name}.bias"]
    if "inflate" in call:
        weight = dispersed(weight, golden.given(f"{name}.transform"))
        ledger.check(f"{name}.inflated_weight", weight)
    else:
        ledger.check(f"{name}.y_inactive", conv2d(x, weight, bias, stride=call["stride"], padding=1))
    ledger.check(f"{name}.y", redilated_conv2d(x, weight, bias, stride=call["stride"], factor=call["d"]))
    ledger.close(f"{name}.")


def our_names(unet: str, settings: dict[str, float]) -> dict[str, float]:
    """Factors by our module path, of factors by official path."""
    names = unet_official_to_ours(unet_spec(fixture(unet).meta["config"]))
    return {names[f"{UNET_PREFIX}{key}.weight"].removesuffix(".weight"): d for key, d in settings.items()}


@pytest.mark.parametrize(("golden", "call"), LOOPS, ids=ids(LOOPS))
def test_loop(golden: Fixture, call: dict[str, Any]):
    name, steps, ledger, source = call["name"], list[SamplerStep](), Ledger(golden), golden.meta["state_from"]["unet"]
    unet, dilated, damped = load(source), list[Tensor](), list[Tensor]()
    sampler = ScaleCrafterSampler(
        steps=call["S"],
        guidance=call["cfg_scale"],
        eta=0.0,
        dilation=our_names(source, call["dilate_settings"]),
        dilated_steps=call["dilate_tau"],
        progressive=call["progressive"],
        damped_dilation=our_names(source, call["ndcfg_dilate_settings"]),
        damped_steps=call["ndcfg_tau"],
    )
    fps = torch.tensor([call["fps"]])
    cond, uncond = (Conditioning(golden.given(f"{name}.{side}"), fps) for side in ("cond", "uncond"))

    def denoise(x: Tensor, t: Tensor, told: Conditioning) -> Tensor:
        with torch.no_grad():
            y = run(unet, x, t, told)
            if len(x) == 2:
                dilated.append(y.flip(0))  # published: the unconditional side first
            else:  # the unconditional side alone; the published loop computes the other one for nothing
                now = factors(sampler.damped_dilation, len(damped), sampler.damped_steps, progressive=True)
                other = run(unet, x, t, Conditioning(cond.text, fps, dilation=now))
                damped.append(torch.cat([y, other]))
        return y

    x_T = golden.given(f"{name}.x_T")
    schedule = NoiseSchedule(latent_scale=None)
    sampler.check(schedule)
    final = sampler.sample(x_T, replayed(denoise, cond, uncond, repeat(torch.zeros_like(x_T)), schedule, steps.append))
    ledger.check(f"{name}.timesteps", torch.tensor([step.timestep for step in steps]))
    ledger.check(f"{name}.x_prev", torch.stack([step.x for step in steps]))
    ledger.check(f"{name}.final", final)
    ledger.check(f"{name}.eps_dilated", torch.stack(dilated))
    if damped:
        ledger.check(f"{name}.eps_damped", torch.stack(damped))
    ledger.close(f"{name}.")

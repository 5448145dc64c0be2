"""FreeNoise against its published code: noise, windows, the network in windows, and whole trajectories."""

from typing import Any

import pytest
import torch
from einops import rearrange

from perturb.diffusion import Conditioning, DDIMSampler, NoiseSchedule, SamplerStep
from perturb.diffusion.conditioning import by_frame
from perturb.diffusion.freenoise import FreeNoiseSampler, reschedule
from perturb.errors import UserError
from perturb.nn import Windows
from tests.golden.golden_fixtures import fixtures, requires_fixtures
from tests.golden.golden_networks import each_call, ids, load, record, recorded, run
from tests.parity.fixtures import Fixture
from tests.parity.models import Ledger
from tests.unit.sampler_case import replayed

pytestmark = requires_fixtures
NETWORKS = each_call(*fixtures("freenoise_unet"))
TRAJECTORIES = each_call(*fixtures("freenoise_ddim"))


@pytest.mark.parametrize("golden", fixtures("freenoise_noise"), ids=str)
def test_noise_and_windows(golden: Fixture):
    ledger = Ledger(golden)
    for call in golden.calls:
        name, windows = call["name"], Windows(call["W"], call["s"])
        base, orders = golden.given(f"{name}.base"), golden.given(f"{name}.perm")
        noise = torch.stack([reschedule(sample[0], orders, windows) for sample in base])
        # The published code gives every prompt of a batch the same noise.
        ledger.check(f"{name}.x_T", noise[:, None].expand(-1, call["bs"], -1, -1, -1, -1))
        ledger.check(f"{name}.views", torch.tensor(windows.views(call["F"])))
        ledger.check(f"{name}.weights", windows.weights())
    for length in golden.meta["weight_lengths"]:
        ledger.check(f"weights.{length}", Windows(length, 1).weights())
    ledger.close()


class Published(Windows):
    """Windows that let frames outside all of them pass, as the published code does; ours refuse them."""

    def check(self, frames: int) -> None:
        del frames


@pytest.mark.parametrize(("golden", "call"), NETWORKS, ids=ids(NETWORKS))
def test_network(golden: Fixture, call: dict[str, Any]):
    name, ledger = call["name"], Ledger(golden)
    unet = load(golden.meta.get("state_from", {}).get("unet", golden.name))
    x, text, t = (golden.given(f"{name}.{key}") for key in ("x", "context", "timesteps"))
    injected = None
    if call.get("frame_context"):
        text, last = text[:1], text[1:]
        injected = last if call["use_injection"] else None
    fps = torch.full((call["B"],), call["fps"])
    windows = None if call["W"] is None else Windows(call["W"], call["s"])
    if windows is not None and (call["F"] - call["W"]) % call["s"]:
        with pytest.raises(UserError, match=f"{call['F']} frames do not fit windows"):
            run(unet, x, t, Conditioning(text, fps, windows=windows))
        windows = Published(windows.length, windows.stride)
    wanted = [key.removeprefix(f"{name}.inter.") for key in ledger.golden.outputs(f"{name}.inter.")]
    seen = record(unet, wanted)
    with torch.no_grad():
        y = run(unet, x, t, Conditioning(text, fps, injected=injected, windows=windows))
    for key in wanted:
        expected = golden.expected(f"{name}.inter.{key}")
        value = rearrange(seen[key], "(b t) c h w -> b c t h w", b=call["B"]) if expected.ndim == 5 else seen[key]
        ledger.check(f"{name}.inter.{key}", value)
    ledger.check(f"{name}.y", y)
    ledger.close(f"{name}.")


@pytest.mark.parametrize(("golden", "call"), TRAJECTORIES, ids=ids(TRAJECTORIES))
def test_trajectory(golden: Fixture, call: dict[str, Any]):
    name, steps, ledger = call["name"], list[SamplerStep](), Ledger(golden)
    denoise, _ = recorded(load(golden.meta["state_from"]["unet"]))
    text, uncond, fps, x_T = (golden.given(f"{name}.{key}") for key in ("cond", "uncond", "fps", "x_T"))
    if call["two_prompts"]:
        frames = call["F"]
        text = by_frame(text, (0, frames // 2), frames, blend=frames - 2 * (3 * frames // 8))[None]
        both = torch.cat([text, text[:, -1:].expand(-1, call["F"], -1, -1)])
        ledger.check(f"{name}.frame_context", both)
    sampler = FreeNoiseSampler(
        steps=call["S"], guidance=call["cfg_scale"], eta=call["eta"], window=call["W"], stride=call["s"]
    )
    noise = golden.given(f"{name}.noise") if call["eta"] else [torch.zeros_like(x_T)] * call["n_steps"]
    schedule = NoiseSchedule(latent_scale=golden.meta["diffusion"]["scale_b"])
    sides = Conditioning(text, fps), Conditioning(uncond, fps)
    final = DDIMSampler.sample(sampler, x_T, replayed(denoise, *sides, noise, schedule, steps.append))
    assert len(steps) == call["n_steps"]
    ledger.check(f"{name}.timesteps_visited", torch.tensor([step.timestep for step in steps]))
    ledger.check(f"{name}.x_prev", torch.stack([step.x for step in steps]))
    ledger.check(f"{name}.pred_x0", torch.stack([step.predicted_x0 for step in steps]))
    ledger.check(f"{name}.final", final)
    ledger.close(f"{name}.")

"""FIFO-Diffusion against its published code: a timestep per frame, and the queue through all of its iterations."""

from typing import Any

import pytest
import torch
from torch import Tensor

from perturb.diffusion import Conditioning, DDIMSampler, NoiseSchedule
from perturb.diffusion.fifo import FIFOSampler, shifted
from tests.golden.golden_fixtures import fixtures, requires_fixtures
from tests.golden.golden_networks import each_call, ids, load, recorded, run
from tests.parity.fixtures import Fixture
from tests.parity.models import Ledger
from tests.unit.sampler_case import replayed

pytestmark = requires_fixtures
NETWORKS = each_call(*fixtures("fifo_unet"))
QUEUES = each_call(*fixtures("fifo"))


@pytest.mark.parametrize(("golden", "call"), NETWORKS, ids=ids(NETWORKS))
def test_network(golden: Fixture, call: dict[str, Any]):
    name, ledger, unet = call["name"], Ledger(golden), load(golden.name)
    x, text, t, fps = (golden.given(f"{name}.{key}") for key in ("x", "context", "timesteps", "fps"))
    t = t if len(t) == len(x) else t[None]  # published: [t] means one per frame; ours is b t
    with torch.no_grad():
        ledger.check(f"{name}.y", run(unet, x, t, Conditioning(text, fps)))
        if name == "equal":
            ledger.check(f"{name}.y", run(unet, x, t[:, 0], Conditioning(text, fps)))
    ledger.close(f"{name}.")


@pytest.mark.parametrize(("golden", "call"), QUEUES, ids=ids(QUEUES))
@pytest.mark.parametrize("windows_per_batch", [None, 1])
def test_queue(golden: Fixture, call: dict[str, Any], windows_per_batch: int | None):
    name, ledger = call["name"], Ledger(golden)
    schedule = NoiseSchedule(latent_scale=golden.meta["diffusion"]["scale_b"])
    sampler = FIFOSampler(
        steps=call["f"] * call["n"],
        guidance=call["cfg_scale"],
        eta=call["eta"],
        window=call["f"],
        partitions=call["n"],
        lookahead=call["lookahead"],
        windows_per_batch=windows_per_batch,
    )
    sampler.check(schedule)
    denoise, seen = recorded(load(golden.meta["state_from"]["unet"]))
    fps = golden.given(f"{name}.fps")
    cond = Conditioning(golden.given(f"{name}.cond"), fps)
    uncond = Conditioning(golden.given(f"{name}.uncond"), fps) if call["cfg_scale"] != 1 else None
    check_base(ledger, call, sampler, denoise, cond, uncond, schedule)

    table = sampler.table(schedule)
    for output, values in (("timesteps", table.timesteps), ("alphas", table.alphas), ("sigmas", table.sigmas)):
        ledger.check(f"{name}.{output}", values)
    draws = golden.given(f"{name}.noise_prepare").unbind(2)
    queue = sampler.prepare(golden.given(f"{name}.video"), replayed(denoise, cond, uncond, draws, schedule))
    ledger.check(f"{name}.queue_init", queue)
    seen.clear()
    queues, frames = [], []
    for i in range(sampler.iterations(call["N"])):
        windows = golden.given(f"{name}.noise_step")[i]
        in_order = [frame for window in windows.flip(0) for frame in window.unbind(2)]
        queue = sampler.iterate(queue, replayed(denoise, cond, uncond, in_order, schedule))
        queues.append(queue)
        frames.append(queue[:, :, sampler.leaves_at])
        queue = shifted(queue, golden.given(f"{name}.noise_shift")[i])
    ledger.check(f"{name}.queue", torch.stack(queues))
    ledger.check(f"{name}.emitted", torch.stack(frames, dim=2))
    sides = seen[0].chunk(1 if uncond is None else 2)
    ledger.check(f"{name}.eps_first_window_cond", sides[0][:1])
    if uncond is not None:
        ledger.check(f"{name}.eps_first_window_uncond", sides[1][:1])
    ledger.close(f"{name}.")


def check_base(  # noqa: PLR0917
    ledger: Ledger,
    call: dict[str, Any],
    sampler: FIFOSampler,
    denoise: Any,
    cond: Conditioning,
    uncond: Conditioning | None,
    schedule: NoiseSchedule,
):
    """The run that the queue is made from, which does have the latent scale."""
    if call["base"]:
        name, noise = call["name"], ledger.golden.given(f"{call['name']}.base_noise")
        x_T: Tensor = ledger.golden.given(f"{name}.base_x_T")
        final = DDIMSampler.sample(sampler, x_T, replayed(denoise, cond, uncond, noise, schedule))
        ledger.check(f"{name}.base_final", final)

"""DynamiCrafter against its published code: network, image tokens, schedules, loss and whole trajectories."""

from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor

from perturb.diffusion import Conditioning, DDIMSampler, NoiseSchedule, SamplerStep, epsilon_loss
from perturb.diffusion.guidance import rescaled
from perturb.diffusion.prediction import clean_and_noise
from perturb.diffusion.schedule import latent_scale_table
from perturb.models.videocrafter.image import at_frames
from perturb.models.videocrafter.keymap.unet import PROJECTOR_PREFIX, projector_official_to_ours
from perturb.models.videocrafter.spec import ResamplerSpec
from perturb.nn import Resampler
from tests.golden.golden_fixtures import fixture, fixtures, requires_fixtures
from tests.golden.golden_networks import each_call, ids, load, record, recorded, run
from tests.parity.fixtures import Fixture
from tests.parity.models import Ledger
from tests.unit.sampler_case import replayed

pytestmark = requires_fixtures
TEXT_TOKENS, IMAGE_TOKENS = 77, 16
NETWORKS = each_call(*fixtures("dc_unet"))
SCHEDULES = each_call(*fixtures("dc_schedule"))
TRAJECTORIES = each_call(*fixtures("dc_ddim"))


def split(context: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Text tokens, and image tokens: for each frame where there are 16 of each, else for the whole clip."""
    text, image = context[:, :TEXT_TOKENS], context[:, TEXT_TOKENS:]
    if image.shape[1] == IMAGE_TOKENS * frames:
        image = rearrange(image, "b (t m) d -> b t m d", t=frames)
    return text, image


def schedule_of(diffusion: dict[str, Any]) -> NoiseSchedule:
    return NoiseSchedule(
        latent_scale=diffusion["base_scale"] if diffusion.get("use_dynamic_rescale") else None,
        zero_terminal_snr=diffusion.get("rescale_betas_zero_snr", False),
        prediction=diffusion.get("parameterization", "epsilon"),
    )


SPACING = {"uniform": "uniform", "uniform_trailing": "trailing"}


@pytest.mark.parametrize(("golden", "call"), NETWORKS, ids=ids(NETWORKS))
def test_network(golden: Fixture, call: dict[str, Any]):
    name, ledger, unet = call["name"], Ledger(golden), load(golden.name)
    x, latents, context, t = (golden.given(f"{name}.{key}") for key in ("x", "c_concat", "context", "timesteps"))
    rate = golden.meta["config"]["default_fs"]
    fps = torch.full((call["B"],), rate) if call["fs"] == "omitted" else golden.given(f"{name}.fs")
    text, image = split(context, call["T"])
    wanted = [key.removeprefix(f"{name}.inter.") for key in golden.outputs(f"{name}.inter.")]
    seen = record(unet, wanted)
    with torch.no_grad():
        ledger.check(f"{name}.y", run(unet, x, t, Conditioning(text, fps, image=image, image_latents=latents)))
    for key in wanted:
        ledger.check(f"{name}.inter.{key}", seen[key])
    ledger.close(f"{name}.")


def resampler(golden: Fixture) -> Resampler:
    """The projector, whose queries are those of all frames together."""
    values: dict[str, Any] = dict(golden.meta["config"])
    values["head_dim"] = values.pop("dim_head")
    values["num_queries"] *= values.pop("video_length")
    spec = ResamplerSpec(**values)
    names = projector_official_to_ours(spec)
    network = Resampler(spec)
    network.load_state_dict({names[PROJECTOR_PREFIX + key]: value for key, value in golden.state.items()}, strict=True)
    return network.eval()


@pytest.mark.parametrize("golden", fixtures("dc_resampler"), ids=str)
def test_image_tokens(golden: Fixture):
    ledger, network = Ledger(golden), resampler(golden)
    for call in golden.calls:
        with torch.no_grad():
            ledger.check(f"{call['name']}.y", network(golden.given(f"{call['name']}.x")))
    ledger.close()


@pytest.mark.parametrize(("golden", "call"), SCHEDULES, ids=ids(SCHEDULES))
def test_schedule(golden: Fixture, call: dict[str, Any]):
    name, ledger, schedule = call["name"], Ledger(golden), schedule_of(call["diffusion"])
    ledger.check(f"{name}.alphas_cumprod", schedule.alphas_cumprod)
    ledger.check(f"{name}.betas", schedule.betas)
    if schedule.latent_scale is not None:
        ledger.check(f"{name}.scale_arr", latent_scale_table(schedule.latent_scale, 1400))
    for steps, spacing, eta in call["grids"]:
        table = schedule.ddim_table(steps, eta, spacing=SPACING[spacing], keep_scale=True)  # type: ignore[arg-type]
        stem = f"{name}.{steps}_{spacing}_{eta}"
        for output in golden.outputs(f"{stem}."):
            ledger.check(output, getattr(table, output.removeprefix(f"{stem}.")))
    check_algebra(ledger, call)
    ledger.check(f"{name}.loss", loss(golden, call, schedule))
    ledger.close(f"{name}.")


def check_algebra(ledger: Ledger, call: dict[str, Any]):
    """The published helpers leave the latent scale out."""
    name, golden = call["name"], ledger.golden
    x0, noise, t = (golden.given(f"{name}.{key}") for key in ("x0", "noise", "t"))
    zero = call["diffusion"].get("rescale_betas_zero_snr", False)
    schedule = NoiseSchedule(latent_scale=None, zero_terminal_snr=zero, prediction="v")
    ledger.check(f"{name}.q_sample", schedule.q_sample(x0, t, noise))
    ledger.check(f"{name}.v", schedule.target(x0, t, noise))
    if f"{name}.x0_from_v" in golden.outputs():
        a = schedule.alphas_cumprod[t].reshape(-1, 1, 1, 1, 1)
        clean, eps = clean_and_noise(noise, x0, a, 1.0, "v")
        ledger.check(f"{name}.x0_from_v", clean)
        ledger.check(f"{name}.eps_from_v", eps)


def loss(golden: Fixture, call: dict[str, Any], schedule: NoiseSchedule) -> Tensor:
    name = call["name"]
    unet = load(golden.meta["state_from"]["unet"])
    x0, t, noise, latents, context, fs = (
        golden.given(f"{name}.{key}") for key in ("x0", "t", "noise", "c_concat", "context", "fs")
    )
    text, image = split(context, call["T"])
    cond = Conditioning(text, fs, image=image, image_latents=latents)
    with torch.no_grad():
        losses = epsilon_loss(lambda x, t, cond: run(unet, x, t, cond), schedule, x0, t, noise, cond)
    return losses.mean().reshape(1)


@pytest.mark.parametrize("golden", fixtures("dc_schedule"), ids=str)
def test_guidance_rescale(golden: Fixture):
    cfg, text = golden.given("rescale.cfg"), golden.given("rescale.text")
    golden.check("rescale_cfg", rescaled(cfg, text, golden.meta["rescale_phi"]))
    names = {call["name"] for call in golden.calls}
    assert {golden.call_of(output) or output for output in golden.outputs()} == {*names, "rescale_cfg"}


@pytest.mark.parametrize(("golden", "call"), TRAJECTORIES, ids=ids(TRAJECTORIES))
def test_trajectory(golden: Fixture, call: dict[str, Any]):
    name, steps, ledger = call["name"], list[SamplerStep](), Ledger(golden)
    cond, uncond = sides(ledger, call)
    denoise, outputs = recorded(load(golden.meta["state_from"]["unet"]))
    sampler = DDIMSampler(
        steps=call["S"],
        guidance=call["cfg_scale"],
        eta=call["eta"],
        guidance_rescale=call["guidance_rescale"],
        image_guidance=call["cfg_img"],
        spacing=SPACING[call["timestep_spacing"]],  # type: ignore[arg-type]
        keep_scale=True,
    )
    schedule = schedule_of(golden.meta["diffusion"])
    sampler.check(schedule)
    noise, x_T = golden.given(f"{name}.noise"), golden.given(f"{name}.x_T")
    final = sampler.sample(x_T, replayed(denoise, cond, uncond, noise, schedule, steps.append))
    assert len(steps) == call["n_steps"]
    ledger.check(f"{name}.timesteps_visited", torch.tensor([step.timestep for step in steps]))
    ledger.check(f"{name}.x_prev", torch.stack([step.x for step in steps]))
    # The published prediction holds the factor s'/s already.
    scales = sampler.table(schedule).scale_prev.flip(0).tolist()
    clean = torch.stack([step.predicted_x0 * scale for step, scale in zip(steps, scales, strict=True)])
    ledger.check(f"{name}.pred_x0", clean)
    ledger.check(f"{name}.final", final)
    parts = torch.stack(outputs).chunk(outputs[0].shape[0], dim=1)
    for output, part in zip(("out_cond", "out_uncond", "out_image_only"), parts, strict=False):
        ledger.check(f"{name}.{output}", part)
    ledger.close(f"{name}.")


def sides(ledger: Ledger, call: dict[str, Any]) -> tuple[Conditioning, Conditioning]:
    """What the published script makes of pictures and text; both sides have the same latents and rate."""
    name, golden = call["name"], ledger.golden
    z, project = golden.given(f"{name}.z"), resampler(fixture(golden.meta["state_from"]["resampler"]))
    latents = at_frames(z[:, :, [0, -1] if call["interp"] or call["loop"] else [0]], call["T"])
    ledger.check(f"{name}.c_concat", latents)
    both = []
    for side, text, picture in (("cond", "text", "clip_image"), ("uncond", "text_empty", "clip_zero")):
        with torch.no_grad():
            context = torch.cat([golden.given(f"{name}.{text}"), project(golden.given(f"{name}.{picture}"))], dim=1)
        if f"{name}.context_{side}" in golden.outputs():
            ledger.check(f"{name}.context_{side}", context)
        tokens = split(context, call["T"])
        both.append(Conditioning(tokens[0], torch.tensor([call["fs"]]), image=tokens[1], image_latents=latents))
    return both[0], both[1]

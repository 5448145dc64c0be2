"""Pipelines of diffusers: objectives against their schedulers, calls against the pipelines themselves, groups."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any, cast

import diffusers as published
import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from perturb.diffusion import Conditioning, DDIMSampler
from perturb.diffusion.guidance import beside
from perturb.errors import UserError
from perturb.models.base import Batch
from perturb.models.partition import Partition
from perturb.models.pipelines.calls import answering
from perturb.models.pipelines.groups import partition
from perturb.models.pipelines.load import empty_system, load_pipeline
from perturb.models.pipelines.model import PipelineModel
from perturb.models.pipelines.objective import Objective, edm, flow, objective, variance_preserving
from perturb.models.pipelines.sampler import PipelineSampler
from perturb.models.pipelines.schedule import PipelineSchedule
from perturb.study.fit_data import FitConfig, FitData
from tests.unit.fit_stills import Stills
from tests.unit.tiny_pipelines import FAMILIES, SIZE, save

diffusers: Any = published
SVD = {"timestep_type": "continuous", "use_karras_sigmas": True, "sigma_min": 0.002, "sigma_max": 700.0}
SCHEDULERS = {
    "ddim": diffusers.DDIMScheduler(clip_sample=False),
    "ddim_v": diffusers.DDIMScheduler(clip_sample=False, prediction_type="v_prediction", rescale_betas_zero_snr=True),
    "ddim_x0": diffusers.DDIMScheduler(clip_sample=False, prediction_type="sample"),
    "euler": diffusers.EulerDiscreteScheduler(),
    "euler_v": diffusers.EulerDiscreteScheduler(prediction_type="v_prediction"),
    "svd": diffusers.EulerDiscreteScheduler(prediction_type="v_prediction", timestep_spacing="leading", **SVD),
    "cogvideox": diffusers.CogVideoXDDIMScheduler(
        prediction_type="v_prediction", snr_shift_scale=1.0, rescale_betas_zero_snr=True, timestep_spacing="trailing"
    ),
    "edm": diffusers.EDMEulerScheduler(),
    "edm_v": diffusers.EDMEulerScheduler(prediction_type="v_prediction"),
    "flow": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "wan": diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipelines")


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[str, PipelineModel]:
    """Every family, loaded."""
    plain = {"latte": {"clean_caption": False}}
    return {name: load_pipeline(str(save(name, folder)), arguments=plain.get(name, {})) for name in FAMILIES}


def at(scheduler: Any, told: Tensor) -> Objective:
    """The objective at the one noise level at which a network is told ``told``."""
    kind, t, config = objective(scheduler), told.double().reshape(1), scheduler.config
    if kind.name == "edm":
        return edm((4 * t).exp(), config.get("sigma_data", 1.0), 1 if config["prediction_type"] == "epsilon" else -1)
    if kind.name == "flow":
        return flow(t / 1000, 1000)
    return variance_preserving(scheduler.alphas_cumprod[t.long()].double(), config["prediction_type"])


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_network_that_says_the_target_is_led_by_the_scheduler_to_x0(name: str):
    """What the network sees at each step is taken for signal x_0 + noise ε, and answered with the target of that ε."""
    scheduler = SCHEDULERS[name]
    scheduler.set_timesteps(5)
    x0 = torch.randn(1, 4, 3, 2, 2)
    x = torch.randn_like(x0) * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        o = at(scheduler, t)
        noise = (seen - o.signal * x0) / o.noise
        x = scheduler.step(o.say_noise * noise - o.say_clean * x0, t, x).prev_sample
    torch.testing.assert_close(x, x0, atol=2e-3, rtol=2e-3)


def test_the_numbers_of_the_objectives_are_those_computed_by_hand():
    o = edm(torch.tensor([2.0]), 0.5, 1)  # c_in = 1/√4.25
    c_in = 4.25**-0.5
    torch.testing.assert_close(torch.stack([o.signal, o.noise]).flatten(), torch.tensor([c_in, 2 * c_in]))
    x0, noise = 0.7, -1.1
    skip, out = 0.25 / 4.25, 2 * 0.5 * c_in
    assert float(o.say_noise * noise - o.say_clean * x0) == pytest.approx((x0 - skip * (x0 + 2 * noise)) / out)
    assert float(o.told) == pytest.approx(0.1732868)
    svd, v = edm(torch.tensor([0.75]), 1.0, -1), variance_preserving(torch.tensor([0.64]), "v_prediction")
    for field in ("signal", "noise", "say_noise", "say_clean"):  # ᾱ = 1/(1 + 0.75²) = 0.64
        torch.testing.assert_close(getattr(svd, field), getattr(v, field))
    shifted = objective(SCHEDULERS["wan"])
    assert float(shifted.noise[499]) == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))
    assert float(shifted.told[499]) == pytest.approx(750)
    drawn = objective(SCHEDULERS["svd"])
    log_sigma = 4 * drawn.told
    assert float(log_sigma.median()) == pytest.approx(0.7, abs=0.01)
    assert float(log_sigma.std()) == pytest.approx(1.6, abs=0.02)
    with pytest.raises(UserError, match="what DDIMScheduler with prediction_type=none trains is not known"):
        objective(diffusers.DDIMScheduler(prediction_type="none"))


def conditioning(model: PipelineModel, size: int, *texts: str) -> Conditioning:
    image = torch.linspace(-1, 1, 3 * size * size).reshape(1, 3, size, size) if model.takes_image else None
    return model.conditioning(texts, 8, image)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_perfect_network_has_no_loss(name: str, models: dict[str, PipelineModel]):
    model, (size, frames) = models[name], SIZE[name]
    x0, noise = torch.randn(2, 2, *model.latent_shape(frames, size, size))
    t = torch.tensor([120, 900])
    cond = conditioning(model, size, "a red circle", "a blue star moving up")
    cond = Conditioning.concat([cond.index([0]), beside(model.unconditional(1, 8), cond.index([1]))])
    target, seen = model.schedule.target(x0, t, noise), []

    def perfect(**given: Any) -> tuple[Tensor]:
        x = given["sample" if "sample" in given else "hidden_states"]
        torch.testing.assert_close(
            model._ours(x)[:, : x0.shape[1]], model.schedule.q_sample(x0, t, noise)[len(seen)][None]
        )
        seen.append(float(given["timestep"].flatten()[0]))
        return (torch.cat([model._theirs(target[len(seen) - 1])] * 2, model.channel_axis),)

    batch = Batch(x0, t, noise, cond)
    with answering(model.network, perfect):
        torch.testing.assert_close(model.loss(batch), torch.zeros(2))
    told = model.objective.told[t].tolist()
    assert seen == pytest.approx(told, abs=1.0 if model.objective.name == "flow" else 1e-5)  # UniPC's are whole
    assert model.loss(batch).min() > 0.1


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_network_is_told_is_what_the_pipeline_tells_it(name: str, models: dict[str, PipelineModel]):
    """`denoise` of both sides, guided by hand, is the first step that the guided pipeline makes of its network."""
    model, (size, frames) = models[name], SIZE[name]
    cond = conditioning(model, size, "a red circle")
    x = torch.randn(1, *model.latent_shape(frames, size, size))
    said, seen = [], []
    forward = model.network.forward

    def listen(*given: Any, **named: Any) -> Any:
        said.append(forward(*given, **named)[0])
        seen.append((given or tuple(named.values()))[0])
        return (said[-1],)

    request = dataclasses.replace(cond.asked[0], calls={})
    generator, scale = torch.Generator().manual_seed(0), 3.0
    with answering(model.network, listen):
        model.sample(x[0], request, None, generator=generator, steps=1, guidance=scale)
    first = model.pipeline.scheduler.timesteps[0]
    o, schedule = model.objective, cast(PipelineSchedule, model.schedule)
    level = (o.told - first).abs().argmin()[None]
    schedule.objective = dataclasses.replace(o, told=first.expand(len(o.told)))
    try:
        channels = x.shape[1]
        shown = torch.cat([model._ours(rows[:1]) for rows in seen])[:1, :channels]
        other = beside(model.unconditional(1, 8), cond)
        ours = [model.denoise(shown, level, side) for side in (other, cond)]
    finally:
        schedule.objective = o
    theirs = list(said[0].chunk(2)) if len(said) == 1 else said[::-1]
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, model._ours(its)[:, :channels].float(), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(ours[0], ours[1], atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_clips_are_decoded_as_the_pipeline_decodes_them(name: str, models: dict[str, PipelineModel]):
    model, (size, frames) = models[name], SIZE[name]
    cond, shape = conditioning(model, size, "a red circle"), model.latent_shape(frames, size, size)
    x = torch.randn(2, *shape)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    sampler = PipelineSampler(steps=2).resolved(model.sampling)
    sampler.check(model.schedule, frames)
    told, uncond = cond.index([0, 0]), model.unconditional(1, 8).index([0, 0])
    latents = sampler(model.denoise, x, told, uncond, generators, model.schedule)
    picture = (
        {
            "image": published.image_processor.VaeImageProcessor.numpy_to_pil(  # pyright: ignore
                (rearrange(cond.asked[0].image, "c h w -> 1 h w c").numpy() + 1) / 2
            )[0]
        }
        if model.takes_image
        else {}
    )
    given = {
        "prompt": "a red circle",
        "num_frames": frames,
        "video_length": frames,
        "fps": 8,
        "target_fps": 8,
    } | picture
    given |= {"height": size, "width": size, "latents": model._theirs(x[1]), "num_inference_steps": 2}
    given |= {"generator": torch.Generator().manual_seed(2), "output_type": "pt"} | model.arguments
    torch.manual_seed(2)
    theirs = model.pipeline(**{key: value for key, value in given.items() if key in model.parameters}).frames
    ours = (model.decode(latents)[1:] / 2 + 0.5).clamp(0, 1)
    assert ours.shape == (1, 3, frames, size, size)
    torch.testing.assert_close(rearrange(ours, "b c t h w -> b t c h w"), theirs.float(), atol=3e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["wan", "latte"])
def test_latents_are_scaled_as_the_autoencoder_says(name: str, models: dict[str, PipelineModel]):
    model, (size, frames) = models[name], SIZE[name]
    video = torch.rand(1, 3, frames, size, size) * 2 - 1
    mean, std = model.posterior(video)
    with torch.no_grad():
        if name == "wan":
            latent = model.pipeline.vae.encode(video).latent_dist
            m, d = (
                rearrange(torch.tensor(model.pipeline.vae.config[f"latents_{key}"]), "c -> c 1 1 1")
                for key in ("mean", "std")
            )
            expected = (latent.mean - m) / d, latent.std / d
        else:
            latent = model.pipeline.vae.encode(video[0, :, 2][None]).latent_dist
            expected, mean, std = (0.5 * latent.mean, 0.5 * latent.std), mean[:, :, 2], std[:, :, 2]
    torch.testing.assert_close((mean, std), expected)


def meta(kind: Any, **settings: Any) -> nn.Module:
    with torch.device("meta"):
        return kind(**settings)


def test_full_size_networks_have_the_groups_that_their_names_and_papers_say():
    svd = partition(meta(diffusers.UNetSpatioTemporalConditionModel))
    latte = partition(
        meta(
            diffusers.LatteTransformer3DModel,
            num_attention_heads=16,
            attention_head_dim=72,
            in_channels=4,
            out_channels=8,
            num_layers=28,
            cross_attention_dim=1152,
            sample_size=64,
            patch_size=2,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            caption_channels=4096,
            attention_bias=True,
            num_embeds_ada_norm=1000,
        )
    )
    i2vgen = partition(meta(diffusers.I2VGenXLUNet))
    temporal = r"temporal|time_mixer|time_pos_embed|temp_|transformer_in"
    for found in (svd, latte, i2vgen):
        named = {name for name in found.shapes if re.search(temporal, name) and not name.startswith("image_latents")}
        assert set(found.names("temporal")) == named
        assert all("embedding" in name or "adaln" in name or "caption" in name for name in found.names("conditioning"))
        assert not any(
            re.search(r"time_embedding|add_embedding|fps|caption|image", name) for name in found.names("spatial")
        )
    assert svd.count("temporal") == 656_076_838  # "656M", Blattmann et al. 2023 (arXiv 2311.15127), appendix
    image_model, time_embedding, image_channels = 865_910_724, 2_050_560, 4 * 320 * 9  # Stable Diffusion 2.1's UNet
    assert svd.count("spatial") == i2vgen.count("spatial") == image_model - time_embedding + image_channels


def test_latte_without_its_temporal_blocks_does_not_read_the_temporal_group(models: dict[str, PipelineModel]):
    network: Any = models["latte"].network
    x, text = torch.randn(1, 4, 4, 8, 8), torch.randn(1, 3, 16)
    with torch.no_grad():
        run = lambda: network(x, torch.tensor([5]), text, enable_temporal_attentions=False).sample  # noqa: E731
        before = run()
        kept = {name: parameter.clone() for name, parameter in network.named_parameters()}
        for name in models["latte"].partition().names("temporal"):
            network.get_parameter(name).add_(1.0)
        assert torch.equal(run(), before)
        network.get_parameter(models["latte"].partition().names("spatial")[0]).add_(1.0)
        assert not torch.equal(run(), before)
        for name, value in kept.items():
            network.get_parameter(name).copy_(value)


def test_networks_without_separate_time_take_the_groups_of_the_user(models: dict[str, PipelineModel]):
    for name in ("wan", "cogvideox"):
        with pytest.raises(UserError, match="name groups of your own by patterns"):
            models[name].partition()
    groups = Partition.named(models["wan"].network, {"attention": r"\.attn1\.", "rest": r"^(?!.*\.attn1\.)"})
    assert groups.count("attention") == 2 * (4 * (24 * 24 + 24) + 2 * 24)


def test_a_repeated_still_is_encoded_as_a_clip_where_the_autoencoder_shortens_it(
    models: dict[str, PipelineModel],
):
    images = Stills(as_video="repeat")
    for name, latents in (("wan", 2), ("cogvideox15", 4)):
        size, frames = SIZE[name]
        data = FitData(models[name], images, FitConfig(batch_size=1, height=size, width=size, frames=frames))
        x0, noise, _, _ = data.sample("fit", 0, 0, 0)
        assert x0.shape == noise.shape == models[name].latent_shape(frames, size, size)
        assert x0.shape[1] == latents
        still = FitData(models[name], Stills(), FitConfig(batch_size=1, height=size, width=size))
        assert still.sample("fit", 0, 0, 0)[0].shape[1] == (2 if name == "cogvideox15" else 1)


def test_a_folder_with_another_weight_is_refused_and_without_weights_tells_its_groups(
    models: dict[str, PipelineModel], folder: Path, tmp_path: Path
):
    copied = tmp_path / "svd"
    shutil.copytree(folder / "svd", copied)
    file = copied / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    kept = weights.pop("conv_in.bias")
    save_file(weights, file)
    with pytest.raises(UserError, match=r"do not fit UNetSpatioTemporalConditionModel: .*missing_keys.*conv_in\.bias"):
        load_pipeline(str(copied))
    save_file(weights | {"conv_in.bias": kept * torch.inf}, file)
    with pytest.raises(UserError, match="1 tensors hold NaN or infinity"):
        load_pipeline(str(copied))
    file.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        load_pipeline(str(copied))
    assert empty_system(str(copied), device="meta").partition() == models["svd"].partition()
    index = copied / "model_index.json"
    changed = json.loads(index.read_text()) | {"scheduler": ["mine", "Mine"]}
    index.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="is a Mine of mine; allowed: classes of diffusers and transformers"):
        load_pipeline(str(copied))


def test_mistakes_are_named(models: dict[str, PipelineModel], folder: Path, tmp_path: Path):
    latte, svd, wan = models["latte"], models["svd"], models["wan"]
    with pytest.raises(UserError, match="use sampler=pipeline"):
        DDIMSampler().resolved(latte.sampling).check(latte.schedule, 4)
    with pytest.raises(UserError, match="for system=diffusers alone"):
        PipelineSampler(steps=2, guidance=1.0).check(object())  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="6 frames do not fit WanPipeline; allowed: 1 more than multiples of 4"):
        wan.latent_shape(6, 32, 32)
    with pytest.raises(UserError, match="5 frames do not fit CogVideoXPipeline; allowed: 1 more than multiples of 8"):
        models["cogvideox"].latent_shape(5, 32, 32)
    with pytest.raises(UserError, match="8 frames do not fit LattePipeline; allowed: 4, or 1"):
        latte.latent_shape(8, 16, 16)
    with pytest.raises(UserError, match="needs a conditioning image"):
        svd.conditioning(["a red circle"], 8)
    with pytest.raises(UserError, match="takes no negative prompt"):
        svd.unconditional(1, 8, "blur")
    long = " ".join(["red"] * 130)
    with pytest.raises(UserError, match="b and c are the same 120 tokens"):
        latte.check_prompts({"a": "a red circle", "b": long, "c": long + " star"})
    with pytest.raises(UserError, match=r"fit.gradient_checkpointing=false"):
        models["i2vgen"].gradient_checkpointing = True
    with pytest.raises(UserError, match=r"system.arguments has motion; allowed: .*motion_bucket_id"):
        PipelineModel(svd.pipeline, {}, {"motion": 3})
    with pytest.raises(UserError, match="has no model_index"):
        load_pipeline(str(tmp_path))

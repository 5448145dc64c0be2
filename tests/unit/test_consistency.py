"""The consistency sampler: what it returns, what it draws, and what it tells the network."""

import dataclasses

import pytest
import torch
from torch import Tensor

from perturb.diffusion import Conditioning, NoiseSchedule, SamplerStep, sample_generator
from perturb.diffusion.consistency import ConsistencySampler, boundary_scalings
from perturb.errors import UserError
from perturb.models.partition import Partition
from perturb.models.videocrafter.published import get_spec
from perturb.models.videocrafter.spec import ModelSpec
from perturb.nn import VideoUNet
from tests.unit.nn_case import awake
from tests.unit.sampler_case import SHAPE, Knowing, conditioning, noises

SCHEDULE = NoiseSchedule(latent_scale=0.7)


def test_the_result_is_the_last_clean_latent_and_not_the_last_x():
    still, steps = noises(SHAPE, "still"), list[SamplerStep]()
    sampler = ConsistencySampler(steps=4)
    sampler.check(SCHEDULE)
    generators = [sample_generator(i) for i in range(2)]
    denoise = Knowing(still, SCHEDULE, scale=False)  # published: no latent scale
    found = sampler(denoise, noises(SHAPE, "x"), conditioning(2), None, generators, SCHEDULE, steps.append)
    torch.testing.assert_close(found, still, rtol=1e-3, atol=1e-3)
    assert [step.timestep for step in steps] == [999, 749, 499, 249]
    a = float(SCHEDULE.alphas_cumprod[249])
    twin = [sample_generator(i) for i in range(2)]
    draws = [[torch.randn(SHAPE, generator=g) for _ in range(4)] for g in twin]  # the last step draws too
    noise = torch.stack([row[-1] for row in draws])
    torch.testing.assert_close(steps[-1].x, a**0.5 * still + (1 - a) ** 0.5 * noise, rtol=1e-3, atol=1e-3)
    assert all(torch.equal(g.get_state(), t.get_state()) for g, t in zip(generators, twin, strict=True))


def test_one_step_draws_nothing():
    still, generator = noises(SHAPE, "still", count=1), sample_generator(0)
    before = generator.get_state()
    sampler = ConsistencySampler(steps=1)
    sampler(Knowing(still, SCHEDULE), noises(SHAPE, "x", count=1), conditioning(1), None, [generator], SCHEDULE)
    assert torch.equal(generator.get_state(), before)


def test_scales_are_inputs_and_motion_ends_early():
    told = list[tuple[float, float]]()

    def watching(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        assert cond.guidance is not None
        assert cond.motion is not None
        told.append((float(cond.guidance[0]), float(cond.motion[0])))
        return x

    sampler = ConsistencySampler(steps=8, guidance=9.0, motion=0.5, motion_share=0.3)
    sampler(watching, noises(SHAPE, "x"), conditioning(2), None, [sample_generator(i) for i in range(2)], SCHEDULE)
    assert sampler.work(3).forwards == len(told) == 8
    # 999 874 749 | 624 … : at t ≥ 700
    assert told == [(9.0, 0.5)] * 3 + [(9.0, 0.0)] * 5


def test_boundary():
    assert boundary_scalings(0) == (1, 0)
    skip, out = boundary_scalings(0.05)  # 10 t = 0.5 = σ
    assert (skip, out) == (pytest.approx(0.5), pytest.approx(0.5**0.5))


def test_what_is_refused():
    assert ConsistencySampler().resolved(get_spec("t2v_512_v2").sampling) == ConsistencySampler()
    for changes, message in (
        ({"steps": 300}, "sampler.steps is 300 and sampler.origin_steps 200"),
        ({"steps": 0}, "steps is 0; allowed: a whole number from 1"),
        ({"motion": float("nan")}, "motion is nan"),
        ({"motion_share": 1.5}, "motion_share is 1.5; allowed: from 0 to 1"),
    ):
        with pytest.raises(UserError, match=message.replace(".", r"\.")):
            dataclasses.replace(ConsistencySampler(), **changes).check(SCHEDULE)
    with pytest.raises(UserError, match="where ᾱ is 0"):
        ConsistencySampler().check(NoiseSchedule(latent_scale=None, zero_terminal_snr=True))


def test_a_network_not_distilled_from_guidance_says_so(tiny_spec: ModelSpec):
    unet = tiny_spec.build_unet()
    x, t, text = torch.zeros(1, 4, 2, 4, 4), torch.tensor([5]), torch.zeros(1, 16, 32)
    with pytest.raises(UserError, match="distilled from guidance"):
        unet(x, t, text, 8, guidance=torch.tensor([7.5]))
    distilled = dataclasses.replace(tiny_spec, unet=dataclasses.replace(tiny_spec.unet, guidance_dim=8)).build_unet()
    with pytest.raises(UserError, match="motion_cond"):
        distilled(x, t, text, 8, guidance=torch.tensor([7.5]), motion=torch.tensor([0.1]))


def test_the_guidance_embedding_is_conditioning_and_written_only_where_it_is(tiny_spec: ModelSpec):
    spec = dataclasses.replace(tiny_spec, unet=dataclasses.replace(tiny_spec.unet, guidance_dim=8, motion_cond=True))
    unet = awake(spec.build_unet())
    assert isinstance(unet, VideoUNet)
    names = [name for name in Partition.of(unet).names("conditioning") if "guidance" in name]
    assert names == [f"guidance_embedding.{part}.weight" for part in ("guidance", "motion", "combine")]
    assert spec.to_dict()["unet"]["guidance_dim"] == 8
    assert ModelSpec.from_dict(spec.to_dict()) == spec
    assert "guidance_dim" not in tiny_spec.to_dict()["unet"]

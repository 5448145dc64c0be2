"""ScaleCrafter: a factor of 1 is the base, convolutions are as they were afterwards, factors by hand."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from perturb.data.prompts import Prompt
from perturb.diffusion import Conditioning, DDIMSampler, NoiseSchedule, draw, sample_generator
from perturb.diffusion.scalecrafter import ScaleCrafterSampler, factors
from perturb.errors import UserError
from perturb.models.videocrafter.published import get_spec
from perturb.models.videocrafter.system import VideoSystem
from perturb.nn import dilated, redilated_conv2d
from perturb.nn.dilation import chosen_convolutions
from perturb.study.sample import Generator, SampleConfig
from tests.unit.sampler_case import noises, told, toy_denoise

LAYERS = {"down.1.*": 2.0, "middle.*": 2.0}


def sample(system: VideoSystem, sampler: DDIMSampler) -> Tensor:
    generators = [sample_generator("clip", i) for i in range(2)]
    return sampler(system.denoise, draw((4, 2, 8, 8), generators), *told(system), generators, system.schedule)


def test_a_factor_of_one_is_the_base_and_two_is_not(tiny_system: VideoSystem):
    plain = sample(tiny_system, DDIMSampler(steps=4, guidance=3.0, eta=0.0))
    sampler = ScaleCrafterSampler(steps=4, guidance=3.0, eta=0.0, dilated_steps=2)
    assert torch.equal(sample(tiny_system, dataclasses.replace(sampler, dilation=dict.fromkeys(LAYERS, 1.0))), plain)
    assert torch.equal(sample(tiny_system, dataclasses.replace(sampler, dilation=LAYERS, dilated_steps=0)), plain)
    wider = sample(tiny_system, dataclasses.replace(sampler, dilation=LAYERS))
    assert (wider - plain).abs().max() > 1e-3
    assert not any("forward" in vars(module) for module in tiny_system.unet.modules())
    # Equal factors on both sides: damped guidance is guidance.
    damped = dataclasses.replace(sampler, dilation=LAYERS, damped_dilation=LAYERS, damped_steps=2)
    torch.testing.assert_close(sample(tiny_system, damped), wider, rtol=1e-3, atol=1e-4)
    less = dataclasses.replace(damped, damped_dilation={"middle.*": 2.0})
    assert (sample(tiny_system, less) - wider).abs().max() > 1e-3


def test_dilation_acts_on_3x3_convolutions_in_space_alone(tiny_system: VideoSystem):
    chosen = chosen_convolutions(tiny_system.unet, {"*": 2.0, "middle.*": 4.0})
    assert {type(conv) for conv, _ in chosen.values()} == {nn.Conv2d}
    assert {conv.kernel_size for conv, _ in chosen.values()} == {(3, 3)}
    assert not any("temporal" in name for name in chosen)
    assert {"conv_in", "conv_out", "down.0.resample.conv", "middle.resblock.conv_in"} <= chosen.keys()
    assert {factor for name, (_, factor) in chosen.items() if name.startswith("middle.")} == {4.0}
    assert {factor for name, (_, factor) in chosen.items() if not name.startswith("middle.")} == {2.0}


def test_convolutions_are_as_before_also_after_an_error():
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 1))
    x = torch.randn(1, 1, 8, 8)
    plain = net(x)

    def fail() -> None:
        with dilated(net, {"0": 2.0}):
            assert not torch.equal(net(x), plain)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert torch.equal(net(x), plain)
    with pytest.raises(UserError, match=r"no 3×3 convolution fits '1'; the first ones are 0"), dilated(net, {"1": 2}):
        pass
    with pytest.raises(UserError, match=r"dilation of '0' is 0\.5"), dilated(net, {"0": 0.5}):
        pass


def test_a_dilated_impulse_by_hand():
    """A kernel that shifts by one position shifts by two."""
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[0, 0, 1, 0] = 1.0  # y[h, w] = x[h, w − d]
    x = torch.zeros(1, 1, 5, 6)
    x[0, 0, 2, 1] = 1.0
    for factor in (1, 2, 4):
        y = redilated_conv2d(x, kernel, None, stride=1, factor=factor)
        assert y.nonzero().tolist() == [[0, 0, 2, 1 + factor]]
    flat = redilated_conv2d(torch.ones(1, 1, 9, 9), torch.full((1, 1, 3, 3), 1 / 9), None, stride=1, factor=1.5)
    assert flat.shape == (1, 1, 9, 9)
    torch.testing.assert_close(flat[..., 3:-3, 3:-3], torch.ones(1, 1, 3, 3))


def test_factors_shrink_but_stay_two_where_progressive():
    listed = {"a": 4.0, "b": 1.0}
    assert [factors(listed, i, 4, progressive=True) for i in range(5)] == [
        {"a": 4, "b": 2},
        {"a": 3, "b": 2},
        {"a": 2, "b": 2},
        {"a": 2, "b": 2},
        None,
    ]
    assert factors(listed, 3, 4, progressive=False) == listed
    assert factors({}, 0, 4, progressive=True) is None


def test_the_damped_side_is_the_unconditional_one_alone():
    seen = list[tuple[int, object]]()

    def watching(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        seen.append((len(x), cond.dilation))
        return toy_denoise(x, t, cond)

    sampler = ScaleCrafterSampler(
        steps=4,
        guidance=3.0,
        eta=0.0,
        dilation={"a": 3.0},
        dilated_steps=3,
        damped_dilation={"a": 2.0},
        damped_steps=1,
    )
    x_T = noises((4, 2, 2, 2), "x", count=1)
    cond, uncond = (Conditioning(torch.randn(1, 5, 4), torch.tensor([8])) for _ in range(2))
    sampler(watching, x_T, cond, uncond, [torch.Generator()], NoiseSchedule(latent_scale=None))
    assert sampler.work(2).forwards == sum(rows for rows, _ in seen)
    assert seen == [(1, {"a": 2.0}), (2, {"a": 3.0}), (2, {"a": 3.0}), (2, {"a": 3.0}), (2, None)]


def test_the_manifest_says_that_the_layers_are_an_extrapolation(tiny_system: VideoSystem):
    sampler = ScaleCrafterSampler(steps=4, dilation=LAYERS)
    make = Generator(tiny_system, sampler, [Prompt("p000", "a red circle")], SampleConfig(), image=None)
    assert "origin='extrapolated from Stable Diffusion 2.1 at 1024²'" in make.describe()["sampler"]


def test_what_is_refused():
    schedule = NoiseSchedule(latent_scale=None)
    base = ScaleCrafterSampler(steps=4, guidance=3.0, eta=0.0, dilation={"middle.*": 2.0})
    base.resolved(get_spec("t2v_512_v2").sampling).check(schedule)
    for changes, message in (
        ({"dilation": {"middle.*": 0.5}}, r"sampler\.dilation\.middle\.\* is 0\.5; allowed: a number from 1"),
        ({"dilated_steps": -1}, "dilated_steps is -1; allowed: a whole number from 0"),
        ({"damped_steps": 2, "guidance_rescale": 0.7}, "goes with a plain sampler.guidance only"),
    ):
        with pytest.raises(UserError, match=message):
            dataclasses.replace(base, **changes).check(schedule)

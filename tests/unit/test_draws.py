"""What is random in a sample: one function of the stream's name and (seed, step, place)."""

import torch

from perturb.diffusion.draws import Shuffled, draw_sample, epoch_order
from perturb.diffusion.noise import sample_generator

SETTINGS = {"timesteps": 1000, "text_dropout": 0.5, "latent": (4, 1, 2, 2)}


def test_a_sample_is_drawn_in_this_order_from_its_own_generator():
    drawn = draw_sample("fit", 3, 7, 2, **SETTINGS, frames=3, offset_noise=0.1)
    generator = sample_generator("fit", 3, 7, 2)
    assert torch.equal(drawn.timestep, torch.randint(1000, (), generator=generator))
    assert drawn.dropped == bool(torch.rand((), generator=generator) < 0.5)
    assert torch.equal(drawn.posterior, torch.randn(4, 1, 2, 2, generator=generator))
    noise = torch.randn(4, 3, 2, 2, generator=generator)
    shift = torch.randn(1, 4, 1, 1, 1, generator=generator)[0]  # one for each channel, see `offset`
    torch.testing.assert_close(drawn.noise, noise + 0.1 * shift)
    assert torch.equal(draw_sample("fit", 3, 7, 2, **SETTINGS, frames=3).noise, noise)


def test_streams_seeds_steps_and_places_are_told_apart():
    places = [("fit", 3, 7, 2), ("train", 3, 7, 2), ("fit", 4, 7, 2), ("fit", 3, 8, 2), ("fit", 3, 7, 3)]
    assert len({float(draw_sample(*place, **SETTINGS).noise.flatten()[0]) for place in places}) == len(places)


def test_epochs_follow_one_another_each_in_its_own_order():
    order = Shuffled(5, seed=1)
    positions = [order[i] for i in range(15)]
    assert [sorted(positions[i : i + 5]) for i in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3
    assert positions[5:10] == epoch_order(5, 1, 1).tolist() != positions[:5]
    assert [order[i] for i in (12, 3, 7)] == [positions[i] for i in (12, 3, 7)]  # in any order of asking

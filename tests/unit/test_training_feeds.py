"""Training on samples of a feed: draws that belong to places, what is told of stills and clips, digests, positions."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from perturb.data.source import Sample
from perturb.models.videocrafter.system import VideoSystem
from perturb.training.feeds import FeedBatches, FeedSettings
from tests.unit.training_case import drawn

SETTINGS = FeedSettings(
    seed=5, text_dropout=0.5, offset_noise=0.0, frames=None, still_fps=8, text_ids=False, prefetch=False
)
WORDS = ("a red circle", "a blue square", "a green star")


class MadeUpFeed:
    """Clips of (step, place); counts what it has served, as a feed that reads in order would."""

    def __init__(self, frames: int = 2, fps: float = 7.6, spoilt: int | None = None) -> None:
        self.frames, self.fps, self.spoilt, self.served = frames, fps, spoilt, 0

    def samples(self, step: int, places: Sequence[int]) -> list[Sample]:
        self.served += len(places)
        return [self._sample(step, place) for place in places]

    def _sample(self, step: int, place: int) -> Sample:
        generator = torch.Generator().manual_seed(100 * step + place)
        frames = torch.rand(3, self.frames, 16, 16, generator=generator) * 2 - 1
        if place == self.spoilt:
            frames[0, 0, 0, 0] += 0.5
        return Sample(f"{step}/{place}", frames, WORDS[place % 3], self.fps)

    def state(self) -> dict[str, Any]:
        return {"served": self.served}

    def restore(self, state: dict[str, Any]) -> None:
        self.served = state["served"]

    def describe(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def make(tiny_system: VideoSystem) -> Callable[..., FeedBatches]:
    def made(feed: MadeUpFeed | None = None, **changes: Any) -> FeedBatches:
        return FeedBatches(tiny_system, feed or MadeUpFeed(), replace(SETTINGS, **changes))  # type: ignore[arg-type]

    return made


def test_a_sample_does_not_depend_on_how_its_batch_is_divided(make: Callable[..., FeedBatches]):
    whole = drawn(make(), 3, range(4))
    other = make()
    parts = [drawn(other, 3, range(2, 4)), drawn(other, 3, range(2))]
    for first, second, all_ in zip(parts[1], parts[0], whole, strict=True):
        assert torch.equal(torch.cat([first, second]), all_)


def test_latents_and_draws_are_those_of_the_autoencoder_and_the_place(
    make: Callable[..., FeedBatches], tiny_system: VideoSystem
):
    x0, t, noise, text, fps = drawn(make(), 0, range(3))
    mean, std = tiny_system.posterior(MadeUpFeed()._sample(0, 1).frames[None])
    posterior = (x0[1] / tiny_system.spec.vae.scale_factor - mean[0]) / std[0]
    assert posterior.abs().max() < 6  # standard normal
    assert 0.3 < posterior.std() < 3
    assert fps.tolist() == [8, 8, 8]  # 7.6, rounded
    assert len(set(t.tolist())) > 1
    assert noise.shape == x0.shape
    empty, named = tiny_system.embed([""])[0], tiny_system.embed([WORDS[1]])[0]
    assert torch.equal(text[1], empty) != torch.equal(text[1], named)


def test_half_of_the_captions_are_dropped(make: Callable[..., FeedBatches], tiny_system: VideoSystem):
    _, _, _, text, _ = drawn(make(MadeUpFeed(frames=1)), 0, range(60))
    empty = tiny_system.embed([""])[0]
    assert 15 < sum(torch.equal(row, empty) for row in text) < 45
    _, _, _, text, _ = drawn(make(text_dropout=0.0), 0, range(6))
    assert not any(torch.equal(row, empty) for row in text)


def test_stills_are_told_their_own_rate_and_repeated_when_asked(make: Callable[..., FeedBatches]):
    x0, _, _, _, fps = drawn(make(MadeUpFeed(frames=1, fps=0.0), still_fps=12), 0, range(2))
    assert (x0.shape[2], fps.tolist()) == (1, [12, 12])
    repeated, _, noise, _, _ = drawn(make(MadeUpFeed(frames=1), frames=3), 0, range(2))
    assert torch.equal(repeated, x0.expand_as(repeated))
    assert not torch.equal(noise[:, :, 0], noise[:, :, 1])


def test_the_digest_is_of_what_was_seen_whoever_saw_it(make: Callable[..., FeedBatches]):
    whole = make()
    for step in range(3):
        drawn(whole, step, range(4))
    ranks = [make(), make()]
    for step in range(3):
        for rank, batches in enumerate(ranks):
            drawn(batches, step, range(2 * rank, 2 * rank + 2))
    joined = ranks[0].seen + ranks[1].seen
    assert ranks[0].digest(3, lambda _: joined) == whole.digest(3, list)
    other = make(MadeUpFeed(spoilt=2))
    for step in range(3):
        drawn(other, step, range(4))
    assert other.digest(3, list) != whole.digest(3, list)


def test_a_saved_position_is_that_of_the_samples_that_were_used(make: Callable[..., FeedBatches]):
    straight = make()
    for step in range(3):
        drawn(straight, step, range(2))
    first = make(prefetch=True)
    for step in range(2):
        drawn(first, step, range(2))
        first.expect(step + 1, range(2))
    first.pending[2, range(2)].result()  # the loader is ahead
    state = first.state(list)
    assert state["feed"] == {"served": 4}
    second = make()
    second.restore(state)
    drawn(second, 2, range(2))
    assert second.digest(3, list) == straight.digest(3, list)
    assert second.state(list)["feed"] == {"served": 6}


def test_offset_noise_is_off_unless_asked_for(make: Callable[..., FeedBatches]):
    plain, shifted = (drawn(make(offset_noise=strength), 0, range(2))[2] for strength in (0.0, 0.5))
    difference = shifted - plain
    assert difference.abs().max() > 0.05
    torch.testing.assert_close(difference, difference[:, :, :1, :1, :1].expand_as(difference), rtol=0, atol=1e-5)

"""Feeds: pure functions of (seed, step, place), whole epochs, broken files replaced and counted, stills among clips."""

import json
import logging
from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from perturb.data.breakage import BrokenReport
from perturb.data.feed import FeedConfig, IndexedFeed
from perturb.data.joint_feed import JointFeed
from perturb.data.source import BrokenSample, Sample
from perturb.errors import UserError


class Numbers:
    """``count`` samples that show their own number and one draw of their generator; some of them are broken."""

    def __init__(self, count: int, broken: Sequence[int] = (), still: bool = False) -> None:
        self.count, self.broken, self.still = count, set(broken), still

    def __len__(self) -> int:
        return self.count

    def load(self, index: int, *, frames: int, height: int, width: int, generator: torch.Generator) -> Sample:
        if index in self.broken:
            raise BrokenSample(f"{index}.mp4", "damaged")
        shown = torch.full((3, 1 if self.still else frames, height, width), float(index))
        shown[0, 0, 0, 0] = torch.rand((), generator=generator)
        return Sample(f"{index}.mp4", shown, f"caption {index}", 8.0)

    def describe(self) -> dict:
        return {"count": self.count}


def config(**changes) -> FeedConfig:
    return FeedConfig(**({"seed": 5, "batch_size": 8, "frames": 4, "height": 2, "width": 2} | changes))


def seen(samples: list[Sample]) -> list[tuple[str, float]]:
    """What tells samples apart: which one, and what was drawn for it."""
    return [(sample.key, float(sample.frames[0, 0, 0, 0])) for sample in samples]


def keys(feed: IndexedFeed, steps: Sequence[int], batch: int = 8) -> list[str]:
    return [sample.key for step in steps for sample in feed.samples(step, range(batch))]


@pytest.mark.parametrize("broken", [(), (3, 4, 11)])
def test_a_sample_depends_on_seed_step_and_place_alone(broken: Sequence[int]):
    free = {"max_broken_fraction": 1.0}
    whole = IndexedFeed(Numbers(30, broken), config(**free))
    expected = {step: seen(whole.samples(step, range(8))) for step in range(10)}
    assert len({draw for pairs in expected.values() for _, draw in pairs}) == 80
    # another process: half of the places, steps in another order, several files at a time
    part = IndexedFeed(Numbers(30, broken), config(**free, threads=3))
    for step in (7, 2, 9, 0):
        assert seen(part.samples(step, [4, 5, 6, 7])) == expected[step][4:]
        assert seen(part.samples(step, [1])) + seen(part.samples(step, [3])) == [expected[step][1], expected[step][3]]
    other = IndexedFeed(Numbers(30, broken), config(**free, seed=6))
    assert seen(other.samples(0, range(8))) != expected[0]


def test_every_sample_comes_once_per_epoch_in_another_order_each_time():
    feed = IndexedFeed(Numbers(12), config())
    stream = keys(feed, range(9))  # 72 samples: six epochs, some of which end within a batch
    epochs = [tuple(stream[i : i + 12]) for i in range(0, 72, 12)]
    assert [sorted(epoch) for epoch in epochs] == [sorted(f"{i}.mp4" for i in range(12))] * 6
    assert len(set(epochs)) == 6


def test_broken_files_are_replaced_logged_once_and_counted(caplog: pytest.LogCaptureFixture):
    feed = IndexedFeed(Numbers(20, [7, 13]), config(batch_size=20, max_broken_fraction=0.2))
    whole = IndexedFeed(Numbers(20), config(batch_size=20))
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            found, intended = seen(feed.samples(step, range(20))), seen(whole.samples(step, range(20)))
            hit = [i for i, (key, _) in enumerate(intended) if key in ("7.mp4", "13.mp4")]
            assert [pair for i, pair in enumerate(found) if i not in hit] == [
                pair for i, pair in enumerate(intended) if i not in hit
            ]
            assert all(found[i][0] not in ("7.mp4", "13.mp4") for i in hit)
    assert feed.breakage.report().count == 2
    assert feed.breakage.report().files == {"7.mp4": "damaged", "13.mp4": "damaged"}
    assert feed.breakage.report().tried >= 60 + 6
    assert Counter(record.getMessage() for record in caplog.records) == {
        "left out: 7.mp4: damaged": 1,
        "left out: 13.mp4: damaged": 1,
    }
    # what was counted survives being written as JSON
    resumed = IndexedFeed(Numbers(20, [7, 13]), config(batch_size=20, max_broken_fraction=0.2))
    resumed.restore(json.loads(json.dumps(feed.state())))
    assert resumed.breakage.report() == feed.breakage.report() != BrokenReport(0, 0, {})
    assert seen(resumed.samples(3, range(20))) == seen(feed.samples(3, range(20)))


def test_too_many_broken_files_are_an_error_that_names_them():
    feed = IndexedFeed(Numbers(100, range(0, 100, 10)), config(batch_size=50, max_broken_fraction=0.05))
    with pytest.raises(
        UserError, match=r"\d of \d+ files could not be read, more than max_broken_fraction=0\.05"
    ) as error:
        feed.samples(0, range(50))
    assert any(f"{number}.mp4 (damaged)" in str(error.value) for number in range(0, 100, 10))
    # below twenty tries nothing is known yet
    few = IndexedFeed(Numbers(100, [1]), config(batch_size=100, max_broken_fraction=0.0))
    place = next(p for p in range(100) if few._index(0, p) == 1)
    for _ in range(9):  # two tries each
        few.samples(0, [place])
    with pytest.raises(UserError, match=r"10 of 20 files .*1\.mp4"):
        few.samples(0, [place])


def test_nothing_but_broken_files_ends():
    with pytest.raises(UserError, match="32 files drawn in turn were broken, the last one"):
        IndexedFeed(Numbers(3, range(3)), config(max_broken_fraction=1.0)).samples(0, [0])
    with pytest.raises(UserError, match="20 of 20 files could not be read"):
        IndexedFeed(Numbers(3, range(3)), config()).samples(0, [0])
    with pytest.raises(UserError, match="holds no samples"):
        IndexedFeed(Numbers(0), config())


def test_a_joint_feed_takes_whole_steps_from_stills_or_clips_and_keeps_their_epochs():
    images, videos = IndexedFeed(Numbers(24, still=True), config()), IndexedFeed(Numbers(16), config())
    joint = JointFeed(images, videos, image_share=0.3, seed=9)
    steps = [joint.samples(step, range(8)) for step in range(400)]
    lengths = [{sample.frames.shape[1] for sample in samples} for samples in steps]
    assert all(length in ({1}, {4}) for length in lengths)
    stills = [[s.key for s in samples] for samples, length in zip(steps, lengths, strict=True) if length == {1}]
    clips = [[s.key for s in samples] for samples, length in zip(steps, lengths, strict=True) if length == {4}]
    assert len(stills) == pytest.approx(120, abs=30)
    for found, size in ((stills, 24), (clips, 16)):
        flat = [key for keys_of_step in found for key in keys_of_step]
        epochs = [sorted(flat[i : i + size]) for i in range(0, len(flat) - size, size)]
        assert epochs == [sorted(f"{i}.mp4" for i in range(size))] * len(epochs)
    # a later process begins in the middle, beyond the first block of draws
    late = JointFeed(
        IndexedFeed(Numbers(24, still=True), config()), IndexedFeed(Numbers(16), config()), image_share=0.3, seed=9
    )
    late.restore(json.loads(json.dumps(joint.state())))
    assert seen(late.samples(300, [3, 4])) == seen(steps[300][3:5])
    assert seen(late.samples(9000, range(8))) == seen(joint.samples(9000, range(8)))
    turns = [joint.turn(step) for step in range(10000)]
    for kind in (True, False):
        assert [own for still, own in turns if still is kind] == list(range(sum(still is kind for still, _ in turns)))
    assert JointFeed(images, videos, image_share=1.0, seed=9).turn(77) == (True, 77)
    assert JointFeed(images, videos, image_share=0.0, seed=9).turn(77) == (False, 77)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"max_broken_fraction": 1.5}, {"threads": 0}, {"frames": 0}])
def test_settings_that_cannot_be(wrong: dict):
    with pytest.raises(UserError, match=next(iter(wrong))):
        config(**wrong)

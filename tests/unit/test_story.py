"""One clip at a time: scripts by hand, frames as they come, and the same bytes after a kill."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from perturb.data.prompts import Prompt
from perturb.data.script import Line, load_script
from perturb.diffusion import DDIMSampler, Sampler
from perturb.diffusion.fifo import FIFOSampler
from perturb.diffusion.freenoise import FreeNoiseSampler
from perturb.errors import UserError
from perturb.models.videocrafter.system import VideoSystem
from perturb.study import story
from perturb.study.sample import Generator, SampleConfig
from perturb.study.story import Story, scripted

PROMPTS = [Prompt("line000", "a red circle moving left slowly"), Prompt("line001", "a blue square moving up fast")]
SCRIPT = [Line(0, PROMPTS[0].text), Line(3, PROMPTS[1].text)]
FIFO = FIFOSampler(guidance=2.0, eta=1.0, window=4, partitions=2)


def told(system: VideoSystem, sampler: Sampler, path: Path, script: list[Line] = SCRIPT, seed: int = 0) -> Story:
    generate = Generator(system, sampler, PROMPTS, SampleConfig(frames=6), image=None)
    return Story(generate, scripted(generate.cond, script, 6), "clip", seed, path, 8, {"texts": "two"})


def test_a_script_by_hand(tmp_path: Path):
    path = tmp_path / "story.txt"
    path.write_text("0: a red circle\n\n1.5: a blue square: still\n")
    assert load_script(path, 8) == [Line(0, "a red circle"), Line(12, "a blue square: still")]
    for text, message in (
        ("1: late\n", "line 1 is '1: late'; allowed"),
        ("a red circle\n", "line 1 is 'a red circle'; allowed"),
        ("0: a\n0.01: b\n", "line 2 is '0.01: b'; allowed"),
        ("0: a\n2: b\n1: c\n", "line 3 begins at frame 8, not after"),
        ("\n", "is empty"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message.replace(".", r"\.")):
            load_script(path, 8)
    with pytest.raises(UserError, match="no script"):
        load_script(tmp_path / "none.txt", 8)


def test_each_frame_is_told_its_line(tiny_system: VideoSystem, tmp_path: Path):
    generate = Generator(tiny_system, FIFO, PROMPTS, SampleConfig(frames=6), image=None)
    cond = scripted(generate.cond, SCRIPT, 6)
    assert len(cond) == 1
    assert all(torch.equal(cond.text[0, frame], generate.cond.text[int(frame >= 3)]) for frame in range(6))
    with pytest.raises(UserError, match=r"goes on to frame 3; sample\.frames is 3"):
        scripted(generate.cond, SCRIPT, 3)


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [3, 9, 15])
def test_a_killed_clip_ends_with_the_same_bytes(after: int, tiny_system: VideoSystem, tmp_path: Path):
    whole = told(tiny_system, FIFO, tmp_path / "whole.npy").tell(lambda share: None)
    assert whole.shape == (6, 32, 32, 3)
    cut, calls = told(tiny_system, FIFO, tmp_path / "cut.npy"), list[float]()

    def dying(share: float) -> None:
        calls.append(share)
        if len(calls) == after:  # 8 steps of the base run, then 10 iterations: 4 before the clip begins
            raise Killed

    with pytest.raises(Killed):
        cut.tell(dying)
    assert not cut.path.exists()
    rest = list[float]()
    again = told(tiny_system, FIFO, tmp_path / "cut.npy").tell(rest.append)
    assert np.array_equal(again, whole)
    assert (tmp_path / "cut.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert sum(rest) == pytest.approx(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.mp4", "cut.npy", "whole.mp4", "whole.npy"]


def test_another_clip_does_not_take_the_queue_over(tiny_system: VideoSystem, tmp_path: Path):
    def dying(share: float) -> None:
        raise Killed

    first = told(tiny_system, FIFO, tmp_path / "clip.npy")
    calls = iter(range(12))

    def dying_late(share: float) -> None:
        if next(calls) == 11:
            raise Killed

    with pytest.raises(Killed):
        first.tell(dying_late)
    for changed in (
        told(tiny_system, dataclasses.replace(FIFO, guidance=3.0), tmp_path / "clip.npy"),
        told(tiny_system, FIFO, tmp_path / "clip.npy", seed=1),
        dataclasses.replace(first, identity={"texts": "three"}),
    ):
        with pytest.raises(UserError, match="is the queue of another clip"):
            changed.tell(dying)


def test_the_mp4_grows(tiny_system: VideoSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lengths = list[int]()
    monkeypatch.setattr(story, "SHOW_EVERY", 2)
    monkeypatch.setattr(story, "show_clip", lambda path, frames, fps: lengths.append(len(frames)))
    told(tiny_system, FIFO, tmp_path / "clip.npy").tell(lambda share: None)
    assert lengths == [3, 5, 6]


def test_other_samplers_tell_a_script_in_one_pass(tiny_system: VideoSystem, tmp_path: Path):
    sampler = FreeNoiseSampler(steps=2, guidance=3.0, window=4, stride=2)
    shares = list[float]()
    clip = told(tiny_system, sampler, tmp_path / "clip.npy").tell(shares.append)
    assert np.array_equal(np.load(tmp_path / "clip.npy"), clip)
    assert shares == [0.5, 0.5]
    one_line = told(tiny_system, DDIMSampler(steps=2), tmp_path / "one.npy", script=SCRIPT[:1]).tell(shares.append)
    generate = Generator(tiny_system, DDIMSampler(steps=2), PROMPTS, SampleConfig(frames=6), image=None)
    generate.prompts = [Prompt("clip", PROMPTS[0].text)]  # a script of one line is that prompt
    plain = generate([(0, 0)], lambda share: None)[0]
    assert np.abs(one_line.astype(int) - plain.astype(int)).max() <= 1


def test_a_pipeline_follows_no_script_of_several_texts(tiny_system: VideoSystem):
    cond = Generator(tiny_system, FIFO, PROMPTS, SampleConfig(frames=6), image=None).cond
    asked = dataclasses.replace(cond, asked=("one", "two"))
    with pytest.raises(UserError, match="one text per clip"):
        scripted(asked, SCRIPT, 6)

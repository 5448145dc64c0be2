"""Clips: the same noise whatever the batch, whole files, a sheet and an mp4 for eyes; scoring one step at a time."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from perturb.data.prompts import Prompt
from perturb.diffusion import DDIMSampler
from perturb.diffusion.fifo import FIFOSampler
from perturb.diffusion.freenoise import FreeNoiseSampler
from perturb.errors import UserError
from perturb.metrics import Clip, Context, Format, MetricInfo, Value
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.system import VideoSystem
from perturb.store.records import ScoreRow, read_scores, scores_csv
from perturb.store.rundir import RunDir
from perturb.store.states import step_id
from perturb.store.video import write_contact_sheet, write_mp4
from perturb.study.sample import ClipFormat, Generator, SampleConfig, save_clip
from perturb.study.score import Labels, Sampled, score

PROMPTS = [Prompt("p000", "a red circle moving left slowly"), Prompt("p001", "a blue square moving up fast")]


def clips_of(system: VideoSystem, prompts: list[Prompt], batch_size: int) -> dict[tuple[str, int], np.ndarray]:
    config = SampleConfig(seeds=(0, 1), batch_size=batch_size)
    generate = Generator(system, DDIMSampler(steps=2), prompts, config, image=None)
    frames = [clip for batch in generate.batches for clip in generate(batch, lambda count: None)]
    return dict(zip(generate.samples, frames, strict=True))


def test_a_clip_does_not_depend_on_its_batch_or_on_the_other_prompts(tiny_system: VideoSystem):
    together, alone = clips_of(tiny_system, PROMPTS, 3), clips_of(tiny_system, PROMPTS[1:], 1)
    assert len(together) == 4
    for key, clip in alone.items():
        # float32 sums differ with the batch in the last bits: at most one grey level after truncation
        assert np.abs(clip.astype(int) - together[key].astype(int)).max() <= 1
    assert np.abs(together["p001", 0].astype(int) - together["p001", 1].astype(int)).max() > 1


def test_guidance_leads_away_from_the_negative_prompt(tiny_system: VideoSystem):
    def clip(negative: str, guidance: float = 3.0) -> np.ndarray:
        sampler, config = DDIMSampler(steps=2, guidance=guidance), SampleConfig(negative_prompt=negative)
        generate = Generator(tiny_system, sampler, PROMPTS[:1], config, image=None)
        return generate(generate.jobs, lambda count: None)[0].astype(int)

    # Away from the prompt itself there is nothing to go: o_u = o_c, whatever the scale is.
    same = clip(PROMPTS[0].text)
    assert np.abs(same - clip("", guidance=1.0)).max() <= 1
    assert np.abs(same - clip("")).max() > 1
    assert np.abs(clip(PROMPTS[1].text) - clip("")).max() > 1


def test_the_format_is_the_models_where_left_open(tiny_spec: ModelSpec):
    assert ClipFormat.of(SampleConfig(frames=2), tiny_spec) == ClipFormat(32, 32, 2, 8)
    assert ClipFormat.of(SampleConfig(height=48), tiny_spec).latent(tiny_spec) == (4, 4, 6, 4)
    with pytest.raises(UserError, match=r"sample\.width is 40; allowed for tiny: multiples of 16"):
        ClipFormat.of(SampleConfig(width=40), tiny_spec)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (DDIMSampler(steps=27), "27 sampling steps do not fit"),
        (DDIMSampler(eta=2.0), "eta must lie in"),
        (DDIMSampler(guidance=float("nan")), r"sampler\.guidance is nan"),
        (DDIMSampler(steps="many"), r"sampler\.steps is 'many'"),  # type: ignore[arg-type]
        (FreeNoiseSampler(window=3, stride=2), "4 frames do not fit windows of 3 every 2"),
        (FIFOSampler(window=16), r"at least sampler\.window = 16 frames; 4 are asked for"),
    ],
)
def test_a_sampler_that_cannot_be_is_refused_before_anything_is_fitted(
    sampler: DDIMSampler, message: str, tiny_system: VideoSystem
):
    with pytest.raises(UserError, match=message):
        Generator(tiny_system, sampler, PROMPTS, SampleConfig(), image=None)


def test_mp4_keeps_frames_rate_and_content_and_evens_odd_sizes(tmp_path: Path):
    frames = np.repeat(np.linspace(30, 220, 5).astype(np.uint8), 33 * 47 * 3).reshape(5, 33, 47, 3)
    write_mp4(tmp_path / "clip.mp4", frames, 8)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.video[0].average_rate == 8
        back = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert back.shape == (5, 34, 48, 3)
    assert np.abs(back[:, :33, :47].astype(int) - frames).max() <= 6
    write_contact_sheet(tmp_path / "sheet.png", [frames, frames])
    assert (tmp_path / "sheet.png").stat().st_size > 0
    assert not list(tmp_path.glob(".*"))


class Brightness:
    """A metric of one clip and one of the whole set, by hand: mean level."""

    infos = (MetricInfo("brightness", "visual", "level", (0, 255), "up", (), "mean", "test"),)
    paired, batched = True, False

    def identity(self) -> dict[str, int]:
        return {"version": 1}

    def __call__(self, clips: Sequence[Clip], context: Context) -> dict[str, list[Value]]:
        values = [clip.frames.mean() - context.original(clip).frames.mean() for clip in clips]
        return {"brightness": [Value.of(value) for value in values]}


def test_scores_grow_by_finished_states_and_replace_what_a_killed_process_left(tmp_path: Path):
    run, samples = RunDir(tmp_path), [("p000", 0), ("p001", 0)]
    for step, level in ((0, 10), (5, 30)):
        for prompt, _ in samples:
            save_clip(run.clip(step_id(step), prompt, 0), np.full((2, 4, 4, 3), level, np.uint8))
    stale = ScoreRow("id", "full", "spatial", 0, step_id(5), "p000", 0, "brightness", 99.0)
    run.scores.write_text(scores_csv([stale], [step_id(5)]))
    sampled = Sampled(
        run, Labels("id", "full", "spatial", 0), samples, {}, [step_id(0), step_id(5)], Format(8, 2, 4, 4)
    )
    score([Brightness()], sampled, images=None, cache=None)
    values = [(row.state, row.prompt_id, row.value) for row in read_scores(run.scores)]
    none, five = step_id(0), step_id(5)
    assert values == [(none, "p000", 0.0), (none, "p001", 0.0), (five, "p000", 20.0), (five, "p001", 20.0)]
    content = run.scores.read_bytes()
    run.clip(step_id(5), "p000", 0).unlink()
    score([Brightness()], sampled, images=None, cache=None)
    assert run.scores.read_bytes() == content

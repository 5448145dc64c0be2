"""The Python face: light to import, and what it compares is right."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import perturb
from perturb.errors import UserError
from perturb.metrics import Clip, ClipMetric, MetricInfo, Unavailable

INFO = MetricInfo("brightness", "visual", "", (0, None), "up", (), "mean", "test")


def brightness(clip: Clip, context: object) -> dict[str, float]:
    """The mean of all pixels; unavailable where that is above 200."""
    del context
    if (mean := float(clip.frames.mean())) > 200:
        raise Unavailable("too bright")
    return {"brightness": mean}


BRIGHTNESS = ClipMetric((INFO,), brightness, 1)


def clip(prompt: int, level: int, seed: int = 0) -> Clip:
    return Clip(np.full((2, 16, 16, 3), level, np.uint8), 8, f"p{prompt:03d}", seed, 0, f"prompt {prompt} <b>")


def test_importing_perturb_is_light_and_lazy():
    script = "import sys, perturb; print(perturb.__version__, 'torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1:] == ["False", "False"]
    with pytest.raises(AttributeError, match=r"no attribute 'laod'; it offers .*load"):
        perturb.laod  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_everything_it_offers_is_there_and_documented():
    for name in perturb.__all__:
        found = getattr(perturb, name)
        assert isinstance(found, str) or found.__doc__


def test_a_comparison_is_paired_by_prompt_and_noises_are_averaged_first():
    before = perturb.Clips((clip(0, 10), clip(0, 20, seed=1), clip(1, 40)))
    after = perturb.Clips((clip(1, 46), clip(0, 16), clip(0, 18, seed=1)))
    row = perturb.compare(before, after, [BRIGHTNESS]).loc["brightness"]
    # prompt 0: 15 → 17, prompt 1: 40 → 46; t(1) = 12.706
    assert (row.before, row.after, row.change, row.n) == (27.5, 31.5, 4.0, 2)
    assert row.high - row.change == pytest.approx(12.7062 * 2 * 2**0.5 / 2**0.5, rel=1e-4)
    assert row.reason == ""


def test_what_cannot_be_compared_says_why():
    before, after = [clip(0, 10), clip(1, 10)], [clip(0, 250), clip(1, 10)]
    row = perturb.compare(before, after, [BRIGHTNESS]).loc["brightness"]
    assert (row.change, row.n, row.reason) == (0.0, 1, "1 clips left out: too bright")
    row = perturb.compare(after[:1], after[:1], [BRIGHTNESS]).loc["brightness"]
    assert (row.n, row.reason) == (0, "too bright")
    with pytest.raises(UserError, match="same prompts and seeds"):
        perturb.compare(before, after[:1], [BRIGHTNESS])


def test_clips_show_and_save_themselves(tmp_path: Path):
    clips = perturb.Clips((clip(0, 10), clip(1, 20)))
    shown = clips._repr_html_()
    assert shown.count("data:image/webp") == 2
    assert "prompt 1 &lt;b&gt;" in shown
    t, h, w, _ = clips[0].frames.shape
    assert repr(clips) == f"Clips(2 clips, {t} frames of {h}×{w})"
    assert isinstance(clips[:1], perturb.Clips)
    paths = clips.save(tmp_path)
    assert [path.name for path in paths] == ["p000_s0.npy", "p001_s0.npy"]
    assert (np.load(paths[1]) == 20).all()


def test_mistakes_are_answered_before_anything_is_loaded():
    with pytest.raises(UserError, match=r"'nano' is no model; allowed: .*nano_full"):
        perturb.load("nano")
    with pytest.raises(UserError, match=r"system.checkpoint"):
        perturb.load("videocrafter2")
    with pytest.raises(UserError, match="does not exist"):
        perturb.load("videocrafter2", "nowhere.ckpt")


ADAPTER = Path(__file__).parents[2] / "analysis/notebooks/sample/spatial_full/137fdcdf92/adapters/step_000300"


def test_the_five_lines_of_the_readme():
    model = perturb.load("nano_full", None, "sampler.steps=2")
    with pytest.raises(UserError, match="prompts is"):
        model.sample([])
    prompts = [
        "a red circle moving left slowly on a gray background",
        "a blue star moving up fast on a black background",
    ]
    plain = model.sample(prompts)
    model.lora(ADAPTER)
    before, after = model.sample(prompts, scale=0), model.sample(prompts, scale=1)
    assert all((one.frames == other.frames).all() for one, other in zip(plain, before, strict=True))
    table = perturb.compare(before, after)
    assert table.loc["ssim_drift", "before"] == 0
    assert table.loc["ssim_drift", "after"] > 0.05
    model.original()
    assert all((one.frames == other.frames).all() for one, other in zip(plain, model.sample(prompts), strict=True))


def test_a_command_of_the_same_name_does_not_hide_a_function():
    script = (
        "import perturb, perturb.score\nfrom perturb.compare import main\n"
        "print(perturb.score.__module__, callable(perturb.compare), main.__module__)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["perturb.face", "True", "perturb.compare"]

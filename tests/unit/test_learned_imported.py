"""Metrics that the user brings: a dotted path to a function of one clip."""

from pathlib import Path

import numpy as np
import pytest
from learned_files import scene

from perturb.errors import UserError
from perturb.metrics import Context, Unavailable, learned_metrics
from perturb.metrics.learned.imported import Imported

CLIP = scene(0, prompt="a cat")
CODE = """
def dover(frames, fps, prompt):
    assert frames.dtype == "uint8" and frames.shape[-1] == 3
    if prompt == "boom":
        raise RuntimeError("no face")
    return frames.mean() / 255 + fps + len(prompt)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_dover.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "own_dover.py"


def test_the_users_function_gets_frames_fps_and_prompt(module: Path) -> None:
    metric = Imported("dover_technical", function="own_dover.dover")
    good, bad = metric([CLIP, scene(0, prompt="boom")], Context())["dover_technical"]
    assert good.value == pytest.approx(CLIP.frames.mean() / 255 + 8 + len("a cat"))
    assert (bad.status, bad.reason) == ("failed", "RuntimeError: no face")
    code = metric.identity()["code"]
    assert len(code) == 64
    module.write_text(CODE + "\n")
    assert metric.identity()["code"] != code
    assert np.array_equal(CLIP.frames, scene(0).frames)


def test_without_a_function_it_is_unavailable_and_says_how() -> None:
    with pytest.raises(Unavailable, match=r"metrics\.imported\.dover_technical=module\.function"):
        Imported("dover_technical").identity()


@pytest.mark.parametrize("path", ["own_dover.nothing", "no_such_module.f", "os.sep", "!"])
def test_a_path_that_leads_nowhere_is_named(path: str, module: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.imported\.motion_ac is '"):
        Imported("motion_ac", function=path)([CLIP], Context())


def test_an_unknown_slot_is_an_error() -> None:
    with pytest.raises(UserError, match=r"metrics\.imported\.dover is no such metric; allowed: motion_smoothness"):
        learned_metrics(imported={"dover": "own_dover.dover"})

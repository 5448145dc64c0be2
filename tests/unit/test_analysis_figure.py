"""The figure draws what it is given, and the command writes it."""

import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from analysis_run import make_run, printed
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.console import Console

from perturb.analysis.figure import summary_figure
from perturb.analysis.load import load
from perturb.analysis.plots import curve, frame_strip, magnitude_axis
from perturb.analysis.result import Result
from perturb.analysis.statistics.estimates import Curve, Estimate
from perturb.analysis.summary import main, summarise
from perturb.errors import UserError
from perturb.store.states import step_id


def test_command_writes_the_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, prompts=3)
    assert main([str(run.path)]) == 0
    assert "motion quality ↑" in capsys.readouterr().out
    png = run.figures / "summary.png"
    assert png.read_bytes().startswith(b"\x89PNG")
    assert png.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_without_clips_with_hostile_text_and_drawn_again_only_when_outdated(tmp_path: Path) -> None:
    run = make_run(tmp_path, clips=False)
    values = json.loads(run.manifest_path.read_text())
    values["experiment"] = "[bold]$\\frac{$"
    run.manifest_path.write_text(json.dumps(values))
    assert "[bold]$\\frac{$" in printed(run)

    quiet = Console(file=io.StringIO())
    figure = summarise(run.path, quiet)
    figure.write_bytes(b"kept")
    assert summarise(run.path, quiet).read_bytes() == b"kept"
    os.utime(run.scores)
    assert summarise(run.path, quiet).read_bytes().startswith(b"\x89PNG")


def test_the_figure_of_a_control_says_that_it_is_one(tmp_path: Path) -> None:
    run = make_run(tmp_path, prompts=2, clips=False)
    run.update_manifest(perturbation={"kind": "random", "seed": 3, "reference": {"run": "0123456789"}})
    study = load([run.path])
    figure = summary_figure(Result.of(study, study.runs[0]))
    texts = [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]
    assert "spatial_full · nano · random Δ of the same norm" in texts
    assert any("(seed 3, norms of run 0123456789)" in text for text in texts)


def test_a_broken_clip_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, prompts=1)
    run.clip(step_id(300), "p000", 0).write_bytes(b"x")
    with pytest.raises(UserError, match=r"p000_s0\.npy is not a clip"):
        summarise(run.path, Console(file=io.StringIO()))


def test_curve_draws_what_it_is_given() -> None:
    ax = Figure().subplots()
    curve(
        ax,
        Curve("m", (0, 10, 30), (Estimate(1, 0.5, 4), Estimate(math.nan, math.nan, 0), Estimate(3, 1, 4))),
        colour="k",
    )
    assert np.asarray(ax.lines[0].get_xydata()).tolist() == [[0, 1], [30, 3]]
    band = ax.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == (0.5, 4)


def test_magnitude_axis_labels_probe_steps() -> None:
    ax = Figure().subplots()
    ax.set_xlim(0, 100)
    magnitude_axis(ax, {0: 0.0, 50: 0.012, 100: 0.1}, [0, 50, 100])
    top = ax.child_axes[0]
    assert [tick.get_text() for tick in top.get_xticklabels()] == ["0", "1.2 %", "10 %"]


def test_frame_strip_shows_first_middle_and_last_frame_unsmoothed() -> None:
    clips = {step: np.random.default_rng(step).integers(0, 256, (8, 64, 64, 3), np.uint8) for step in (0, 9)}
    ax = frame_strip(Figure().subplots(), clips, title="a $ b")
    canvas = np.asarray(ax.images[0].get_array())
    period = 256 + 15  # a frame enlarged four times, and the gutter
    for x, step in enumerate(clips):
        for y, t in enumerate((0, 4, 7)):
            cell = canvas[y * period :, x * period :][:256, :256]
            assert np.array_equal(cell[::4, ::4], clips[step][t])
            assert np.array_equal(cell[3::4, 3::4], clips[step][t])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "9"]

"""Comparisons at equal dose and equal visual change, on made-up runs whose motion falls in straight lines."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from coupling_runs import make_study
from rich.console import Console

from perturb.analysis.coupling.design import Design
from perturb.analysis.load import find_runs, load
from perturb.analysis.matched.__main__ import analyse
from perturb.analysis.matched.matched import DOSE, Match, Side, left_out, matches, pseudo
from perturb.analysis.statistics.contrast import Floats

T2 = 4.302652729911275  # t(0.975, 2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    make_study(folder)
    return folder


@pytest.fixture(scope="module")
def found(root: Path) -> list[Match]:
    return list(matches(Design.of(load(find_runs([root])))))


def chosen(found: list[Match], axis: str, scale: str, family: str = "primary") -> list[Match]:
    return [m for m in found if (m.comparison.family, m.axis, m.scale) == (family, axis, scale)]


def test_at_equal_dose_by_hand(found: list[Match]):
    raw = chosen(found, DOSE, "raw")
    assert [match.level for match in raw] == pytest.approx([1.0, 2.0, 3.0, 4.0])  # full went to 8 %, partial to 4 %
    last = raw[-1]  # full at step 50, partial at step 100; rates .31, .32, .33 with both seeds, and .1
    assert last.first.mean() == pytest.approx(0.6 - 0.5 * 0.32)
    assert last.second.mean() == pytest.approx(0.5)
    assert last.difference.over_prompts.mean == pytest.approx(-0.06)
    assert last.difference.over_prompts.half_width == pytest.approx(T2 * 0.005 / 3**0.5)
    assert last.difference.over_seeds.half_width == pytest.approx(12.706204736 * 0.005)  # −.055 and −.065
    assert (last.test.name, last.test.p) == ("sign flip", 0.25)
    share = chosen(found, DOSE, "relative")[-1]
    assert share.first.mean() == pytest.approx(0.44 / 0.6)
    assert share.second.mean() == pytest.approx(0.5 / 0.6)


def test_at_equal_visual_change_by_hand(found: list[Match]):
    raw = chosen(found, "colourfulness", "raw")
    reach = 10.5  # of the partial model without the third prompt: 10 (1 + .1 · .5)
    assert [match.level for match in raw] == pytest.approx([reach * f for f in (0.25, 0.5, 0.75, 1)])
    full, partial = (0.6 - rate * reach / change for rate, change in ((0.32, 13.0), (0.1, 11.0)))
    assert raw[-1].first.mean() == pytest.approx(full)
    assert raw[-1].second.mean() == pytest.approx(partial)
    assert not chosen(found, "lpips_drift", "raw")  # unavailable: nothing to match


def test_a_control_has_the_dose_of_its_lora_and_loses_a_tenth(found: list[Match]):
    control = [m for m in chosen(found, DOSE, "raw", "control") if m.comparison.first.training == "partial"]
    last = next(m for m in reversed(control) if m.comparison.first.condition.group == "spatial")
    assert last.level == pytest.approx(4.0)
    assert (last.first.mean(), last.second.mean()) == pytest.approx((0.5, 0.59))


def test_the_same_way_gives_the_same_comparison_as_the_values_themselves():
    rng = np.random.default_rng(0)
    y: Floats = rng.normal(size=(2, 5, 3))
    assert pseudo(left_out(y)[:, :, 1]) == pytest.approx(y[:, :, 1])
    side = Side.of(y, None, np.array([[0.0, 0.01, 0.02]] * 2))
    assert side.reach == pytest.approx(2.0)
    assert side.at(1.0, "raw") == pytest.approx(y[:, :, 1])
    assert side.at(1.5, "raw") == pytest.approx((y[:, :, 1] + y[:, :, 2]) / 2)
    assert np.isnan(side.at(2.5, "raw")).all()


def test_files(root: Path, tmp_path: Path):
    told = io.StringIO()
    written = analyse([root], tmp_path, Console(file=told))
    assert [path.name for path in written] == ["matched.csv", "matched.png", "matched.pdf"]
    frame = pd.read_csv(written[0])
    assert set(frame.family) == {"primary", "motion", "random", "control"}
    assert (frame.p_holm >= frame.p).all()
    assert set(frame.axis) == {"dose", "colourfulness"}
    assert "full − partial" in told.getvalue()

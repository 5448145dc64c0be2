"""What experiments/coupling says is what its prompts.csv.gz gives, by whoever computes it again."""

import csv
import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from perturb.analysis.statistics.contrast import weights
from perturb.analysis.statistics.endpoints import PairEndpoints, decide, horizon
from perturb.analysis.statistics.endpoints import Path as Model

FOLDER = Path(__file__).parents[2] / "experiments" / "coupling"
STEPS = (0, 20, 50, 100, 200, 300)
Rows = list[dict[str, str]]
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="experiments/ is not part of an installed package")


@pytest.fixture(scope="module")
def rows() -> Rows:
    with gzip.open(FOLDER / "prompts.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def readme() -> str:
    return " ".join((FOLDER / "README.md").read_text(encoding="utf-8").split())


def values(rows: Rows, training: str, group: str, metric: str) -> np.ndarray:
    """s p k: LoRA seed, prompt, step."""
    found = {
        (int(row["lora_seed"]), row["prompt"], int(row["step"])): float(row[metric])
        for row in rows
        if (row["training"], row["group"], row["kind"]) == (training, group, "lora")
    }
    prompts = sorted({prompt for _, prompt, _ in found})
    return np.array([[[found[s, p, k] for k in STEPS] for p in prompts] for s in range(3)])


def test_the_table_of_motion_quality(rows: Rows, readme: str) -> None:
    number = r"(\.\d+) \(\d+ %\)"
    table = re.findall(rf"\| (\d+) \| {number} \| {number} \| {number} \| {number} \|", readme)
    assert [int(step) for step, *_ in table] == list(STEPS)
    cells = [(training, group) for group in ("spatial", "temporal") for training in ("full", "partial")]
    for k, (_, *printed) in enumerate(table):
        for text, cell in zip(printed, cells, strict=True):
            assert values(rows, *cell, "motion_quality")[..., k].mean() == pytest.approx(float(text), abs=0.0007), cell


def test_the_slope_and_its_interval_over_prompts(rows: Rows, readme: str) -> None:
    w = weights([step / 100 for step in STEPS], "slope")
    full, partial = (values(rows, training, "spatial", "motion_quality") @ w for training in ("full", "partial"))
    assert (-full.mean(), -partial.mean()) == pytest.approx((0.091, 0.067), abs=0.0005)
    difference = (full - partial).mean(axis=0)
    half = 2.0395 * difference.std(ddof=1) / 32**0.5  # t(0.975, 31)
    ends = difference.mean(), difference.mean() - half, difference.mean() + half
    assert ends == pytest.approx((-0.024, -0.035, -0.013), abs=0.0006)
    assert "DiD = −.024 (95 % −.035 to −.013 over prompts" in readme


def test_the_endpoints_declared_since(rows: Rows, readme: str) -> None:
    models = [
        Model(
            values(rows, training, "spatial", "motion_quality"),
            values(rows, training, "spatial", "path_jerk"),
            STEPS,
            horizon(None, None, len(STEPS)),
        )
        for training in ("full", "partial")
    ]
    found = decide([PairEndpoints.of(*models)])
    with (FOLDER / "endpoints.csv").open(encoding="utf-8", newline="") as file:
        written = {row["endpoint"]: row for row in csv.DictReader(file)}
    kept, steadier = written["motion kept, full − partial"], written["P(full keeps a steadier path)"]
    ends = found.difference.mean, found.difference.low, found.difference.high
    assert ends == pytest.approx([float(kept[name]) for name in ("mean", "low", "high")], abs=2e-6)
    assert (kept["verdict"], found.kind) == ("one pair", "one pair")
    assert found.superiority is not None
    assert found.superiority.mean == pytest.approx(float(steadier["mean"]), abs=1e-6)
    assert "M_F keeps 28 % of its motion and M_P 28 %: +.001 (95 % −.030 to +.031" in readme
    assert "in 44 % of comparisons (20 to 68 %)" in readme

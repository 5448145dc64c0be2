"""Clips per second of training the nano twins, and where the time of a step goes: on cached latents, and on mp4 files.

Slow, and only true on an idle machine. By hand: pytest -m slow -s tests/bench/test_training_speed.py
PERTURB_BENCH_STEPS sets how many steps are measured; of a few, the first one's share is too large to say anything.
"""

import json
import os
from pathlib import Path

import pytest

from perturb.loop.journal import STEP
from perturb.train import train
from perturb.world.__main__ import main as world
from tests.unit.test_training_plan import composed

STEPS = int(os.environ.get("PERTURB_BENCH_STEPS", "100"))
BATCH = 16
CLIPS = min(256, STEPS * BATCH)
LIMIT = 0.1  # of a step, for data and logging together


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Low-grade clips of the embedded world as mp4 files with a csv."""
    folder = tmp_path_factory.mktemp("world") / "low"
    assert world(["export", "--out", str(folder), "--grade", "low", "--count", str(CLIPS), "--seed", "201"]) == 0
    return folder / "captions.csv"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("recipe", ["full", "partial"])
@pytest.mark.parametrize("source", ["latents", "files"])
def test_data_and_logging_take_less_than_a_tenth_of_a_step(source: str, recipe: str, table: Path, tmp_path: Path):
    data = {
        "latents": [f"data.world.count={CLIPS}"],
        "files": ["data.world=null", "train/video=table", f"data.video.table={table}"],
    }
    settings = [
        f"experiment=train/nano_{recipe}",
        "init=package:weights/nano/image",
        "share=null",
        "validation=null",
        "oracle=0",
        f"stages=[{{steps:{STEPS},batch_size:{BATCH}}}]",
        *(f"{name}={tmp_path / name}" for name in ("work", "output", "cache")),
    ]
    train(composed(*settings, *data[source]))
    card = json.loads((tmp_path / "output" / "training.json").read_text())
    seconds, shares = sum(card["seconds"][name] for name in STEP), card["share_of_step"]
    spent = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    print(f"\n{source}, {recipe}: {STEPS * BATCH / seconds:.1f} clips/s ({seconds / STEPS:.2f} s per step): {spent}")
    assert shares["data"] + shares["logging"] < LIMIT

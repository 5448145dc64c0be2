"""Full training of VideoCrafter2's size on one GPU with 80 GB: seconds and memory at the three published sizes.

CUDA_VISIBLE_DEVICES=0 pytest -m slow -s tests/bench/test_gpu_training.py         40 GB of memory, 50 GB of disk
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from perturb.models.videocrafter.checkpoint import save_system
from perturb.models.videocrafter.spec import ModelSpec
from perturb.train import train
from perturb.world.__main__ import main as world
from tests.bench.full_size import GPU, TINY, measured, random_system
from tests.unit.test_training_plan import composed


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not GPU or TINY, reason="needs a GPU")
def test_training(tiny_spec: ModelSpec, tmp_path: Path):
    """With EMA, bfloat16 and checkpointing, one process."""
    batches = {(256, 256): 4, (320, 512): 2, (576, 1024): 1}
    out = tmp_path / "world"
    assert (
        world(["export", "--out", str(out), "--grade", "low", "--count", "16", "--frames", "96", "--seed", "201"]) == 0
    )
    system = random_system(tiny_spec)
    init = save_system(system, tmp_path / "init")
    del system
    torch.cuda.empty_cache()
    for (height, width), batch in batches.items():
        folder = tmp_path / f"{height}"
        stage = f"{{steps:6,batch_size:{batch},height:{height},width:{width},frames:16}}"
        settings = [
            "experiment=train/full",
            "train/video=table",
            f"data.video.table={out / 'captions.csv'}",
            f"init={init}",
            "init_spec=null",
            f"stages=[{stage}]",
            "loop.sharding=none",
            "loop.save_every=1000",
            *(f"{name}={folder / name}" for name in ("work", "output", "cache")),
        ]
        seconds, memory = measured(lambda settings=settings: train(composed(*settings)))
        card = json.loads((folder / "output" / "training.json").read_text())
        print(f"training {height}×{width}, batch {batch}: {memory}, {seconds:.0f} s with loading and saving,")
        print(f"  seconds of 6 steps: {card['seconds']}, shares {card['share_of_step']}")
        assert card["share_of_step"]["compute"] > 0
        shutil.rmtree(folder)  # 28 GB: weights, average and AdamW's state

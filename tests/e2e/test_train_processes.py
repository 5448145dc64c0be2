"""Two processes against one: the same global batches, the same stream, the same weights; each its own shards."""

import csv
import io
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from perturb.models.videocrafter.checkpoint import load_system, save_system
from perturb.models.videocrafter.system import VideoSystem
from perturb.world.export import encode_png
from tests.e2e.conftest import ROOT, SEARCHED
from tests.e2e.two_processes import LOOP, MIDDLE, STEPS, measure, watch
from tests.unit.data_files import write_shard
from tests.unit.training_case import CAPTIONS, apart, made_up_batches, train_tiny

SHARDS, PER_SHARD = 4, 2
pytestmark = pytest.mark.timeout(900)  # two processes that wait for each other are slow on a busy machine


def write_stills(folder: Path) -> None:
    """Shards of stills, each of another brightness."""
    folder.mkdir(parents=True)
    for number in range(SHARDS):
        files: dict[str, bytes] = {}
        for index in range(PER_SHARD):
            key = number * PER_SHARD + index
            still = np.full((32, 32, 3), 20 * key, dtype=np.uint8)
            files |= {f"{key}.png": encode_png(still), f"{key}.txt": CAPTIONS[key % len(CAPTIONS)].encode()}
        write_shard(folder / f"{number}.tar", files)


@pytest.fixture
def together(tiny_system: VideoSystem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left of three trainings, see two_processes.py; done once for all tests."""
    folder = tmp_path_factory.getbasetemp() / "trainings_together"
    if not folder.exists():
        write_stills(folder / "tars")
        save_system(tiny_system, folder / "model")
        torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "tests.e2e.two_processes"]
        command = [sys.executable, "-m", *torchrun, str(folder / "model"), str(folder), *STEPS]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": SEARCHED}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


def given(folder: Path) -> list[dict[int, Any]]:
    """Step → what was given to the objective, in each of the two processes."""
    return [torch.load(folder / f"given_{rank}.pt", weights_only=True) for rank in range(2)]


def logged(folder: Path, table: str, *columns: str) -> list[float]:
    rows = csv.DictReader(io.StringIO((folder / f"{table}.csv").read_text()))
    return [float(row[column]) for row in rows for column in columns]


def test_two_processes_are_given_and_learn_what_one_is(together: Path, tmp_path: Path):
    system = load_system(together / "model")
    before = {name: tensor.clone() for name, tensor in system.unet.state_dict().items()}
    batches = made_up_batches(system)
    alone = watch(batches)
    validation = measure(system, tmp_path)
    trace = train_tiny(system, tmp_path, loop=LOOP, steps=STEPS["ddp"], batches=batches, validation=validation)
    for way in ("ddp", "fsdp"):
        first, second = given(together / way)
        assert first.keys() == second.keys() == alone.keys() == set(range(STEPS[way]))
        for step, whole in alone.items():  # the global batch, in its order and to the last bit
            halves = zip(first[step]["inputs"], second[step]["inputs"], whole["inputs"], strict=True)
            assert all(torch.equal(torch.cat([one, other]), both) for one, other, both in halves)
        streams = {(together / way / f"stream_{rank}.txt").read_text() for rank in range(2)}
        assert streams == {trace.outcome.stream}
        for table, columns in (("train", ("loss", "lr", "grad_norm")), ("validation", ("loss",))):
            alone_logged = logged(tmp_path, table, *columns)
            assert alone_logged
            assert logged(together / way, table, *columns) == pytest.approx(alone_logged, rel=1e-4)
        assert (together / way / "samples" / "step_000002" / "p0.mp4").is_file()
        assert apart(load_file(together / way / "unet.safetensors"), system.unet.state_dict(), before) < 1e-3


@pytest.mark.parametrize("way", STEPS)
def test_two_processes_go_on_as_they_would_have(way: str, together: Path):
    whole, again = together / way, together / way / "again"
    for ours, theirs in zip(given(whole), given(again), strict=True):  # each process, from its own position
        assert theirs.keys() == set(range(MIDDLE, STEPS[way]))
        for step, was in theirs.items():
            assert was["keys"] == ours[step]["keys"]
            assert all(torch.equal(a, b) for a, b in zip(was["inputs"], ours[step]["inputs"], strict=True))
    assert (whole / "stream_0.txt").read_text() == (again / "stream_1.txt").read_text()
    weights = load_file(again / "unet.safetensors")
    assert all(torch.equal(weights[name], x) for name, x in load_file(whole / "unet.safetensors").items())
    state = whole / "checkpoints" / f"step_{MIDDLE:06d}"
    written = {path.relative_to(state).as_posix() for path in state.rglob("*")}
    assert {
        f"{name}_{rank}.{suffix}" for name, suffix in (("random_states", "pkl"), ("local", "pt")) for rank in (0, 1)
    } <= written
    sharded = {
        f"{part}/__{rank}_0.distcp" for part in ("ema", "pytorch_model_fsdp_0", "optimizer_0") for rank in (0, 1)
    }
    assert (sharded <= written) == (way == "fsdp")


def test_each_process_reads_its_own_shards_and_together_they_read_all(together: Path):
    steps = SHARDS * PER_SHARD // 4  # of an epoch
    keys = [[step["keys"] for step in process.values()] for process in given(together / "shards")]
    epoch = [list(itertools.chain(*process[:steps])) for process in keys]
    assert sorted(epoch[0] + epoch[1]) == sorted(f"{i // PER_SHARD}.tar/{i}" for i in range(SHARDS * PER_SHARD))
    tars = [{key.split("/")[0] for key in process} for process in epoch]
    assert not tars[0] & tars[1]

"""A tiny model, images and prompts on disk, and a way to run the commands on them in real processes."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perturb.models.videocrafter.checkpoint import save_system
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.system import VideoSystem
from perturb.store.rundir import RunDir

CAPTIONS = ("a red circle on a gray background", "a blue square on a white background", "a green star moving fast")
PROMPTS = (
    "a red circle moving left slowly on a gray background",
    "a blue square moving up fast on a white background",
    "a green star moving right slowly on a black background",
    "a yellow triangle moving down fast on a gray background",
)
ROOT = Path(__file__).parents[2]
SEARCHED = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
"""Where commands find this checkout first, wherever the package is installed from."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: return code (negative: the signal) and everything it printed."""

    code: int
    log: str


class Commands:
    """Runs `python -m module arguments` in forked processes; see worker.py."""

    def __init__(self, worker: "subprocess.Popen[str]", folder: Path) -> None:
        self.worker, self.folder = worker, folder

    def __call__(self, module: str, *arguments: object, kill: tuple[str, int, str] | None = None) -> Outcome:
        assert self.worker.stdin is not None
        assert self.worker.stdout is not None
        log = self.folder / "log.txt"
        request = {"module": module, "arguments": [str(a) for a in arguments], "log": str(log), "kill": kill}
        print(json.dumps(request), file=self.worker.stdin, flush=True)
        return Outcome(int(self.worker.stdout.readline()), log.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    folder = tmp_path_factory.mktemp("worker")
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("worker.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": SEARCHED},
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        yield Commands(worker, folder)
        assert worker.stdin is not None
        worker.stdin.close()


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images/ (captioned) and prompts.txt."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "images").mkdir()
    random = np.random.default_rng(0)
    for index, caption in enumerate(CAPTIONS):
        pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        (folder / "images" / f"{index}.txt").write_text(caption)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    return folder


@pytest.fixture(scope="session")
def tiny_spec(tiny_spec: ModelSpec) -> ModelSpec:
    """One level is enough here, where a network is built for every command: half as many layers."""
    unet = dataclasses.replace(tiny_spec.unet, channel_mult=(1,), attention_resolutions=(1,))
    return dataclasses.replace(tiny_spec, unet=unet)


@pytest.fixture
def checkpoint(tiny_system: VideoSystem, inputs: Path) -> Path:
    """The tiny model as a checkpoint folder."""
    folder = inputs / "tiny"
    if not folder.exists():
        save_system(tiny_system, folder)
    return folder


@pytest.fixture
def study(checkpoint: Path, inputs: Path) -> list[str]:
    """The overrides that make a study of seconds."""
    return [
        f"system.checkpoint={checkpoint}",
        "images=folder",
        f"images.folder={inputs / 'images'}",
        "own_images=null",
        f"prompts.file={inputs / 'prompts.txt'}",
        "probe_steps=[0,2,4]",
        "fit.batch_size=2",
        "fit.learning_rate=1e-2",  # four steps must show in eight-bit frames
        "fit.save_every=1",
        "sample.batch_size=2",
        "sampler.steps=2",
        "perturbation.rank=2",
    ]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs that tests share."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def finished(commands: Commands, study: list[str], runs: Path) -> RunDir:
    """The study, uninterrupted; made once for all tests, which leave it as it is."""
    if not list(runs.glob("spatial_full/*/.done/study/all")):
        outcome = commands("perturb.run", *study, f"runs_dir={runs}")
        assert outcome.code == 0, outcome.log
    (path,) = runs.glob("spatial_full/*")
    return RunDir(path)

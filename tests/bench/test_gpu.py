"""VideoCrafter2 at full size with random weights on one GPU: speed and memory of sampling, fitting and training.

Slow: needs a GPU with 80 GB, 40 GB of memory and 50 GB of disk. By hand:
CUDA_VISIBLE_DEVICES=0 pytest -m slow -s tests/bench/test_gpu.py
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perturb.data.images import ImageFolder
from perturb.data.prompts import Prompt
from perturb.diffusion import Conditioning
from perturb.diffusion.ddim import DDIMSampler
from perturb.models.videocrafter.checkpoint import save_system
from perturb.models.videocrafter.published import SPECS
from perturb.models.videocrafter.system import VideoSystem, build_system
from perturb.perturbation.lora import LoraPerturbation
from perturb.store.rundir import RunDir
from perturb.study.fit import FitConfig, Setup, fit
from perturb.study.sample import Generator, SampleConfig
from perturb.train import train
from perturb.world.__main__ import main as world
from tests.unit.test_training_plan import composed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
PROMPT = "a cat surfing on a wave"
GIB = 2**30


@pytest.fixture(scope="module")
def system() -> Iterator[VideoSystem]:
    """Fresh weights; the zero-initialised layers get small ones, so that every layer reaches the output."""
    torch.manual_seed(0)
    system = build_system(SPECS["t2v_512_v2"], device="cuda")
    with torch.no_grad():
        for parameter in system.unet.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(std=0.02)
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}, cuda {torch.version.cuda}")
    yield system
    system.to("cpu")
    torch.cuda.empty_cache()


def measured(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and the peak of GPU memory in GiB."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start, torch.cuda.max_memory_allocated() / GIB


def test_precisions_agree_with_float32_on_the_cpu(system: VideoSystem):
    """Relative error ‖ε̂ − ε̂_cpu‖/‖ε̂_cpu‖ of one forward pass at 4 frames of 16×16 latents."""
    x, t, cond = torch.randn(1, 4, 4, 16, 16), torch.tensor([500]), system.conditioning([PROMPT], fps=24)

    def forward(device: str, dtype: torch.dtype) -> torch.Tensor:
        system.to(device, dtype)
        moved = Conditioning(cond.text.to(device), cond.fps.to(device), None)
        with torch.no_grad():
            return system.denoise(x.to(device), t.to(device), moved).cpu()

    reference = forward("cpu", torch.float32)
    limits = {"float32": 2e-3, "bfloat16": 0.1, "float16": 0.02}
    for name, limit in limits.items():
        weights = {key: value.clone() for key, value in system.unet.state_dict().items()}
        error = (forward("cuda", getattr(torch, name)) - reference).norm() / reference.norm()
        print(f"{name:10s} relative error {error:.1e}")
        system.to("cuda", torch.float32)
        system.unet.load_state_dict(weights)
        assert error < limit


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "float32"), ("float16", "float32")],
)
def test_sampling_one_clip(system: VideoSystem, dtype: str, precision: str):
    """320×512×16 with guidance. A sampler of 15 steps against one of 5 gives the time of a step."""
    weights = {key: value.cpu() for key, value in system.unet.state_dict().items()}
    system.to("cuda", getattr(torch, dtype))
    config = SampleConfig(batch_size=1, precision=precision)  # pyright: ignore[reportArgumentType]
    try:
        seconds, frames = {}, np.empty(0)
        for steps in (5, 5, 15):  # the first one does not count
            generate = Generator(system, DDIMSampler(steps=steps), [Prompt("p", PROMPT)], config, image=None)

            def clip(generate: Generator = generate) -> None:
                nonlocal frames
                frames = generate([(0, 0)], lambda _share: None)

            seconds[steps], peak = measured(clip)
    finally:
        system.to("cuda", torch.float32)
        system.unet.load_state_dict(weights)
    step = (seconds[15] - seconds[5]) / 10
    rest = seconds[5] - 5 * step
    print(f"weights {dtype}, autocast {precision}: {step:.3f} s per guided step, {rest:.2f} s for the frames,")
    print(f"  {50 * step + rest:.1f} s for a clip of 50 steps, peak {peak:.1f} GiB")
    assert frames.shape == (1, 16, 320, 512, 3)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_fitting(system: VideoSystem, tmp_path: Path, checkpointing: bool):
    """LoRA on θ_S with the published settings: batches of 8 stills of 320×512."""
    generator = np.random.default_rng(0)
    for number in range(8):
        pixels = generator.integers(0, 256, (320, 512, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(PROMPT)
    config = FitConfig(
        batch_size=8, learning_rate=1e-4, precision="bfloat16", gradient_checkpointing=checkpointing, cache_latents=True
    )
    seconds = {}
    for steps in (2, 12):
        lora, run = LoraPerturbation(rank=4), RunDir(tmp_path / str(steps))

        def whole(steps: int = steps, lora: LoraPerturbation = lora, run: RunDir = run) -> None:
            images = ImageFolder(folder=str(tmp_path))
            setup = Setup(model=system, partition=system.partition(), images=images, config=config)
            fit(setup, lora, group="spatial", probe_steps=[steps], run=run)

        seconds[steps], peak = measured(whole)
        lora.detach()
    step = (seconds[12] - seconds[2]) / 10
    print(f"fit, checkpointing {checkpointing}: {step:.2f} s per step of 8 stills, peak {peak:.1f} GiB")
    assert (tmp_path / "12" / "adapters").is_dir()


def test_training(system: VideoSystem, tmp_path: Path):
    """Full training with EMA, bfloat16 and checkpointing at the three published sizes, one process."""
    batches = {(256, 256): 4, (320, 512): 2, (576, 1024): 1}
    out = tmp_path / "world"
    assert (
        world(["export", "--out", str(out), "--grade", "low", "--count", "16", "--frames", "96", "--seed", "201"]) == 0
    )
    init = save_system(system, tmp_path / "init")
    system.to("cpu")
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
        seconds, peak = measured(lambda settings=settings: train(composed(*settings)))
        card = json.loads((folder / "output" / "training.json").read_text())
        print(
            f"training {height}×{width}, batch {batch}: peak {peak:.1f} GiB, {seconds:.0f} s with loading and saving,"
        )
        print(f"  seconds of 6 steps: {card['seconds']}, shares {card['share_of_step']}")
        assert card["share_of_step"]["compute"] > 0
        shutil.rmtree(folder)  # 28 GB: weights, average and AdamW's state

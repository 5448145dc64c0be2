"""VideoCrafter2 at full size, with random weights, through the official file: loaded, partitioned, perturbed, stepped.

Slow: needs 16 GB of memory, 8 GB of disk and some minutes. By hand: pytest -m slow -s tests/bench/test_full_size.py
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from perturb.diffusion import epsilon_loss
from perturb.models.partition import Partition
from perturb.models.videocrafter.checkpoint import load_system
from perturb.models.videocrafter.files import write_checkpoint
from perturb.models.videocrafter.keymap import expected_keys
from perturb.models.videocrafter.keymap.diffusion import diffusion_buffers
from perturb.models.videocrafter.published import SPECS
from perturb.models.videocrafter.spec import ModelSpec
from perturb.perturbation.lora import LoraPerturbation

STATUS = Path("/proc/self/status")
PARAMETERS = {  # values and tensors per group of the published network
    "spatial": (863_860_164, 682),
    "temporal": (545_323_136, 794),
    "conditioning": (4_101_120, 8),
    "image": (0, 0),
}


def memory(name: str) -> float:
    """One line of /proc/self/status in GB: VmRSS (now), VmHWM (peak), RssAnon (without the mapped file)."""
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(name)) * 1024e-9


@contextmanager
def measured(what: str) -> Iterator[dict[str, float]]:
    """Prints the time, the peak of resident memory above the start, and how much of the growth is not mapped file."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    start, resident, anonymous = time.perf_counter(), memory("VmRSS"), memory("RssAnon")
    result: dict[str, float] = {}
    yield result
    result |= {"seconds": time.perf_counter() - start, "peak": memory("VmHWM") - resident}
    result["anonymous"] = memory("RssAnon") - anonymous
    values = f"{result['seconds']:7.1f} s, peak +{result['peak']:5.2f} GB, anonymous {result['anonymous']:+5.2f} GB"
    print(f"{what:32s} {values}, resident in all {memory('VmRSS'):5.2f} GB", flush=True)


def random_state(spec: ModelSpec) -> dict[str, Tensor]:
    """Official weights: norms at 1, small noise elsewhere, true diffusion buffers."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in expected_keys(spec).items():
        norm = len(shape) == 1 and key.endswith(".weight")
        state[key] = torch.ones(shape) if norm else torch.empty(shape).uniform_(-0.03, 0.03, generator=generator)
    return state | diffusion_buffers(spec.schedule)


def digests(network: torch.nn.Module, names: list[str]) -> dict[str, str]:
    """SHA-256 of the named parameters."""
    parameters = dict(network.named_parameters())
    return {name: hashlib.sha256(parameters[name].detach().numpy().tobytes()).hexdigest() for name in names}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "model.ckpt"
    try:
        with measured("random weights written"):
            write_checkpoint(path, random_state(SPECS["t2v_512_v2"]))
        yield path
    finally:
        path.unlink(missing_ok=True)  # pytest keeps its folders for a while, and this one is large


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not STATUS.exists(), reason="memory is measured through Linux' /proc")
def test_full_size_model_from_file_to_one_step(checkpoint: Path):
    size = checkpoint.stat().st_size * 1e-9
    print(f"\n{checkpoint.name}: {size:.2f} GB")
    with measured("loaded (checked and hashed)") as loading:
        system = load_system(checkpoint, dtype="float32")
    assert system.spec == SPECS["t2v_512_v2"]
    assert loading["peak"] < 1.2 * size
    assert loading["anonymous"] < 0.05 * size

    with measured("partitioned"):
        partition = Partition.of(system.unet)
    counts = {group: (partition.count(group), len(partition.names(group))) for group in partition.groups}
    assert counts == PARAMETERS

    frozen = [partition.names(group)[5] for group in ("spatial", "temporal", "conditioning")]
    before = digests(system.unet, frozen)
    with measured("LoRA attached to spatial, r = 4"):
        lora = LoraPerturbation(rank=4)
        lora.attach(system.unet, partition, "spatial", seed=0)
        optimizer = torch.optim.AdamW(lora.parameters(), lr=1e-3)
    values = sum(p.numel() for p in lora.parameters())
    print(f"LoRA: {len(partition.layers('spatial'))} layers, {values:,} values")

    with measured("prompt embedded"):
        cond = system.conditioning(["a cat surfing on a wave"], fps=24)
    latents, noise = torch.randn(1, 4, 2, 16, 16), torch.randn(1, 4, 2, 16, 16)
    with measured("one step at 16×16 latents, 2 frames"):
        loss = epsilon_loss(system.denoise, system.schedule, latents, torch.tensor([500]), noise, cond).mean()
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
    lora.detach()
    moved = [bool((p.grad != 0).any()) for p in optimizer.param_groups[0]["params"] if p.grad is not None]
    assert sum(moved) >= len(moved) / 2 > 0  # A has no gradient while B is zero, every B has one
    assert digests(system.unet, frozen) == before
